"""An engine whose tokens are bytes, over the real `text_generate`: it draws, stops and holds back.

So that every cut of an answer can be tried: between the bytes of a character, and within what may
become a stop string. Pure Python and numpy, fit for virtual time.
"""

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from aigrid.engines import text_generate
from aigrid.engines.base import CancelToken
from aigrid.engines.counting import Tally
from aigrid.engines.echo import EchoEngine
from aigrid.engines.sampling import Logits
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    ChatMessage,
    Finish,
    InferChunk,
    InferRequest,
    TextChunk,
    TextRequest,
)

END = 256
VOCABULARY = 257


class Bytes:
    """A tokenizer whose tokens are bytes."""

    longest_bytes = 1
    ending: Collection[int] = (END,)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes([token])

    def name(self, token: int) -> str:
        return "<end>" if token == END else f"<{token:02x}>"


@dataclass
class Speller:
    """Says `script` after a prompt, but for what is drawn otherwise where the temperature is high.

    Attributes:
        calls: how many tokens were computed at once, call by call.
    """

    script: bytes
    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    @property
    def logits(self) -> Logits:
        logits = np.full(VOCABULARY, -1000, np.float32)
        for byte in self.script:  # which of them is likely depends on all that was said
            mixed = zlib.crc32(bytes(t & 255 for t in self.tokens) + bytes([byte]))
            logits[byte] = 2 * mixed / 2**32
        place = len(self.tokens) - self.prompt_tokens
        due = self.script[place] if place < len(self.script) else END
        logits[due] = 3.0
        return logits

    def prefill(self, tokens: Sequence[int], run: CancelToken) -> Iterator[bool]:
        self.tokens = list(tokens)
        self.calls.append(len(tokens))
        yield not run.cancelled

    def step(self, tokens: Sequence[int], run: CancelToken) -> bool:
        self.tokens += tokens
        self.calls.append(len(tokens))
        return not run.cancelled


@dataclass
class Loaded:
    decoder: Speller
    context: int = 4096
    tokenizer: Bytes = field(default_factory=Bytes)
    template: "Loaded | None" = None

    def __post_init__(self) -> None:
        self.template = self

    def render(self, messages: Sequence[ChatMessage]) -> str:
        return messages[-1].content


def speller(request: TextRequest, script: bytes) -> Speller:
    """A decoder for a request; what it was asked is as long as its bytes."""
    prompt = request.prompt or "".join(message.content for message in request.messages[-1:])
    return Speller(script, len(prompt.encode()))


def spell(request: TextRequest, script: bytes, *, context: int = 4096) -> Iterator[InferChunk]:
    """The chunks of an answer."""
    loaded = Loaded(speller(request, script), context)
    return text_generate.answer(loaded, request, CancelToken(), Tally(), vocabulary=VOCABULARY)


class SpellingEngine(EchoEngine):
    """Spells what it was asked, once more.

    Attributes:
        breaks: after how many chunks each of the next answers breaks off, and with what code;
            `cancelled` without an error.
    """

    breaks: list[tuple[int, Code]]

    def __init__(self) -> None:
        super().__init__()
        self.breaks = []

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        assert isinstance(request, TextRequest)
        after, code = self.breaks.pop(0) if self.breaks else (None, Code.INTERNAL)
        script = (request.prompt or request.messages[-1].content).encode()
        for number, chunk in enumerate(spell(request, script)):
            if number == after and code is Code.CANCELLED:
                yield Finish("cancelled")
                return
            if number == after:
                raise EngineError("broken off", code)
            yield chunk


def text_of(chunks: Sequence[InferChunk]) -> str:
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk))
