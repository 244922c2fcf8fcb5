"""Text in OpenAI's dialect: a `TextRequest` to a body, a stream of events to chunks. Pure.

Source: https://platform.openai.com/docs/api-reference (chat and completions, streaming), and what
vLLM, SGLang, llama-server, Ollama and LM Studio make of it.

Servers of this kind report text, not token ids. So `token_ids` stays empty, and `Finish` carries
the count that the server gives in `usage`; where it gives none, the pieces are counted, each of
which is at least one token.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from aigrid.engines.text_stream import TextStream
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, FinishReason, TextChunk, TextRequest, TokenLogprob
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import is_neutral, members

_DONE: Final = b"[DONE]"
_LOGPROB_MIN: Final = -1e38
_SEEDS: Final = 2**31
_ENDS: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _TopToken(msgspec.Struct):
    token: str
    logprob: float | None = None


class _Token(_TopToken):
    top_logprobs: list[_TopToken] | None = None


class _Logprobs(msgspec.Struct):
    """Of both endpoints: chat fills `content`, completions the rest."""

    content: list[_Token] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


_NOTHING = msgspec.Raw()


class _Delta(msgspec.Struct):
    """What a delta may say beside text is passed on as it is."""

    content: str | None = None
    tool_calls: msgspec.Raw = _NOTHING
    reasoning_content: msgspec.Raw = _NOTHING
    reasoning: msgspec.Raw = _NOTHING
    refusal: msgspec.Raw = _NOTHING
    annotations: msgspec.Raw = _NOTHING
    audio: msgspec.Raw = _NOTHING


_FURTHER: Final = tuple(name for name in _Delta.__struct_fields__ if name != "content")


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class Usage(msgspec.Struct):
    """Token counts."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: Any = None


_EVENTS: msgspec.json.Decoder[_Event] = msgspec.json.Decoder(_Event)
_encode = msgspec.json.Encoder().encode


def is_chat(request: TextRequest) -> bool:
    """Whether it goes to the chat endpoint, or to that for completions."""
    return bool(request.messages)


def body_of(request: TextRequest, model: str) -> bytes:
    """What is posted.

    Raises:
        InvalidRequestError: what a request has further is no JSON.
        EngineError: `invalid_request` for what such a server cannot do.
    """
    if request.continued_ids:
        raise EngineError("a model behind a server cannot go on in an answer", Code.INVALID_REQUEST)
    if request.max_tokens == 0:
        raise EngineError("max_tokens must be at least 1", Code.INVALID_REQUEST)
    body: dict[str, Any] = {
        **members(request.more),
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": request.temperature,
        "top_p": request.top_p,
    }
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.seed is not None:
        body["seed"] = request.seed % _SEEDS  # several servers take no larger ones
    if request.stop:
        body["stop"] = request.stop
    if is_chat(request):
        body["messages"] = [
            {
                "role": "system" if m.role == "developer" else m.role,
                "content": m.content,
                **members(m.more),
            }
            for m in request.messages
        ]
        if request.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    else:
        body["prompt"] = request.prompt if request.prompt is not None else request.token_ids
        if request.top_logprobs is not None:
            body["logprobs"] = request.top_logprobs
    return _encode(body)


def answer_max_bytes(request: TextRequest) -> int:
    """How much of a stream is read: an event a token, with what stands around it."""
    tokens = LIMITS.max_tokens_max if request.max_tokens is None else request.max_tokens
    each = LIMITS.token_max_bytes * (1 + (request.top_logprobs or 0))
    return LIMITS.upstream_event_max_bytes + tokens * each


class Events:
    """The data of each server-sent event; only its last line where there are several.

    Iterating raises EngineError: `engine_failed` for a line without end.

    Attributes:
        more: whether the next event is there already.
        done: whether the last one was told to be that.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.more = False
        self.done = False

    def __iter__(self) -> Iterator[bytes]:
        rest = bytearray()
        for piece in self._pieces:
            rest += piece
            if b"\n" in piece:  # else there is nothing new to look at in a long line
                *lines, rest = rest.split(b"\n")
                found = [bytes(line[5:].strip()) for line in lines if line.startswith(b"data:")]
                for left, data in zip(reversed(range(len(found))), found, strict=True):
                    self.more = left > 0
                    self.done = data == _DONE
                    yield data
            if len(rest) > LIMITS.upstream_event_max_bytes:
                raise EngineError("the server sends an event that is too large")
        if rest.startswith(b"data:"):
            yield bytes(rest[5:].strip())


def together(chunks: Iterable[TextChunk | Finish], said: Events) -> Iterator[TextChunk | Finish]:
    """As one chunk what text came together: each costs what it takes to pass it on."""
    held: list[str] = []
    try:
        for chunk in chunks:
            if isinstance(chunk, TextChunk) and not (chunk.logprobs or chunk.more):
                held.append(chunk.text)
                if not said.more:
                    yield TextChunk("".join(held))
                    held.clear()
                continue
            if held:
                yield TextChunk("".join(held))
                held.clear()
            yield chunk
    except EngineError:
        if held:
            yield TextChunk("".join(held))
        raise


class TextAnswer:
    """One stream of events to chunks."""

    def __init__(self, request: TextRequest) -> None:
        self._request = request
        self._text = TextStream(request.stop)
        self._pieces = 0
        self._usage = Usage()
        self._reason = ""

    def chunks(self, data: Iterable[bytes]) -> Iterator[TextChunk | Finish]:
        """Chunks as they come, then `Finish`.

        Raises:
            EngineError: `engine_failed` for an error event or what is no event at all,
                `connection_lost` where the stream only stops.
        """
        for event in data:
            if event == _DONE:
                break
            yield from self._event(_decode(event))
            if self._reason == "cut":
                break
        else:
            if not self._reason:
                raise EngineError("the server's answer only stops", Code.CONNECTION_LOST)
        rest = self._text.end()
        if rest.text:
            yield TextChunk(rest.text)
        if not self._reason:
            raise EngineError("the server's answer has no end")
        yield self._finish()

    def _event(self, event: _Event) -> Iterator[TextChunk]:
        if event.error is not None:
            raise EngineError("the server failed in the middle of its answer")
        if event.usage is not None:
            self._usage = event.usage
        for choice in (event.choices or ())[:1]:
            said = (choice.delta.content if choice.delta is not None else choice.text) or ""
            logprobs = () if self._request.top_logprobs is None else _logprobs(choice.logprobs)
            more = _more(choice.delta)
            if said or more:
                self._pieces += 1
            piece = self._text.feed(said.encode())
            # What says nothing is a sign of life all the same.
            yield TextChunk(piece.text, (), logprobs, more)
            if piece.stopped:
                self._reason = "cut"  # by us: the server did not heed `stop`
                return
            if choice.finish_reason is not None:
                self._reason = choice.finish_reason

    def _finish(self) -> Finish:
        reason = "stop" if self._reason == "cut" else _ENDS.get(self._reason)
        if reason is None:
            raise EngineError(f"the server broke the answer off: {self._reason[:40]!r}")
        most = LIMITS.max_tokens_max
        if self._request.max_tokens is not None:
            most = self._request.max_tokens
        completion, prompt = self._usage.completion_tokens, self._usage.prompt_tokens
        return Finish(
            reason,
            min(LIMITS.prompt_tokens_max, max(0, prompt or 0)),
            min(most, max(0, self._pieces if completion is None else completion)),
        )


def _decode(event: bytes) -> _Event:
    try:
        return _EVENTS.decode(event)
    except (ValueError, RecursionError):
        raise EngineError("the server's events are not those of its interface") from None


def _more(delta: _Delta | None) -> bytes:
    """JSON text of what a delta says beside its text; b"" where that is nothing."""
    if delta is None:
        return b""
    said = {
        name: raw for name in _FURTHER if not is_neutral(raw := getattr(delta, name), ([], "", {}))
    }
    more = _encode(said) if said else b""
    if len(more) > LIMITS.more_delta_max_bytes:
        raise EngineError("the server sends an event that is too large")
    return more


def _logprobs(said: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    if said is None:
        return ()
    if said.content is not None:
        return tuple(
            TokenLogprob(
                None,
                entry.token,
                _bounded(entry.logprob),
                _top((top.token, top.logprob) for top in entry.top_logprobs or ()),
            )
            for entry in said.content
        )
    tops = said.top_logprobs or []
    return tuple(
        TokenLogprob(
            None, token, _bounded(logprob), _top((tops[n] or {}).items()) if n < len(tops) else ()
        )
        for n, (token, logprob) in enumerate(
            zip(said.tokens or (), said.token_logprobs or (), strict=False)
        )
    )


def _top(pairs: Iterable[tuple[str, float | None]]) -> tuple[tuple[None, str, float], ...]:
    return tuple((None, token, _bounded(logprob)) for token, logprob in pairs)[
        : LIMITS.top_logprobs_max
    ]


def _bounded(logprob: float | None) -> float:
    """Servers say null, or a very small number, for a probability of nothing."""
    return _LOGPROB_MIN if logprob is None else min(0.0, max(_LOGPROB_MIN, logprob))
