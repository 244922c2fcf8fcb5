"""What the client of an answer has already, and how another node goes on from there. Pure.

Only tokens say where an answer was cut: whoever goes on feeds them through its own `TextStream`, so
what was held back (the beginning of a stop string, a part of a character) is held back there too.
At its very end an answer may say text that no token comes with: what was still held back. It is
said again by whoever goes on, and taken out here.
"""

from array import array

import msgspec

from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest, TextChunk, TextRequest
from aigrid.protocol.limits import LIMITS


class Delivered:
    """Takes the batches of an answer, segment after segment, and gives those for the client."""

    def __init__(self, request: InferRequest) -> None:
        self._request = request
        self._ids = array("I")
        self._covered = isinstance(request, TextRequest)
        self._before = 0  # tokens of the segments before this one
        self._ahead = ""  # said, and not yet by the tokens alone
        self._awaited = ""  # of that, what this segment has not said again

    def add(self, batch: tuple[InferChunk, ...]) -> tuple[InferChunk, ...]:
        """What of a batch is new to the client; `Finish` counts the tokens of all segments.

        Raises:
            RemoteError: `connection_lost`, this segment goes on otherwise than the client was told.
        """
        return tuple(fresh for chunk in batch if (fresh := self._add(chunk)) is not None)

    def rest(self) -> TextRequest | None:
        """The request for what is missing; None where nobody else can go on from here."""
        request = self._request
        if not isinstance(request, TextRequest) or not self._covered:
            return None
        continued = request.continued_ids + tuple(self._ids)
        if len(continued) > LIMITS.max_tokens_max:
            return None
        most = request.max_tokens
        return msgspec.structs.replace(
            request,
            continued_ids=continued,
            max_tokens=None if most is None else max(0, most - len(self._ids)),
        )

    def resume(self) -> None:
        """The next batch is of another segment, which goes on from `rest`."""
        self._before = len(self._ids)
        self._awaited = self._ahead

    def _add(self, chunk: InferChunk) -> InferChunk | None:
        if isinstance(chunk, TextChunk):
            return self._add_text(chunk)
        if not isinstance(chunk, Finish):
            self._covered = False
            return chunk
        if self._awaited:
            raise _otherwise()
        if not self._before:
            return chunk
        return Finish(chunk.reason, chunk.prompt_tokens, self._before + chunk.completion_tokens)

    def _add_text(self, chunk: TextChunk) -> TextChunk | None:
        if chunk.more:
            self._covered = False  # tools that are called, thoughts: no token stands for them here
        said_again = self._said_again(chunk.text) if self._awaited else 0
        if chunk.token_ids:
            if self._ahead != self._awaited:
                self._covered = False  # text that no token stands for, in the middle
            self._ahead = self._ahead[said_again:]
            self._ids.extend(chunk.token_ids)
        elif self._ids:
            self._ahead += chunk.text[said_again:]
        elif not chunk.says_nothing:
            self._covered = False  # an engine that is not told the ids of its tokens
        self._awaited = self._awaited[said_again:]
        if not said_again:
            return chunk
        fresh = msgspec.structs.replace(chunk, text=chunk.text[said_again:])
        return None if fresh.says_nothing else fresh

    def _said_again(self, text: str) -> int:
        """How many characters of the text the client has already."""
        size = min(len(text), len(self._awaited))
        if text[:size] != self._awaited[:size]:
            raise _otherwise()
        return size


def _otherwise() -> RemoteError:
    return RemoteError(
        "the answer broke off at its end, and another node ends it otherwise", Code.CONNECTION_LOST
    )
