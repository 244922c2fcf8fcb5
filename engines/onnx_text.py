"""Text generation from a llama-family GGUF on plain onnxruntime, on the CPU.

Conversations that are answered at once share each step (`batching`); each has its own keys and
values, from a common memory of `batch_positions` tokens, or one context where that is more.

The architectures are `llama` and `qwen2`, with a tokenizer of byte-level BPE. Quantised weights
stay in 4 or 8 bits; F16 and BF16 are widened to float32, which the estimate counts.

Options of the task mapping:
    context: tokens that a conversation may have; by default the model's own, at most 4096.
    slots: conversations that are answered at once; by default 8, fewer where a worker may not
        reserve the addresses for as many.
    spin: whether waiting threads burn their core; by default where a core is left to others.
    exact_inputs: compute quantised matrices with float32 inputs instead of 8-bit blocks; slower,
        and very much so for Q5, Q6 and Q8 types, whose matrices are then widened at each step. By
        default on processors that would get sums of bytes wrong (x86 without VNNI).
    reuse_prefix: keep the last conversations' keys and values for the next (default). A caller can
        tell from the time to the first token whether one of them began with the same words.
"""

import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aigrid.engines import gguf, gguf_quant
from aigrid.engines.base import (
    CancelToken,
    EngineStats,
    Estimate,
    ModelSource,
    Probe,
    check_options,
    wrong_task,
)
from aigrid.engines.batched_sequence import BatchedSequence
from aigrid.engines.batching import Batch
from aigrid.engines.counting import Tally
from aigrid.engines.devices import devices, resident_bytes
from aigrid.engines.devices.host import sums_of_bytes_saturate
from aigrid.engines.graph_cache import content_key, discard, graph_directory
from aigrid.engines.llama import (
    EMBEDDING,
    ROPE_FACTORS,
    LlamaConfig,
    layer_matrices,
    read_config,
)
from aigrid.engines.onnx_decoder import PREFILL_CHUNK, Rows, Run, open_session, spins
from aigrid.engines.text_generate import TAKES, answer
from aigrid.engines.text_options import context_tokens, flag, slots_of
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TextRequest
from aigrid.protocol.limits import LIMITS

if TYPE_CHECKING:
    from aigrid.engines.chat_template import ChatTemplate
    from aigrid.engines.gguf_tokenizer import GgufTokenizer

REFUSES: Final = (
    "architectures other than llama and qwen2: their graph is not known here",
    "the quantisations IQ*, TQ* and MXFP4: not supported",
    "tokenizers other than byte-level BPE: not supported",
)
_RUNTIME_BYTES: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file whose header was checked."""

    path: Path
    buffer: mmap.mmap
    model: gguf.GgufFile
    config: LlamaConfig


@dataclass(frozen=True, slots=True)
class _Loaded:
    config: LlamaConfig
    context: int
    tokenizer: "GgufTokenizer"
    template: "ChatTemplate | None"
    batch: Batch[Run]


@dataclass(frozen=True, slots=True)
class _Speaker:
    """What answers one request."""

    context: int
    tokenizer: "GgufTokenizer"
    template: "ChatTemplate | None"
    decoder: BatchedSequence[Run]


class OnnxTextEngine:
    """One model, and as many conversations at once as it has slots."""

    name = "onnx_text"
    preimports = ("onnxruntime", "aigrid.engines.chat_template", "aigrid.engines.gguf_tokenizer")

    def __init__(self) -> None:
        self._opened: _Opened | None = None
        self._loaded: _Loaded | None = None
        self._tally = Tally()

    def probe(self) -> Probe:
        problem, found = "", ""
        try:
            found = version("onnxruntime")
            import onnxruntime  # noqa: F401 - the question is whether it can be loaded here
        except (ImportError, OSError, PackageNotFoundError) as error:
            problem = f"onnxruntime cannot be used: {error}"
        tasks = ("text-generation",)
        return Probe(
            self.name, found, ("gguf",), tasks, devices(), problem, refuses=REFUSES, takes=TAKES
        )

    def estimate(self, source: ModelSource) -> Estimate:
        check_options(source, "context", "slots", "spin", "exact_inputs", "reuse_prefix")
        opened = self._open(source)
        context = context_tokens(source, opened.config.context)
        slots = slots_of(source)
        config, tensors = opened.config, opened.model.tensors.values()
        weights = sum(gguf_quant.unpacked_bytes(tensor) for tensor in tensors)
        # What the widest layer and the attention scores take while a chunk is computed.
        work = 4 * PREFILL_CHUNK * (8 * config.hidden + config.heads * context)
        return Estimate(
            # Twice, because weights are mapped from a file and packed again for the processor.
            memory_bytes=_RUNTIME_BYTES
            + 2 * weights
            + opened.model.tensors[EMBEDDING].size_bytes
            + _positions(slots, context) * config.kv_bytes_per_token
            + 4 * context * config.head_size
            + 4 * slots * config.vocabulary
            + work,
            slots=slots,
            context_tokens=context,
            precision=_precision(opened),
        )

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        from aigrid.engines.chat_template import ChatTemplate
        from aigrid.engines.gguf_tokenizer import GgufTokenizer

        estimate, opened = self.estimate(source), self._open(source)
        accuracy = 1 if flag(source, "exact_inputs", default=sums_of_bytes_saturate()) else 4
        # Hashing lets go of the interpreter lock, so it costs nothing beside the tokenizer.
        with ThreadPoolExecutor(1) as pool:
            key = pool.submit(content_key, opened.buffer, accuracy)
            tokenizer = GgufTokenizer(opened.model, opened.config.vocabulary)
            template = None
            if "tokenizer.chat_template" in opened.model.metadata:
                template = ChatTemplate(
                    opened.model.text("tokenizer.chat_template"),
                    bos=tokenizer.text_of(tokenizer.bos),
                    eos=tokenizer.text_of(tokenizer.eos),
                )
        rows = _rows(opened, source, estimate, key.result(), accuracy=accuracy, threads=threads)
        estimate = replace(estimate, slots=len(rows.logits))
        batch = Batch(
            rows,
            Run(CancelToken()),
            rows=estimate.slots,
            chunk=PREFILL_CHUNK,
            room=_positions(estimate.slots, estimate.context_tokens),
            reuse=flag(source, "reuse_prefix", default=True),
        )
        self._loaded = _Loaded(opened.config, estimate.context_tokens, tokenizer, template, batch)
        # Hashing and building read all of the file; answering takes a row of it per token.
        gguf.release(opened.buffer)
        positions = _positions(estimate.slots, estimate.context_tokens)
        reserved = positions * opened.config.kv_bytes_per_token
        resident = resident_bytes()
        # The header with its 100,000 strings is not needed again.
        self._opened = None
        return replace(estimate, memory_bytes=resident + reserved) if resident else estimate

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        if not isinstance(request, TextRequest):
            raise wrong_task(self.name, request)
        if self._loaded is None:
            raise EngineError("no model is loaded", Code.ENGINE_FAILED)
        return self._answer(self._loaded, request, Run(cancel))

    def _answer(self, loaded: _Loaded, request: TextRequest, run: Run) -> Iterator[InferChunk]:
        vocabulary = loaded.config.vocabulary
        sequence = BatchedSequence(loaded.batch)
        try:
            speaker = _Speaker(loaded.context, loaded.tokenizer, loaded.template, sequence)
            yield from answer(speaker, request, run, self._tally, vocabulary=vocabulary)
        finally:
            sequence.leave()

    def stats(self) -> EngineStats:
        return self._tally.stats

    def unload(self) -> None:
        self._loaded = self._opened = None

    def _open(self, source: ModelSource) -> _Opened:
        path = _gguf_path(source)
        if self._opened is None or self._opened.path != path:
            buffer = gguf.map_file(path)
            model = gguf.parse(buffer)
            self._opened = _Opened(path, buffer, model, read_config(model))
        return self._opened


def _positions(slots: int, context: int) -> int:
    """How many keys and values all conversations may hold together.

    A row is reserved for each in full length, and memory for this many: few are that long at once.
    """
    return min(slots * context, max(context, LIMITS.batch_positions))


def _rows(
    opened: _Opened,
    source: ModelSource,
    estimate: Estimate,
    key: str,
    *,
    accuracy: int,
    threads: int,
) -> Rows:
    """Open a session, if need be on a graph built anew, and give it its buffers."""
    threads = max(1, threads)
    spin = flag(source, "spin", default=spins(threads))
    session = _session(opened, source.cache_directory, key, accuracy, threads, spin=spin)
    rows = gguf_quant.raw_rows(opened.buffer, opened.model.tensors[EMBEDDING])
    kind = opened.model.tensors[EMBEDDING].type.name
    factors = None
    if ROPE_FACTORS in opened.model.tensors:
        raw = gguf_quant.raw_rows(opened.buffer, opened.model.tensors[ROPE_FACTORS])
        factors = gguf_quant.dense(raw, "F32")[0]

    def embed(tokens: Sequence[int]) -> gguf_quant.Floats:
        if len(tokens) == 1:
            return gguf_quant.dense(rows[tokens[0] : tokens[0] + 1], kind)
        return gguf_quant.dense(rows[list(tokens)], kind)

    slots = estimate.slots
    while True:
        try:
            return Rows(
                session,
                opened.config,
                embed,
                factors,
                context=estimate.context_tokens,
                count=slots,
            )
        except EngineError as error:
            # A worker may reserve only so many addresses; with fewer rows it serves nonetheless.
            if error.code != Code.OUT_OF_MEMORY or slots == 1:
                raise
            slots //= 2


def _session(
    opened: _Opened, cache: Path | None, key: str, accuracy: int, threads: int, *, spin: bool
) -> Any:
    def attempt() -> Any:
        with graph_directory(
            opened.model, opened.config, opened.buffer, accuracy=accuracy, cache=cache, key=key
        ) as directory:
            return open_session(directory, threads=threads, spin=spin)

    try:
        return attempt()
    except EngineError as error:
        if cache is None or error.code != Code.ENGINE_FAILED:
            raise
    # A cached graph may have been damaged since it was written; a new one says for certain.
    discard(cache, key)
    return attempt()


def _gguf_path(source: ModelSource) -> Path:
    paths = [path for name, path in source.files.items() if name.lower().endswith(".gguf")]
    if source.format != "gguf" or len(paths) != 1:
        raise EngineError("the engine takes exactly one GGUF file", Code.UNSUPPORTED_MODEL)
    return paths[0]


def _precision(opened: _Opened) -> str:
    """The type that most of the layers' weights have."""
    tensors, counted = opened.model.tensors, Counter[str]()
    for layer in range(opened.config.layers):
        for name, (inputs, outputs) in layer_matrices(opened.config):
            kind = tensors[f"blk.{layer}.{name}.weight"].type.name
            counted[kind.lower()] += inputs * outputs
    return counted.most_common(1)[0][0]
