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
from aigrid.protocol.inference import ChatMessage, Finish, InferChunk, InferRequest, TextRequest

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
    """Says `script`, and draws from all bytes of it alike where the temperature is high."""

    script: bytes
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = 0

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
        self.tokens, self.prompt_tokens = list(tokens), len(tokens)
        yield not run.cancelled

    def step(self, tokens: Sequence[int], run: CancelToken) -> bool:
        self.tokens += tokens
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


def spell(request: TextRequest, script: bytes, *, context: int = 4096) -> Iterator[InferChunk]:
    """The chunks of an answer."""
    loaded = Loaded(Speller(script), context)
    return text_generate.answer(loaded, request, CancelToken(), Tally(), vocabulary=VOCABULARY)


class SpellingEngine(EchoEngine):
    """Spells what it was asked, once more.

    Attributes:
        breaks: after how many chunks each of the next answers breaks off, and with what code.
    """

    breaks: list[tuple[int, Code]]

    def __init__(self) -> None:
        super().__init__()
        self.breaks = []

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        assert isinstance(request, TextRequest)
        after, code = self.breaks.pop(0) if self.breaks else (None, Code.INTERNAL)
        script = (request.prompt or "".join(m.content for m in request.messages)).encode()
        for number, chunk in enumerate(spell(request, script)):
            if number == after:
                raise EngineError("broken off", code)
            yield chunk


def text_of(chunks: Sequence[InferChunk]) -> str:
    return "".join(chunk.text for chunk in chunks if not isinstance(chunk, Finish))
