"""A session over the graph of `gguf_graph`, with the keys and values of some sequences."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aigrid.engines import devices
from aigrid.engines.base import CancelToken
from aigrid.engines.gguf_quant import Floats
from aigrid.engines.graph_cache import GRAPH_FILE
from aigrid.engines.keys_and_values import Past
from aigrid.engines.llama import LlamaConfig, past_names, rotary_tables
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


class Rows:
    """Keys and values of several sequences, a row each, and the session that goes on from them.

    Every buffer is made once and bound to the session; a step allocates nothing of ours. For one
    thread at a time.

    Attributes:
        logits: float32 (rows, vocabulary), of each row that was computed.
    """

    def __init__(
        self,
        session: Any,
        config: LlamaConfig,
        embed: Embed,
        factors: Floats | None,
        *,
        context: int,
        count: int,
    ) -> None:
        """Allocate `count` rows for `context` positions each.

        Raises:
            EngineError: `out_of_memory`.
        """
        self._session = session
        self._config = config
        self._embed = embed
        self._bindings: dict[tuple[int, int], _Binding] = {}
        try:
            longest = max(count, min(PREFILL_CHUNK, context))
            self._embeddings = np.zeros((longest, config.width), np.float32)
            self._last = np.zeros(count, np.int32)
            self._positions = np.zeros((), np.int32)
            self.logits = np.zeros((count, config.vocabulary), np.float32)
            self._tables = rotary_tables(config, factors, context)
            self._past = Past(
                past_names(config), (count, config.kv_heads, context, config.head_size)
            )
        except (MemoryError, OSError):
            raise EngineError(
                f"no memory for {count} contexts of {context} tokens", Code.OUT_OF_MEMORY
            ) from None

    def compute(self, first: int, starts: Sequence[int], tokens: Sequence[int], run: "Run") -> bool:
        """Append tokens to neighbouring rows; False if the run was cancelled.

        Args:
            first: the first of the rows.
            starts: of each row the positions that it has so far.
            tokens: one for each row, or for a single row up to `PREFILL_CHUNK`.
            run: what is closed to end it early.

        Raises:
            EngineError: `engine_failed` or `out_of_memory` if the runtime fails.
        """
        count = len(starts)
        new = len(tokens) // count
        binding = self._binding(first, count)
        if new != binding.new:
            embeddings = self._embeddings[: count * new].reshape(count, new, -1)
            binding.take("embeddings", embeddings)
            binding.new = new
        self._embeddings[: len(tokens)] = self._embed(tokens)
        for n, start in enumerate(starts):
            self._last[n] = start + new - 1
        self._positions[...] = max(starts) + new
        return run.compute(self._session, binding.io)

    def swap(self, one: int, other: int, positions: int) -> None:
        """Exchange the first positions of two rows; what comes after them is lost."""
        self._past.swap(one, other, positions)

    def drop(self, row: int, start: int) -> None:
        """Give a row's memory from a position on back to the system."""
        self._past.drop(row, start)

    def _binding(self, first: int, count: int) -> "_Binding":
        """Names bound to some rows; kept, for there are some sixty buffers to name."""
        found = self._bindings.get((first, count))
        if found is None:
            found = self._bindings[first, count] = _Binding(self._session)
            cosine, sine = self._tables
            found.take("cosine", cosine)
            found.take("sine", sine)
            found.take("last_position", self._last[:count])
            found.take("positions", self._positions)
            for name, values in self._past.named.items():
                rows = values[first : first + count]
                found.take(f"past.{name}", rows)
                found.give(f"present.{name}", rows, rows.shape)
            logits = self.logits[first : first + count]
            found.give("logits", logits, (count, 1, self._config.vocabulary))
        return found


class _Binding:
    """Buffers for the session's names, and how many new positions they are for."""

    __slots__ = ("io", "new")

    def __init__(self, session: Any) -> None:
        self.io = session.io_binding()
        self.new = 0

    def take(self, name: str, values: npt.NDArray[Any]) -> None:
        """Read an input from there."""
        self.io.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)

    def give(self, name: str, values: Floats, shape: tuple[int, ...]) -> None:
        """Write an output there."""
        self.io.bind_output(name, "cpu", 0, np.float32, shape, values.ctypes.data)


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

    def advance(self) -> None:
        """Say that the work goes on."""
        self._cancel.advance()

    def on_cancel(self, hook: Callable[[], object]) -> None:
        """Call `hook`, from the cancelling thread, once cancelled."""
        self._cancel.on_cancel(hook)

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
