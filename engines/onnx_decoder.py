"""A session over the graph of `gguf_graph`, with the keys and values of one sequence."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aigrid.engines import devices
from aigrid.engines.base import CancelToken
from aigrid.engines.gguf_quant import Floats
from aigrid.engines.graph_cache import GRAPH_FILE
from aigrid.engines.llama import LlamaConfig, past_names, rotary_tables
from aigrid.engines.prefix import reusable
from aigrid.engines.sampling import all_finite
from aigrid.protocol.errors import Code, EngineError

# Larger chunks are no faster and take more memory, and of a common beginning only whole ones count.
PREFILL_CHUNK: Final = 64

Embed = Callable[[Sequence[int]], Floats]


def open_session(directory: Path, *, threads: int, spin: bool) -> Any:
    """Load a graph on the CPU.

    Raises:
        EngineError: `engine_failed`, whatever the runtime says; `out_of_memory`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The arena would keep the peak of the longest prefill for good; a step is no slower without.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    # Between requests, and while a chunk is being sent, the cores belong to the others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(
            directory / GRAPH_FILE, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # boundary: an engine call
        raise _runtime_error(error, "load the graph built from this model") from error


def spins(threads: int) -> bool:
    """Whether waiting threads should burn their core by default.

    Spinning gives a third more tokens per second on cores of one's own and costs half of them on
    shared ones, so it is for workers that leave a core to the rest of the machine.
    """
    return 1 < threads < devices.threads()


class Decoder:
    """One sequence: feed it tokens, it gives the logits after the last of them.

    Every buffer is made once and bound to the session; a step allocates nothing of ours.

    Attributes:
        logits: float32 (vocabulary,), overwritten by each step.
    """

    def __init__(
        self,
        session: Any,
        config: LlamaConfig,
        embed: Embed,
        factors: Floats | None,
        context: int,
        *,
        reuse: bool,
    ) -> None:
        """Allocate for `context` positions.

        Raises:
            EngineError: `out_of_memory`.
        """
        self._session = session
        self._embed = embed
        self._reuse = reuse
        self._binding = session.io_binding()
        self._kept: list[int] = []
        self._whole = 0
        self._bound = 0
        try:
            self._embeddings = np.zeros((min(PREFILL_CHUNK, context), config.width), np.float32)
            self._last = np.zeros(1, np.int32)
            self._positions = np.zeros((), np.int32)
            self.logits = np.zeros(config.vocabulary, np.float32)
            self._held: list[npt.NDArray[Any]] = [*rotary_tables(config, factors, context)]
            # Zeroed pages cost nothing until they are written, so a long context is only reserved.
            shape = (1, config.kv_heads, context, config.head_size)
            past = {name: np.zeros(shape, np.float32) for name in past_names(config)}
        except MemoryError:
            raise EngineError(
                f"no memory for a context of {context} tokens", Code.OUT_OF_MEMORY
            ) from None
        self._bind("cosine", self._held[0])
        self._bind("sine", self._held[1])
        self._bind("last_position", self._last)
        self._bind("positions", self._positions)
        for name, values in past.items():
            self._bind(f"past.{name}", values)
            self._bind_output(f"present.{name}", values, values.shape)
            self._held.append(values)
        self._bind_output("logits", self.logits, (1, 1, config.vocabulary))

    def prefill(self, tokens: Sequence[int], run: "Run") -> Iterator[bool]:
        """Begin a sequence anew with `tokens`, a chunk per item; False, the last, if cancelled.

        Whole chunks that the last sequence began with as well are not computed again. Reuse never
        changes a result: what a chunk gives depends, in the last bits, on where it begins and ends,
        so these are the same for every sequence.
        """
        kept = self._kept[: self._whole] if self._reuse else []
        self._whole = reusable(kept, tokens, PREFILL_CHUNK)
        del self._kept[self._whole :]
        for start in range(self._whole, len(tokens), PREFILL_CHUNK):
            chunk = tokens[start : start + PREFILL_CHUNK]
            alive = self.step(chunk, run)
            if alive and len(chunk) == PREFILL_CHUNK:
                self._whole += PREFILL_CHUNK
            yield alive
            if not alive:
                return

    def step(self, tokens: Sequence[int], run: "Run") -> bool:
        """Append 1 to `PREFILL_CHUNK` tokens to the sequence; False if cancelled.

        Raises:
            EngineError: `engine_failed` if the runtime fails or the logits are not finite.
        """
        count = len(tokens)
        if run.cancelled:
            return False
        if count != self._bound:
            self._bind("embeddings", self._embeddings[:count][None])
            self._bound = count
        self._embeddings[:count] = self._embed(tokens)
        total = len(self._kept) + count
        self._last[0] = total - 1
        self._positions[...] = total
        if not run.compute(self._session, self._binding):
            return False
        if not all_finite(self.logits):
            raise EngineError("the model computed logits that are not finite", Code.ENGINE_FAILED)
        self._kept.extend(tokens)
        return True

    def _bind(self, name: str, values: npt.NDArray[Any]) -> None:
        self._binding.bind_input(
            name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data
        )

    def _bind_output(self, name: str, values: Floats, shape: tuple[int, ...]) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, shape, values.ctypes.data)


class Run:
    """One request's way into the runtime, which another thread can close."""

    __slots__ = ("_cancel", "_options")

    def __init__(self, cancel: CancelToken) -> None:
        import onnxruntime

        self._options = onnxruntime.RunOptions()
        # No run is captured for replay. Left out, it would be looked up and not found, at each run.
        self._options.add_run_config_entry("gpu_graph_id", "-1")
        self._cancel = cancel
        cancel.on_cancel(self._terminate)

    @property
    def cancelled(self) -> bool:
        return self._cancel.cancelled

    def compute(self, session: Any, binding: Any) -> bool:
        """Run once; False if it was cut short by cancelling."""
        try:
            session.run_with_iobinding(binding, self._options)
        except Exception as error:  # boundary: an engine call
            if self.cancelled:
                return False
            raise _runtime_error(error, "compute a step") from error
        return True

    def _terminate(self) -> None:
        self._options.terminate = True


def _runtime_error(error: Exception, doing: str) -> EngineError:
    """The runtime's exception with our type; its text names paths, so it only stays chained."""
    if isinstance(error, MemoryError):
        return EngineError(f"no memory to {doing}", Code.OUT_OF_MEMORY)
    return EngineError(
        f"onnxruntime could not {doing} ({type(error).__name__})", Code.ENGINE_FAILED
    )
