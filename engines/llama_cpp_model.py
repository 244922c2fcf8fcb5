"""llama.cpp through its C interface: a model's tokens, and one sequence of it.

Nothing is sampled, stopped or templated by llama.cpp: it gives logits for tokens, and what is made
of them is ours, the same as with every other engine of text.
"""

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from aigrid.engines.base import CancelToken, Device
from aigrid.engines.devices import hardware
from aigrid.engines.prefix import reusable
from aigrid.engines.sampling import Logits, all_finite
from aigrid.protocol.errors import Code, EngineError

PREFILL_CHUNK: Final = 256
_ABORTED: Final = 2
_LOG_ERROR: Final = 4
_ALL_LAYERS: Final = -1
_SAID_MAX_CHARS: Final = 200
_ACCELERATORS: Final = {1, 2}  # GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU
_SHARING: Final = 2  # _IGPU: in the machine's memory
_KINDS: Final = {"mtl": "metal"}
_NO_MEMORY: Final = ("failed to allocate", "unable to allocate", "out of memory", "bad_alloc")


class _Log:
    """What llama.cpp prints. While a model is opened its errors are kept, all else is dropped."""

    def __init__(self) -> None:
        self.listening = False
        self.errors: list[str] = []
        self._function: Any = None

    def redirect(self, library: Any) -> None:
        if self._function is None:
            self._function = library.llama_log_callback(self._take)
        library.llama_log_set(self._function, None)

    def reason(self, path: Path) -> str:
        """The first error, which is the cause, without the place of the file on this machine."""
        said = self.errors[0] if self.errors else "it does not say why"
        return " ".join(said.replace(str(path), path.name).split())[:_SAID_MAX_CHARS]

    def _take(self, level: int, text: bytes | None, _: object) -> None:
        if self.listening and level == _LOG_ERROR and text and len(self.errors) < 16:
            self.errors.append(text.decode(errors="replace"))


_log: Final = _Log()


def library() -> Any:
    """The package's C functions; quiet from the first call on.

    Raises:
        ImportError, OSError, RuntimeError: it is not installed, or cannot be loaded here.
    """
    # Where an assertion fails it would start a debugger to tell where.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    import llama_cpp

    _log.redirect(llama_cpp)
    return llama_cpp


def accelerators() -> tuple[Device, ...]:
    """What the installed build can compute on besides the processor."""
    return tuple(device for device, _ in _found())


def place_of(name: str) -> tuple[str, int]:
    """Kind and index of what llama.cpp calls CUDA0, ROCm1, Vulkan0 or Metal."""
    kind, number = re.fullmatch(r"(.*?)([0-9]{0,4})", name, re.DOTALL).groups()  # type: ignore[union-attr]
    kind = kind.lower()[:16]
    return _KINDS.get(kind, kind), int(number or 0)


def _found() -> list[tuple[Device, int]]:
    """Each accelerator, and llama.cpp's handle of it."""
    found = library()
    if not found.llama_supports_gpu_offload():
        return []
    # As free as their drivers say: to be asked by llama.cpp, each would get a context.
    told = {device.place: device for device in hardware()}
    from llama_cpp._ggml import libggml as ggml

    places = []
    for name, result in (("get", ctypes.c_void_p), ("count", ctypes.c_size_t)):
        getattr(ggml, f"ggml_backend_dev_{name}").restype = result
    for name in ("name", "description"):
        getattr(ggml, f"ggml_backend_dev_{name}").restype = ctypes.c_char_p
    for index in range(ggml.ggml_backend_dev_count()):
        device = ctypes.c_void_p(ggml.ggml_backend_dev_get(ctypes.c_size_t(index)))
        type_ = ggml.ggml_backend_dev_type(device)
        if type_ not in _ACCELERATORS or not device.value:
            continue
        kind, number = place_of(ggml.ggml_backend_dev_name(device).decode(errors="replace"))
        known = told.get(f"{kind}:{number}")
        if known is None:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            named = ggml.ggml_backend_dev_description(device).decode(errors="replace")
            unified = type_ == _SHARING
            known = Device(kind, named[:96], total.value, free.value, number, unified)
        places.append((known, device.value))
    return places


def _handles(device: Device | None) -> Any:
    """The list of the one device, as llama.cpp takes it; an empty list is the processor alone.

    Without a list it would spread a model over all that it finds.

    Raises:
        EngineError: `engine_failed` where the device is gone.
    """
    handles = [handle for found, handle in _found() if device and found.place == device.place][:1]
    if device is not None and not handles:
        raise EngineError(f"llama.cpp sees no {device.place} any more", Code.ENGINE_FAILED)
    return (ctypes.c_void_p * (len(handles) + 1))(*handles, None)


class LlamaModel:
    """An open model and the memory for one sequence of `context` tokens."""

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        threads: int,
        layers: int = _ALL_LAYERS,
        device: Device | None = None,
    ) -> None:
        """`layers`: how many go to `device`, an accelerator; without one it is the processor's.

        Raises:
            EngineError: `unsupported_model` for what llama.cpp does not take, `out_of_memory`.
        """
        self.c = library()
        self.c.llama_backend_init()
        settings = self.c.llama_model_default_params()
        settings.n_gpu_layers = layers if device is not None else 0
        settings.split_mode, settings.main_gpu = self.c.LLAMA_SPLIT_MODE_NONE, 0
        handles = _handles(device)
        settings.devices = ctypes.cast(handles, ctypes.c_void_p)
        self._model = self._opened(
            path, lambda: self.c.llama_model_load_from_file(os.fsencode(path), settings)
        )
        self.vocabulary = self.c.llama_model_get_vocab(self._model)
        if not self.c.llama_model_has_decoder(self._model) or (
            self.c.llama_model_has_encoder(self._model)
        ):
            raise _unsupported("llama_cpp writes text with models that only decode")
        wanted = self.c.llama_context_default_params()
        wanted.n_ctx = context
        wanted.n_batch = wanted.n_ubatch = min(PREFILL_CHUNK, context)
        wanted.n_seq_max = 1
        wanted.n_threads = wanted.n_threads_batch = max(1, threads)
        wanted.no_perf = True
        self.context = self._opened(path, lambda: self.c.llama_init_from_model(self._model, wanted))
        self.memory = self.c.llama_get_memory(self.context)
        self.size_bytes: int = self.c.llama_model_size(self._model)

    @staticmethod
    def _opened(path: Path, attempt: Any) -> Any:
        _log.errors.clear()
        _log.listening = True
        try:
            made = attempt()
        finally:
            _log.listening = False
        if not made:
            if any(told in line for line in _log.errors for told in _NO_MEMORY):
                raise EngineError("not enough memory to load the model", Code.OUT_OF_MEMORY)
            raise _unsupported(f"llama.cpp refuses the model: {_log.reason(path)}")
        return made


class LlamaVocabulary:
    """A model's tokenizer.

    Attributes:
        ending: tokens that end an answer.
        longest_bytes: most bytes of text that one token can stand for.
        size: number of tokens.
    """

    def __init__(self, model: LlamaModel) -> None:
        """Raises EngineError: `unsupported_model` for a model without one."""
        self._c, self._own = model.c, model.vocabulary
        self.size: int = self._c.llama_vocab_n_tokens(self._own)
        if self._c.llama_vocab_type(self._own) == self._c.LLAMA_VOCAB_TYPE_NONE or not self.size:
            raise _unsupported("the model has no tokenizer")
        is_ending = self._c.llama_vocab_is_eog
        self.ending = frozenset(t for t in range(self.size) if is_ending(self._own, t))
        self.longest_bytes = max(1, *(len(self._bytes(t, special=True)) for t in range(self.size)))
        self.bos, self.eos = (
            self._token(self._c.llama_vocab_bos), self._token(self._c.llama_vocab_eos)
        )  # fmt: skip
        self.adds_bos = self.bos is not None and bool(self._c.llama_vocab_get_add_bos(self._own))

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; the names of control tokens in it become those tokens."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise EngineError("the text is not valid Unicode", Code.INVALID_REQUEST) from None
        room = len(data) + 8
        while True:
            made = (self._c.llama_token * room)()
            # What has to stand at the end of a text that is complete has no place before an answer.
            count = self._c.llama_tokenize(self._own, data, len(data), made, room, False, True)  # noqa: FBT003 -- C
            if count >= 0:
                break
            if -count <= room:
                raise EngineError("the text cannot be split into tokens", Code.INVALID_REQUEST)
            room = -count
        ids: list[int] = made[:count]
        if self.adds_bos and self.bos is not None and ids[:1] != [self.bos]:
            ids.insert(0, self.bos)
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text; none for a control token."""
        return self._bytes(token, special=False)

    def name(self, token: int) -> str:
        """A token for a person to read, control tokens included."""
        return self._bytes(token, special=True).decode(errors="replace")

    def text_of(self, token: int | None) -> str:
        """The literal text of a special token, empty for none."""
        return "" if token is None else self.name(token)

    def _bytes(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            made = ctypes.create_string_buffer(room)
            count = self._c.llama_token_to_piece(self._own, token, made, room, 0, special)
            if count >= 0:
                return made.raw[:count]
            room = -count

    def _token(self, of: Any) -> int | None:
        found: int = of(self._own)
        return found if 0 <= found < self.size else None


class Run:
    """One request's way to stop a computation, asked by llama.cpp between any two of its steps.

    It asks a C function with an address. `strlen` is one, of a byte that is 0 until the request is
    cancelled: so no thread of its computation ever waits for Python's interpreter.
    """

    __slots__ = ("_cancel", "flag")

    def __init__(self, cancel: CancelToken) -> None:
        self.flag = ctypes.create_string_buffer(2)
        self._cancel = cancel
        cancel.on_cancel(self._stop)

    @property
    def cancelled(self) -> bool:
        return self._cancel.cancelled

    def _stop(self) -> None:
        self.flag.value = b"x"


class LlamaDecoder:
    """One sequence: feed it tokens, it gives the logits after the last of them.

    Attributes:
        logits: float32 (vocabulary,), overwritten by each step.
    """

    logits: Logits

    def __init__(self, model: LlamaModel, vocabulary: int, *, reuse: bool) -> None:
        self._c, self._context, self._memory = model.c, model.context, model.memory
        self._row: Any = ctypes.c_float * vocabulary
        self._tokens = (self._c.llama_token * PREFILL_CHUNK)()
        self._reuse = reuse
        self._kept: list[int] = []
        self._whole = 0
        self._run: Run | None = None
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        self._abort = self._c.ggml_abort_callback(strlen)

    def prefill(self, tokens: Sequence[int], run: Run) -> Iterator[bool]:
        """Begin a sequence anew with `tokens`, a chunk per item; False, the last, if cancelled.

        Whole chunks that the last sequence began with as well are not computed again: chunks begin
        and end at the same places in every sequence, so reuse does not change a result.
        """
        kept = self._kept[: self._whole] if self._reuse else []
        self._whole = reusable(kept, tokens, PREFILL_CHUNK)
        # Models with a running state cannot go back to a place within a sequence.
        if not self._c.llama_memory_seq_rm(self._memory, 0, self._whole, -1):
            self._c.llama_memory_clear(self._memory, False)  # noqa: FBT003 -- C
            self._whole = 0
        del self._kept[self._whole :]
        for start in range(self._whole, len(tokens), PREFILL_CHUNK):
            chunk = tokens[start : start + PREFILL_CHUNK]
            alive = self.step(chunk, run)
            if alive and len(chunk) == PREFILL_CHUNK:
                self._whole += PREFILL_CHUNK
            yield alive
            if not alive:
                return

    def step(self, tokens: Sequence[int], run: Run) -> bool:
        """Append 1 to `PREFILL_CHUNK` tokens to the sequence; False if cancelled.

        Raises:
            EngineError: `engine_failed` if llama.cpp fails or the logits are not finite.
        """
        if run.cancelled:
            return False
        if run is not self._run:
            self._run = run
            self._c.llama_set_abort_callback(self._context, self._abort, ctypes.addressof(run.flag))
        count = len(tokens)
        self._tokens[:count] = tokens
        batch = self._c.llama_batch_get_one(self._tokens, count)
        result = self._c.llama_decode(self._context, batch)
        if result == _ABORTED and run.cancelled:
            return False
        if result != 0:
            raise EngineError(f"llama.cpp could not compute a step ({result})", Code.ENGINE_FAILED)
        row = self._c.llama_get_logits_ith(self._context, -1)
        if not row:
            raise EngineError("llama.cpp gave no logits", Code.ENGINE_FAILED)
        self.logits = np.frombuffer(
            self._row.from_address(ctypes.addressof(row.contents)), np.float32
        )
        if not all_finite(self.logits):
            raise EngineError("the model computed logits that are not finite", Code.ENGINE_FAILED)
        self._kept.extend(tokens)
        return True


def _unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)
