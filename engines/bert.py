"""The BERT architecture: what its configuration says, and which tensors there have to be.

Source: the `config.json` and the tensor names of Hugging Face's `BertModel`,
`BertForSequenceClassification` and `BertForTokenClassification`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from aigrid.engines.safetensors import SafetensorsFile
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

GRAPH_VERSION: Final = 1
"""Of the graph that `bert_graph` builds."""
ACTIVATIONS: Final = frozenset({"gelu", "relu", "gelu_new", "gelu_pytorch_tanh"})
_HEADS: Final[Mapping[str, str]] = {
    "BertModel": "",
    "BertForSequenceClassification": "sequence",
    "BertForTokenClassification": "tokens",
}
_PREFIX: Final = "bert."

_Count = Annotated[int, Meta(ge=1, le=2**24)]


class _Config(msgspec.Struct, frozen=True):
    hidden_size: Annotated[int, Meta(ge=1, le=2**16)]
    num_hidden_layers: Annotated[int, Meta(ge=1, le=1024)]
    num_attention_heads: Annotated[int, Meta(ge=1, le=1024)]
    intermediate_size: Annotated[int, Meta(ge=1, le=2**18)]
    max_position_embeddings: _Count
    vocab_size: _Count
    type_vocab_size: Annotated[int, Meta(ge=1, le=1024)] = 2
    layer_norm_eps: Annotated[float, Meta(gt=0, lt=1)] = 1e-12
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"
    is_decoder: bool = False
    architectures: Annotated[tuple[str, ...], Meta(max_length=16)] | None = None


@dataclass(frozen=True, slots=True)
class BertConfig:
    """A model that can be built.

    Attributes:
        head: "" for vectors of tokens, "sequence" or "tokens" for classes of one or the other.
        classes: how many the head has; 0 without one.
        prefix: what stands before the encoder's own names in the file.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    positions: int
    vocabulary: int
    types: int
    epsilon: float
    activation: str
    head: str = ""
    classes: int = 0
    prefix: str = ""


def read_config(said: Mapping[str, Any], file: SafetensorsFile) -> BertConfig:
    """Check a configuration, and that the file has the tensors that it asks for.

    Raises:
        EngineError: `unsupported_model`, naming what is not supported or what is missing.
    """
    kind = said.get("model_type")
    if kind != "bert":
        raise _unsupported(f"the architecture {str(kind)[:64]!r} is not supported, only 'bert'")
    try:
        config = msgspec.convert(said, _Config)
    except msgspec.ValidationError as error:
        raise _unsupported(f"config.json: {error}") from None
    if config.hidden_act not in ACTIVATIONS:
        raise _unsupported(f"the activation {config.hidden_act[:64]!r} is not supported")
    if config.position_embedding_type != "absolute" or config.is_decoder:
        raise _unsupported("only encoders with absolute positions are supported")
    if config.hidden_size % config.num_attention_heads:
        raise _unsupported(
            f"a width of {config.hidden_size} cannot be split in {config.num_attention_heads} heads"
        )
    architecture = (config.architectures or ("BertModel",))[0]
    if architecture not in _HEADS:
        raise _unsupported(
            f"{architecture[:64]!r} is not supported; {', '.join(sorted(_HEADS))} are"
        )
    return _checked(config, _HEADS[architecture], file)


def _checked(config: _Config, head: str, file: SafetensorsFile) -> BertConfig:
    prefix = _PREFIX if f"{_PREFIX}embeddings.word_embeddings.weight" in file.tensors else ""
    classifier = file.tensors.get("classifier.weight")
    classes = classifier.shape[0] if head and classifier and classifier.shape else 0
    made = BertConfig(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        hidden=config.intermediate_size,
        positions=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        types=config.type_vocab_size,
        epsilon=config.layer_norm_eps,
        activation=config.hidden_act,
        head=head,
        classes=classes,
        prefix=prefix,
    )
    if head and not 0 < classes <= LIMITS.task_labels_max:
        raise _unsupported(f"a head for {classes} classes is not supported")
    for name, shape in shapes(made).items():
        tensor = file.tensors.get(name)
        if tensor is None:
            raise _unsupported(f"the tensor {name!r} is missing")
        if tensor.shape != shape:
            raise _unsupported(f"{name} is {list(tensor.shape)}, config.json wants {list(shape)}")
    return made


def shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a graph is built from, by its name in the file."""
    width, hidden, prefix = config.width, config.hidden, config.prefix
    found: dict[str, tuple[int, ...]] = {
        f"{prefix}embeddings.word_embeddings.weight": (config.vocabulary, width),
        f"{prefix}embeddings.position_embeddings.weight": (config.positions, width),
        f"{prefix}embeddings.token_type_embeddings.weight": (config.types, width),
    }
    matrices: list[tuple[str, int, int]] = []
    norms = [f"{prefix}embeddings.LayerNorm"]
    for layer in range(config.layers):
        at = f"{prefix}encoder.layer.{layer}."
        parts = ("self.query", "self.key", "self.value", "output.dense")
        matrices += [(f"{at}attention.{part}", width, width) for part in parts]
        matrices += [
            (f"{at}intermediate.dense", hidden, width),
            (f"{at}output.dense", width, hidden),
        ]
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    if config.head == "sequence":
        matrices.append((f"{prefix}pooler.dense", width, width))
    if config.head:
        matrices.append(("classifier", config.classes, width))
    for name, rows, columns in matrices:
        found |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name in norms:
        found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return found


def _unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)
