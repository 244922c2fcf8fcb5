"""The engine without a model: it repeats what it was asked. For tests and first steps.

A text request is answered with the last user message, word by word, each with the blanks before it,
so that the words joined are the message again. A word's token id is the low 16 bits of the CRC-32
of its UTF-8 bytes. A tensor request is answered with its inputs.

Options: `delay_ms` before each token, `slots` requests at once, `memory_bytes` to claim, and `tag`,
which does nothing but make another model.
"""

import re
import threading
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from itertools import zip_longest

from aigrid.engines.base import (
    CancelToken,
    Estimate,
    ModelSource,
    Probe,
    check_options,
    wrong_task,
)
from aigrid.engines.counting import CountedEngine
from aigrid.engines.devices import devices
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    TensorChunk,
    TensorRequest,
    TextChunk,
    TextRequest,
    TokenLogprob,
)

CONTEXT_TOKENS = 4096
REFUSES = ("files: there is no model to read from them",)
_NEVER = -1e9  # log-probability: JSON has no infinity
_WORD = re.compile(r"\s*\S+|\s+$")


class EchoEngine(CountedEngine):
    """Repeats. Takes any task, needs no files."""

    name = "echo"

    def __init__(self) -> None:
        super().__init__()
        self._delay_seconds: float | None = None

    def probe(self) -> Probe:
        return Probe(self.name, version("aigrid-node"), ("echo",), (), devices(), refuses=REFUSES)

    def estimate(self, source: ModelSource) -> Estimate:
        slots, memory_bytes = source.options.get("slots", 8), source.options.get("memory_bytes", 0)
        check_options(source, "delay_ms", "slots", "memory_bytes", "tag")
        if source.files or source.format != "echo":
            raise EngineError("the echo engine takes no files", Code.UNSUPPORTED_MODEL)
        if not isinstance(slots, int) or not isinstance(memory_bytes, int) or slots < 1:
            raise EngineError("slots and memory_bytes are whole numbers", Code.UNSUPPORTED_MODEL)
        return Estimate(memory_bytes, slots, CONTEXT_TOKENS)

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        self._delay_seconds = float(source.options.get("delay_ms", 0)) / 1000
        return self.estimate(source)

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        if self._delay_seconds is None:
            raise EngineError("no model is loaded")
        match request:
            case TensorRequest():
                yield TensorChunk(request.inputs)
                yield Finish("stop")
            case TextRequest():
                woken = threading.Event()
                cancel.on_cancel(woken.set)
                for chunk in _repeat(request):
                    if self._delay_seconds and isinstance(chunk, TextChunk):
                        woken.wait(self._delay_seconds)
                    yield chunk
            case _:
                raise wrong_task(self.name, request)


def token_id(word: str) -> int:
    """What stands for a word; the same everywhere."""
    return zlib.crc32(word.encode("utf-8", "replace")) & 0xFFFF


def _check(given: tuple[int, ...], words: list[str], *, room: bool) -> Iterator[TextChunk]:
    """This engine says what it says for certain, and nothing else at all."""
    for token, word in zip_longest(given, words[: len(given)]):
        own = None if word is None else token_id(word)
        logprob = 0.0 if token == own else _NEVER
        checked = TokenLogprob(token, "", logprob, ((own, word or "", 0.0),))
        yield TextChunk(word or "", (), (checked,))
    if room:
        end = 0.0 if len(given) >= len(words) else _NEVER
        yield TextChunk("", (), (TokenLogprob(None, "", end),))


def _repeat(request: TextRequest) -> Iterator[TextChunk | Finish]:
    if request.token_ids is not None:
        raise EngineError("the echo engine takes words, not token ids", Code.INVALID_REQUEST)
    said = [m.content for m in request.messages if m.role == "user"]
    text = request.prompt if request.prompt is not None else (said[-1] if said else "")
    prompt_tokens = sum(len(_WORD.findall(m.content)) for m in request.messages)
    if request.prompt is not None:
        prompt_tokens = len(_WORD.findall(request.prompt))
    cut = min((at for stop in request.stop if stop and (at := text.find(stop)) >= 0), default=None)
    words = _WORD.findall(text[:cut])
    if request.checks:
        goes_on = cut is None and request.max_tokens != 0
        yield from _check(request.continued_ids, words, room=goes_on)
        yield Finish("length", prompt_tokens)
        return
    words = words[len(request.continued_ids) :]
    room = CONTEXT_TOKENS - prompt_tokens - len(request.continued_ids)
    if room < (not request.continued_ids):
        raise EngineError(
            f"{prompt_tokens} words leave no room in a context of {CONTEXT_TOKENS}",
            Code.CONTEXT_LENGTH_EXCEEDED,
        )
    most = room if request.max_tokens is None else min(room, request.max_tokens)
    for word in words[:most]:
        yield TextChunk(word, (token_id(word),))
    yield Finish("length" if len(words) > most else "stop", prompt_tokens, min(len(words), most))
