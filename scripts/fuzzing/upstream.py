"""What servers behind this node answer: events, chunks, tensors."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from scripts.fuzzing.dialects import Lined, made
from scripts.fuzzing.mutations import Text, mutated
from scripts.fuzzing.target import RefusedError, Target
from scripts.fuzzing.trees import Tree

from aigrid.engines.upstream.body import Body
from aigrid.engines.upstream.oip_tensors import tensors_of
from aigrid.engines.upstream.openai_text import Events, TextAnswer, together
from aigrid.protocol import messages
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.tensors import TensorSpec


def _events(data: bytes) -> None:
    """A server's stream of events, cut anywhere, comes to the same text or the same error."""
    request = TextRequest(prompt="x", stop=("STOP",), top_logprobs=2)
    text, error = _said([data], request)
    again, other = _said([data[i : i + 7] for i in range(0, len(data), 7)], request)
    assert (again, other and other.code) == (text, error and error.code)
    if error is not None:
        raise error


def _said(pieces: Sequence[bytes], request: TextRequest) -> tuple[str, EngineError | None]:
    """The text, and what ended it."""
    events = Events(pieces)
    text = ""
    try:
        for chunk in together(TextAnswer(request).chunks(events), events):
            messages.encode(messages.Chunks((chunk,)))
            text += getattr(chunk, "text", "")
    except EngineError as error:
        return text, error
    return text, None


def _chunked(data: bytes) -> None:
    whole = _body([data])
    assert whole == _body([data[i : i + 5] for i in range(0, len(data), 5)])
    if whole is None:
        raise RefusedError


def _body(pieces: Sequence[bytes]) -> bytes | None:
    body = Body(None, chunked=True)
    try:
        return b"".join(body.feed(piece) for piece in pieces)
    except ValueError:
        return None


_SPECS = {"y": TensorSpec("y", "FP32", (-1, 2)), "t": TensorSpec("t", "BYTES", (1,))}


def _answer(data: bytes) -> None:
    head, found, body = data.partition(b"\n")
    length = head.decode("latin-1") if found else None
    tensors_of(body if found else data, length, _SPECS, ("y", "t"))


class Stream:
    """Events of a stream, each mutated as JSON or not at all."""

    def __init__(self) -> None:
        self._events = Tree([json.dumps(one).encode() for one in _DELTAS])

    def make(self, rng: Random) -> bytes:
        lines = [b"data: " + self._events.make(rng) for _ in range(1 + rng.getrandbits(2))]
        lines.append(b"data: [DONE]" if rng.getrandbits(2) else b": comment")
        data = rng.choice((b"\n\n", b"\r\n\r\n", b"\n")).join(lines) + b"\n"
        return mutated(rng, data, ()) if rng.getrandbits(2) == 0 else data


_DELTAS: tuple[Any, ...] = (
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]},
    {"choices": [{"index": 0, "text": "lo ST", "finish_reason": None}]},
    {"choices": [{"delta": {"content": "OP", "tool_calls": [{"index": 0, "id": "a"}]}}]},
    {
        "choices": [
            {
                "delta": {"content": "x", "reasoning_content": "so"},
                "logprobs": {"content": [{"token": "x", "logprob": -0.5, "top_logprobs": []}]},
            }
        ]
    },
    {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}},
    {"error": {"message": "no"}},
)
_ANSWERS: tuple[Any, ...] = (
    {
        "model_name": "m",
        "outputs": [
            {"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]},
            {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        ],
    },
    {
        "outputs": [
            {
                "name": "y",
                "shape": [1, 2],
                "datatype": "FP32",
                "parameters": {"binary_data_size": 8},
            },
            {"name": "t", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 0}},
        ]
    },
)
_CHUNKED = (b"5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n")


TARGETS = (
    Target("upstream-events", Stream, _events, (EngineError,)),
    Target("upstream-chunks", lambda: Text(_CHUNKED, (b"ffffffff", b"0;a"), b"\r\n"), _chunked, ()),
    Target("upstream-tensors", made(_ANSWERS, Lined), _answer, (EngineError,)),
)
