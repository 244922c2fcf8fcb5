"""Further members of an answer's pieces, such as calls of tools: checked, and put together. Pure.

They are those of OpenAI's deltas, whatever the dialect. Another node has made them: they may be
anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import msgspec

from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.nesting import is_nested_deeper

_OURS: Final = ("role", "content")  # these are said elsewhere
_encode = msgspec.json.Encoder().encode
_DECODER: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


def checked(more: bytes) -> bytes:
    """JSON text of an object with what a piece says beside its text; b"" where that is nothing.

    Raises:
        RemoteError: `protocol_violation`, it is no object, or nested deeper than anybody needs.
    """
    try:
        said = _DECODER.decode(more)
    except (ValueError, RecursionError):
        raise RemoteError(
            "The answer has further members that are no JSON object.", Code.PROTOCOL_VIOLATION
        ) from None
    if is_nested_deeper(said, LIMITS.answer_depth_max):
        raise RemoteError(
            "The answer has further members that are nested too deeply.", Code.PROTOCOL_VIOLATION
        )
    kept = {name: value for name, value in said.items() if name not in _OURS}
    return _encode(kept) if kept else b""


def joined(pieces: Iterable[bytes]) -> dict[str, Any]:
    """The members of a whole message out of those of its pieces, each as `checked` gives it.

    Text is put together, and so is each call of a tool; of anything else the last one counts.
    """
    whole: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        for name, value in _DECODER.decode(piece).items():
            if name == "tool_calls" and isinstance(value, list):
                for position, call in enumerate(value):
                    _add_call(calls, position, call)
            else:
                _add(whole, name, value)
    if calls:
        whole["tool_calls"] = [_grown(calls[index]) for index in sorted(calls)]
    return _grown(whole)


@dataclass(slots=True)
class _Growing:
    """What comes bit by bit; put together once, for there may be any number of bits."""

    kind: type
    bits: list[Any]

    def whole(self) -> str | list[Any]:
        return "".join(self.bits) if self.kind is str else list(chain.from_iterable(self.bits))


def _add(members: dict[str, Any], name: str, value: object) -> None:
    if isinstance(value, str | list):
        before = members.get(name)
        if isinstance(before, _Growing) and before.kind is type(value):
            before.bits.append(value)
        else:
            members[name] = _Growing(type(value), [value])
    elif value is not None:
        members[name] = value


def _add_call(calls: dict[int, dict[str, Any]], position: int, said: object) -> None:
    """A piece of a call: its id, type and name come once, its arguments bit by bit."""
    if not isinstance(said, dict):
        return
    index = said.get("index")
    index = index if isinstance(index, int) and not isinstance(index, bool) else position
    call = calls.setdefault(index, {})
    for name, value in said.items():
        if name == "function" and isinstance(value, dict):
            _add_function(call, value)
        elif name != "index" and value is not None:
            call[name] = value


def _add_function(call: dict[str, Any], said: dict[str, Any]) -> None:
    function = call.get("function")
    if not isinstance(function, dict):
        function = call["function"] = {}
    for name, value in said.items():
        if name == "arguments" and isinstance(value, str):
            _add(function, name, value)
        elif value is not None and name != "arguments":
            function[name] = value


def _grown(members: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.whole()
        if isinstance(value, _Growing)
        else (_grown(value) if name == "function" and isinstance(value, dict) else value)
        for name, value in members.items()
    }
