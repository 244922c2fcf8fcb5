"""Text generation from any GGUF that llama.cpp knows, by the package llama-cpp-python.

For architectures, tokenizers and weights that `onnx_text` does not take, and for accelerators where
the package was built for them. What llama.cpp gets is a file whose header was checked.

Options of the model:
    context: tokens that a conversation may have; by default the model's own, at most 4096.
    gpu_layers: layers that go to an accelerator; by default all, where the build has one that
        could ever hold them. The model is on one accelerator, or on none.
    reuse_prefix: keep the last conversation's keys and values for the next (default). A caller can
        tell from the time to the first token whether the last one began with the same words.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aigrid.engines import gguf
from aigrid.engines.base import (
    CancelToken,
    Device,
    EngineStats,
    Estimate,
    ModelSource,
    Probe,
    check_options,
    model_file,
    wrong_task,
)
from aigrid.engines.counting import Tally
from aigrid.engines.devices import (
    CONTEXT_BYTES,
    DRIVER_BYTES,
    choose,
    devices,
    resident_bytes,
)
from aigrid.engines.llama_cpp_model import (
    PREFILL_CHUNK,
    LlamaDecoder,
    LlamaModel,
    LlamaVocabulary,
    Run,
    accelerators,
)
from aigrid.engines.text_generate import TAKES, answer
from aigrid.engines.text_options import context_tokens, flag
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TextRequest
from aigrid.protocol.limits import MIB

if TYPE_CHECKING:
    from aigrid.engines.chat_template import ChatTemplate

_PACKAGE: Final = "llama-cpp-python"
_RUNTIME_BYTES: Final = 128 * MIB
_HALF_BYTES: Final = 2  # keys and values are kept in float16
_LARGEST: Final = 1 << 24


REFUSES: Final = ("models without a tokenizer in their file, and encoders: they write no text",)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file whose header was checked."""

    path: Path
    buffer: mmap.mmap
    model: gguf.GgufFile


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: int
    tokenizer: LlamaVocabulary
    template: "ChatTemplate | None"
    decoder: LlamaDecoder


class LlamaCppEngine:
    """One model, one conversation at a time."""

    name = "llama_cpp"

    def __init__(self) -> None:
        self._opened: _Opened | None = None
        self._loaded: _Loaded | None = None
        self._chosen: tuple[Device | None] | None = None
        self._tally = Tally()

    def probe(self) -> Probe:
        problem, found, places = "", "", devices()
        try:
            found = version(_PACKAGE)
            places = (*places, *accelerators())
        except PackageNotFoundError:
            problem = f"{_PACKAGE} is not installed: pip install 'aigrid-node[llama_cpp]'"
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            problem = f"{_PACKAGE} cannot be used: {error}"[:300]
        tasks = ("text-generation",)
        return Probe(
            self.name,
            found,
            ("gguf",),
            tasks,
            places,
            problem,
            fallback=True,
            refuses=REFUSES,
            takes=TAKES,
        )

    def estimate(self, source: ModelSource) -> Estimate:
        check_options(source, "context", "reuse_prefix", "gpu_layers")
        opened = self._open(source)
        model, kind = opened.model, opened.model.text("general.architecture")
        context = context_tokens(
            source, model.integer(f"{kind}.context_length", low=1, high=_LARGEST)
        )
        layers = _gpu_layers(source)
        shape = _Shape(model, kind)
        # Logits and the widest layer for each token of a chunk, and its row of attention scores.
        work = 4 * PREFILL_CHUNK * (shape.vocabulary + 8 * shape.hidden + shape.heads * context)
        weights = sum(tensor.size_bytes for tensor in model.tensors.values())
        kept = context * shape.kept_bytes_per_token
        on_host = Estimate(
            # Twice, because weights are mapped from a file and packed again for the processor.
            _RUNTIME_BYTES + 2 * weights + kept + work,
            context_tokens=context,
            precision=_precision(model),
        )
        largest = max((tensor.size_bytes for tensor in model.tensors.values()), default=0)
        taken = offloaded_bytes(weights + kept, largest, layers, shape.layers) + work
        return self._placed(source, on_host, layers, taken)

    def _placed(
        self, source: ModelSource, on_host: Estimate, layers: int, device_bytes: int
    ) -> Estimate:
        """The estimate for where the model goes, which takes so much of an accelerator.

        That is chosen once: who was told one device shall not find the model on another.
        """
        taken = CONTEXT_BYTES + device_bytes
        if self._chosen is None:
            able = accelerators() if layers else ()
            self._chosen = (choose(able, lambda _: taken, source.room),)
        (device,) = self._chosen
        if device is None:
            return on_host
        # Layers that do not go there, and the table of tokens, stay with the processor.
        beside = on_host.memory_bytes + DRIVER_BYTES
        return replace(on_host, memory_bytes=taken, device=device.place, host_bytes=beside)

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        from aigrid.engines.chat_template import ChatTemplate

        estimate, opened = self.estimate(source), self._open(source)
        context = estimate.context_tokens
        (device,) = self._chosen or (None,)
        layers = _gpu_layers(source)
        model = LlamaModel(
            opened.path, context=context, threads=threads, layers=layers, device=device
        )
        tokenizer, template = LlamaVocabulary(model), None
        if "tokenizer.chat_template" in opened.model.metadata:
            template = ChatTemplate(
                opened.model.text("tokenizer.chat_template"),
                bos=tokenizer.text_of(tokenizer.bos),
                eos=tokenizer.text_of(tokenizer.eos),
            )
        reuse = flag(source, "reuse_prefix", default=True)
        decoder = LlamaDecoder(model, tokenizer.size, reuse=reuse)
        self._loaded = _Loaded(context, tokenizer, template, decoder)
        self._opened = None  # the header with its 100,000 strings is not needed again
        # Of the weights that are mapped few have been read yet.
        resident = resident_bytes()
        if not resident or device is not None:
            return estimate
        known = resident + model.size_bytes
        return replace(estimate, memory_bytes=min(estimate.memory_bytes, known))

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        if not isinstance(request, TextRequest):
            raise wrong_task(self.name, request)
        if self._loaded is None:
            raise EngineError("no model is loaded", Code.ENGINE_FAILED)
        vocabulary = self._loaded.tokenizer.size
        return answer(self._loaded, request, Run(cancel), self._tally, vocabulary=vocabulary)

    def stats(self) -> EngineStats:
        return self._tally.stats

    def unload(self) -> None:
        self._loaded = self._opened = None

    def _open(self, source: ModelSource) -> _Opened:
        path = model_file(source, "gguf")
        if self._opened is None or self._opened.path != path:
            buffer = gguf.map_file(path)
            self._opened = _Opened(path, buffer, gguf.parse(buffer))
        return self._opened


class _Shape:
    """What decides how much memory a model needs; whatever its header leaves out counts as wide."""

    def __init__(self, model: gguf.GgufFile, kind: str) -> None:
        def integer(name: str, default: int) -> int:
            """A setting; the largest where each layer has its own."""
            value = model.metadata.get(f"{kind}.{name}", default)
            numbers = value if isinstance(value, tuple) else (value,)
            found = [n for n in numbers if type(n) is int and 0 <= n <= _LARGEST]
            return max(found, default=default)

        width = model.integer(f"{kind}.embedding_length", low=1, high=_LARGEST)
        layers = model.integer(f"{kind}.block_count", low=1, high=1024)
        tokens = model.metadata.get("tokenizer.ggml.tokens")
        self.layers = layers
        self.vocabulary = len(tokens) if isinstance(tokens, tuple) else _LARGEST // 64
        self.hidden = max(width, integer("feed_forward_length", 4 * width))
        self.heads = max(1, integer("attention.head_count", 1))
        head = width // self.heads
        each = integer("attention.key_length", head) + integer("attention.value_length", head)
        shared = integer("attention.head_count_kv", self.heads)
        self.kept_bytes_per_token = layers * shared * each * _HALF_BYTES


def offloaded_bytes(whole: int, largest: int, wanted: int, layers: int) -> int:
    """What `wanted` of a model's layers take; what comes after the last counts as one, too.

    `whole`: all weights, keys and values. `largest` of the tensors: layers are not alike.
    """
    if not 0 <= wanted <= layers:
        return whole
    return min(whole, -(-whole * wanted // (layers + 1)) + largest)


def _gpu_layers(source: ModelSource) -> int:
    wanted = source.options.get("gpu_layers", -1)
    if type(wanted) is not int or not -1 <= wanted <= 1024:
        raise EngineError("the option gpu_layers must be a number", Code.UNSUPPORTED_MODEL)
    return wanted


def _precision(model: gguf.GgufFile) -> str:
    """The type that most of the weights have."""
    counted = Counter[str]()
    for tensor in model.tensors.values():
        counted[tensor.type.name.lower()] += prod(tensor.dims)
    if not counted:
        raise EngineError("the model has no weights", Code.UNSUPPORTED_MODEL)
    return counted.most_common(1)[0][0]
