"""Task mappings: how typed input becomes a model's tensors, and its tensors a typed answer.

A mapping is data that a contributor declares; nobody's code runs but the node's. It is part of what
a model *is* (see `model`), since another mapping gives other answers. What typed input and output
look like is said by the task's capability: its input and output schema.

Empty names and zeros stand for "not used". A mapping has the inputs that its task needs: text,
an image, a sound, a table or plain bytes; `output` says what is made of the tensors.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import PRINTABLE

ALSO_DOES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"feature-extraction": ("sentence-similarity", "text-ranking")}
)
"""What else a model mapped for a task can do, for whoever has vectors can compare them."""

WRITTEN: Final = frozenset({"translation", "summarization"})
"""Tasks whose answer is a text that the model writes."""

OptionalFile = Annotated[
    str,
    Meta(max_length=LIMITS.name_max_chars, pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*)?\Z"),
]
TensorName = Annotated[str, Meta(max_length=LIMITS.tensor_name_max_chars, pattern=PRINTABLE)]
Template = Annotated[str, Meta(max_length=LIMITS.mapping_template_max_chars)]
LabelText = Annotated[str, Meta(max_length=LIMITS.name_max_chars, pattern=PRINTABLE)]
# Decimal text: a number with a fraction has several spellings in JSON and RDF, a text has one.
Decimal = Annotated[
    str, Meta(max_length=24, pattern=r"^-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?(e-?[0-9]{1,2})?\Z")
]
Decimals = Annotated[tuple[Decimal, ...], Meta(max_length=4)]
Side = Annotated[int, Meta(ge=1, le=LIMITS.image_side_max)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class TextInput(_Part, frozen=True):
    """Text to token ids.

    Attributes:
        tokenizer: a file in the format of the `tokenizers` library, or "" where the model's own
            file holds one (GGUF).
        max_tokens: longer input is refused, or cut where `truncate` is set.
        ids, mask, types: names of the input tensors, int64 [batch, tokens]; `mask` and `types` may
            be "" where the model has none.
        template: what the text is put into, `{text}` standing for it; for zero-shot
            classification the hypothesis, `{label}` standing for the label.
    """

    tokenizer: OptionalFile = ""
    max_tokens: Annotated[int, Meta(ge=0, le=2**20)] = 0
    truncate: bool = False
    ids: TensorName = "input_ids"
    mask: TensorName = "attention_mask"
    types: TensorName = ""
    template: Template = ""


class ImageInput(_Part, frozen=True):
    """An image to one float tensor [1, channels, height, width], or with the channels last.

    Attributes:
        tensor: its name; "" where the model has one input only.
        resize: "stretch" to the size, "crop" the middle after scaling the shorter side, or "pad"
            with black after scaling the longer one.
        shorter: what the shorter side is scaled to before "crop" cuts the size out of the middle;
            0 for as little as possible.
        resample: how pixels are made of others when an image is scaled.
        channels: "rgb", "bgr" or "gray".
        layout: "nchw" or "nhwc".
        divisor: what a pixel of 0 to 255 is divided by, before
        mean, std: one number per channel, subtracted and divided by; empty for none.
    """

    width: Side
    height: Side
    tensor: TensorName = ""
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    shorter: Annotated[int, Meta(ge=0, le=LIMITS.image_side_max)] = 0
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    divisor: Decimal = "255"
    mean: Decimals = ()
    std: Decimals = ()


class AudioInput(_Part, frozen=True):
    """Sound to windows of mono samples, float32 in [-1, 1].

    Attributes:
        tensor: its name, [1, context + window]; "" where the model has one input only.
        sample_rate: in hertz; other rates are resampled.
        window_samples: samples per run; 0 for all at once.
        context_samples: samples of the window before, put in front.
        rate_tensor: gets the sample rate, int64, where the model wants it.
        state_tensor, state_output: what a run hands to the next; `state_shape` is its shape.
    """

    sample_rate: Annotated[int, Meta(ge=1000, le=384_000)]
    tensor: TensorName = ""
    window_samples: Annotated[int, Meta(ge=0, le=2**24)] = 0
    context_samples: Annotated[int, Meta(ge=0, le=2**16)] = 0
    rate_tensor: TensorName = ""
    state_tensor: TensorName = ""
    state_output: TensorName = ""
    state_shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=4096)], ...], Meta(max_length=4)] = ()


class Feature(_Part, frozen=True):
    """A column. A text of `categories` becomes its position; without categories it is a number."""

    name: Annotated[LabelText, Meta(min_length=1)]
    categories: Annotated[tuple[LabelText, ...], Meta(max_length=LIMITS.task_labels_max)] = ()


class TableInput(_Part, frozen=True):
    """Rows to one float32 tensor [rows, features], or a series to windows of it.

    Attributes:
        tensor: its name; "" where the model has one input only.
        window: for a series: how many consecutive values make one row; 0 for a table.
    """

    features: Annotated[tuple[Feature, ...], Meta(max_length=LIMITS.task_features_max)] = ()
    tensor: TensorName = ""
    window: Annotated[int, Meta(ge=0, le=2**16)] = 0


class BytesInput(_Part, frozen=True):
    """The beginning and the end of a file to one int32 tensor [1, begin + end].

    White space around is stripped first; what is missing is `padding`.
    """

    begin: Annotated[int, Meta(ge=0, le=2**20)]
    end: Annotated[int, Meta(ge=0, le=2**20)] = 0
    block: Annotated[int, Meta(ge=0, le=2**24)] = 0
    padding: Annotated[int, Meta(ge=0, le=65535)] = 256
    tensor: TensorName = ""


class TaskOutput(_Part, frozen=True):
    """What is made of the output tensors.

    Attributes:
        tensor: its name; "" where the model has one output only.
        labels: of the last axis; or one per line in the file `labels_file`.
        activation: turns what the model puts out into scores.
        pooling: how token vectors become one, where the model gives one for each.
        normalize: scale vectors to length 1.
        top: how many labels an answer names at most; 0 for all.
        threshold: the least score that counts (voice activity, anomalies).
        greater_is_anomalous: which way an anomaly score points.
    """

    tensor: TensorName = ""
    labels: Annotated[tuple[LabelText, ...], Meta(max_length=LIMITS.task_labels_max)] = ()
    labels_file: OptionalFile = ""
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    pooling: Literal["none", "mean", "cls", "last", "max"] = "none"
    normalize: bool = False
    top: Annotated[int, Meta(ge=0, le=LIMITS.task_labels_max)] = 0
    threshold: Decimal = "0"
    greater_is_anomalous: bool = True


class TaskMapping(_Part, frozen=True):
    """All of it. At most one of `image`, `audio`, `table` and `bytes` is given."""

    text: TextInput | UnsetType = UNSET
    image: ImageInput | UnsetType = UNSET
    audio: AudioInput | UnsetType = UNSET
    table: TableInput | UnsetType = UNSET
    bytes: BytesInput | UnsetType = UNSET
    output: TaskOutput = TaskOutput()


def files_of(mapping: TaskMapping | UnsetType) -> tuple[str, ...]:
    """The files that a mapping needs beside the model's own."""
    if mapping is UNSET:
        return ()
    tokenizer = "" if mapping.text is UNSET else mapping.text.tokenizer
    return tuple(dict.fromkeys(name for name in (tokenizer, mapping.output.labels_file) if name))
