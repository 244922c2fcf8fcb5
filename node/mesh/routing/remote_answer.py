"""What another node answers, held to what it was asked: a member may be anything but honest."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import trio

from aigrid.node.mesh.routing.verdict import BROKEN
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    TaskChunk,
    TaskRequest,
    TensorChunk,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Chunks, Loading, Portion, Receipted, decode_rpc_answer

_SIGN = TextChunk("")
_WHOLE = frozenset({"stop", "length", "cancelled"})  # ends of what is not told word by word


class Failed(Protocol):
    """Hears that an answer failed that had begun; `broke`: by breaking the protocol."""

    def __call__(self, *, broke: bool = False) -> None: ...


class RemoteAnswer:
    """DATA bodies of an RPC answer as batches of chunks.

    Chunks of another kind than asked for, more tokens or more bytes than they can take, counts of
    tokens that cannot be, and whatever comes after `Finish` but a receipt are a
    `protocol_violation`. `failed` is called when the answer ends otherwise than with `Finish` once
    it has begun, or is given up over there: until then the caller may ask elsewhere. `loading`
    hears how far the model is there, and `came` that it has begun to answer: that comes first,
    never after a chunk, and not for ever.

    Attributes:
        engine_seconds: what the node says that it waited for its engine; None: it says nothing.
        receipt: the one that came, as bytes that nobody has looked at; b"" if none did.
        was_loading: whether the node has said that the model is on its way.
    """

    def __init__(
        self,
        bodies: AsyncIterator[bytes],
        request: InferRequest,
        *,
        peer: str,
        failed: Failed,
        loading: Callable[[str], None] = lambda _: None,
        came: Callable[[], None] = lambda: None,
    ) -> None:
        self._bodies = bodies
        self._peer = peer
        self._failed = failed
        self._loading = loading
        self._came = came
        self._words_left = LIMITS.loading_words_max
        self.was_loading = False
        self._begun = self._has_result = False
        self.receipt = b""
        self.engine_seconds: float | None = None
        self._portions: list[bytes] = []
        self._kind: type[InferChunk] = TensorChunk
        self._tokens_allowed = LIMITS.max_tokens_max  # a task's are said by `Finish` alone
        self._tokens_left, self._bytes_left = 0, LIMITS.tensor_max_bytes + LIMITS.frame_max_bytes
        if isinstance(request, TaskRequest):
            self._kind = TaskChunk
        elif isinstance(request, TextRequest):
            self._kind = TextChunk
            asked = request.max_tokens
            self._tokens_left = LIMITS.max_tokens_max if asked is None else asked
            self._tokens_allowed = self._tokens_left
            each = LIMITS.token_max_bytes * (1 + (request.top_logprobs or 0))
            said = 2 * len(request.continued_ids) if request.checks else self._tokens_left
            self._bytes_left = LIMITS.frame_max_bytes + said * each

    def __aiter__(self) -> "RemoteAnswer":
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        try:
            batch = await self._receive()
        except RemoteError as error:
            if self._begun:
                self._failed(broke=error.code in BROKEN)
            raise
        self._begun = True
        if batch and isinstance(batch[-1], Finish) and batch[-1].reason == "cancelled":
            self._failed()  # nobody here has cancelled it, or nobody would read this
        return batch

    @property
    def waits(self) -> bool:
        """Whether all that the node has said is that the model is on its way."""
        return self.was_loading and self._words_left >= 0

    async def settle(self) -> None:
        """Wait for what comes after `Finish`, the receipt; a node may send none."""
        with trio.move_on_after(LIMITS.receipt_seconds):
            try:
                answer = decode_rpc_answer(await anext(self._bodies))
            except (StopAsyncIteration, RemoteError):
                return
            if isinstance(answer, Receipted):
                self._receipted(answer)

    async def _receive(self) -> tuple[InferChunk, ...]:
        while True:
            try:
                body = await anext(self._bodies)
            except StopAsyncIteration:
                raise RemoteError(
                    "the answer stopped before its end", Code.CONNECTION_LOST, peer=self._peer
                ) from None
            answer = decode_rpc_answer(body)
            if isinstance(answer, Receipted) and not self.receipt:
                self._receipted(answer)  # of a segment that failed: the error comes next
                continue
            if isinstance(answer, Loading) and self._words_left > 0:
                self._words_left -= 1
                self.was_loading = True
                self._loading(answer.text)
                continue
            if not isinstance(answer, Chunks | Portion):
                raise RemoteError("an unexpected answer", peer=self._peer)
            if self._words_left >= 0:
                self._words_left = -1
                self._came()
            self._take(len(body))
            chunks = answer.chunks if isinstance(answer, Chunks) else self._joined(answer)
            self._check(chunks)
            return chunks

    def _joined(self, portion: Portion) -> tuple[InferChunk, ...]:
        """What portions come to; before the last one comes it is a sign of life."""
        usual = len(portion.data) == LIMITS.portion_bytes
        if self._kind is TextChunk or not (portion.last or usual):
            raise RemoteError("an answer in portions that needs none", peer=self._peer)
        self._portions.append(portion.data)
        if not portion.last:
            return (_SIGN,)
        whole, self._portions = b"".join(self._portions), []
        answer = decode_rpc_answer(whole)
        if not isinstance(answer, Chunks):
            raise RemoteError("an unexpected answer", peer=self._peer)
        return answer.chunks

    def _take(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise RemoteError("a longer answer than asked for", peer=self._peer)

    def _receipted(self, answer: Receipted) -> None:
        self.receipt = answer.receipt
        self.engine_seconds = None if answer.engine_ms is None else answer.engine_ms / 1000

    def _check(self, batch: tuple[InferChunk, ...]) -> None:
        for position, chunk in enumerate(batch, 1):
            if isinstance(chunk, Finish):
                if position < len(batch):
                    raise RemoteError("the answer goes on after its end", peer=self._peer)
                if self._kind is not TextChunk and chunk.reason not in _WHOLE:
                    raise RemoteError("an end that such an answer has not", peer=self._peer)
                if chunk.completion_tokens > self._tokens_allowed:
                    raise RemoteError("a longer answer than asked for", peer=self._peer)
                if chunk.prompt_tokens > LIMITS.prompt_tokens_max:
                    raise RemoteError("more tokens than a request can have", peer=self._peer)
            elif isinstance(chunk, TextChunk) and chunk.says_nothing:
                pass  # a sign of life, whatever the answer is going to be
            elif not isinstance(chunk, self._kind):
                raise RemoteError("an answer of another kind than asked for", peer=self._peer)
            elif not isinstance(chunk, TextChunk):
                if self._has_result:
                    raise RemoteError("an answer with two results", peer=self._peer)
                self._has_result = True
            else:
                self._tokens_left -= len(chunk.token_ids)
        if self._tokens_left < 0:
            raise RemoteError("a longer answer than asked for", peer=self._peer)
