"""Mutations of JSON and msgpack as what they say: members, arrays, numbers, texts, nesting.

A tree is decoded anew for each input, changed, and encoded; what no encoder would write stands in
it as text that is taken over as it is (`msgspec.Raw`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
from scripts.fuzzing.mutations import INTERESTING, Bytes, mutated

_CHANGES_MAX_BITS = 2
_STEPS_MAX = 12
_GROWTH_MAX_BYTES = 1 << 15
_MANY = (2, 3, 17, 65, 300, 1100)


@dataclass(frozen=True)
class Codec:
    """How trees are read and written.

    Attributes:
        decode, encode: of a whole tree.
        odd: values that are valid, or nearly so, and that nobody expects.
        nest: a value within so many arrays or objects.
        twice: an object whose member of that name stands twice.
    """

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    odd: tuple[msgspec.Raw, ...]
    nest: Callable[..., bytes]
    twice: Callable[[dict[Any, Any], Any], bytes]


def _json_nest(value: bytes, depth: int, *, objects: bool) -> bytes:
    if objects:
        return b'{"a":' * depth + value + b"}" * depth
    return b"[" * depth + value + b"]" * depth


def _json_twice(value: dict[Any, Any], name: Any) -> bytes:
    whole = _encode_json(value)
    member = _encode_json({name: value[name]})[1:-1]
    return whole[:-1] + (b"," if len(whole) > 2 else b"") + member + b"}"


def _pack_nest(value: bytes, depth: int, *, objects: bool) -> bytes:
    return (b"\x81\xa1a" if objects else b"\x91") * depth + value


def _pack_twice(value: dict[Any, Any], name: Any) -> bytes:
    members = [
        _encode_pack(part) for item in (*value.items(), (name, value[name])) for part in item
    ]
    return b"\xdf" + (len(members) // 2).to_bytes(4, "big") + b"".join(members)


_encode_json = msgspec.json.Encoder().encode
_encode_pack = msgspec.msgpack.Encoder().encode

_JSON_ODD = (
    *(
        b"null",
        b"true",
        b"false",
        b"[]",
        b"{}",
        b'""',
        b"0",
        b"-0",
        b"-0.0",
        b"1.0",
        b"0.5",
        b"1e2",
    ),
    *(b"1e999", b"-1e999", b"1e-999", b"5e-324", b"1e308", b"9007199254740993", b"0.1e1"),
    *(b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809", b"NaN"),
    *(b"Infinity", b"9" * 400, b"9" * 5000, b"-" + b"9" * 4301, b"0." + b"1" * 5000, b"01"),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\\ud83d\\ude00"', b'"\xff"', b'"\xc3"'),
    *(
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\\x"',
        b'"\n"',
        b'"\xe2\x80\xae"',
        b'"' + b"a" * 5000 + b'"',
    ),
    *(b'{"\\ud800":1}', b'{"":0}', b'{"a":1,"a":2}', b'{"type":[]}', b"[[],[]]", b"[null]", b"[1,"),
    *(
        b'"data:;base64,"',
        b'"AAAA"',
        b'"=AAA"',
        b'"urn:aigrid:"',
        b'"did:key:z"',
        b'"*"',
        b'"capability:"',
    ),
    *(b'"capability:translation?source=en&target=%ff"', b'"capability:a?max_latency_ms=1e999"'),
    *(b'{"$ref":"#"}', b'{"$ref":"http://192.0.2.1/"}', b'{"type":"string","pattern":"(a+)+$"}'),
    *(b'"0000-01-01T00:00:00.000Z"', b'"9999-12-31T23:59:59.999Z"', b'"2026-02-30T00:00:00.000Z"'),
)
_PACK_ODD = (
    *(b"\xc0", b"\xc2", b"\xc3", b"\x00", b"\xff", b"\x80", b"\x90", b"\xa0", b"\xc4\x00", b"\xc1"),
    *(
        b"\xcf" + b"\xff" * 8,
        b"\xd3\x80" + bytes(7),
        b"\xcb\x7f\xf8" + bytes(6),
        b"\xcb\x7f\xf0" + bytes(6),
    ),
    *(
        b"\xcb\xff\xf0" + bytes(6),
        b"\xca\x7f\xc0\x00\x00",
        b"\xcb\x80" + bytes(7),
        b"\xcf\x00\x20" + bytes(6),
    ),
    *(
        b"\xa1\xff",
        b"\xa3\xed\xa0\x80",
        b"\xa1\x00",
        b"\xd8\x01" + bytes(16),
        b"\xd6\xff" + bytes(4),
    ),
    *(
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ),
    *(b"\xdb\xff\xff\xff\xff", b"\x81\xc0\xc0", b"\x81\x90\x00", b"\xda\x13\x88" + b"a" * 5000),
    *(b"\xc5\x13\x88" + bytes(5000), b"\xdc\x04\x01" + b"\xc4\x00" * 1025, b"\x81\xa4type\xa0"),
)

JSON = Codec(
    msgspec.json.decode, _encode_json, tuple(map(msgspec.Raw, _JSON_ODD)), _json_nest, _json_twice
)
MSGPACK = Codec(
    msgspec.msgpack.decode,
    _encode_pack,
    tuple(map(msgspec.Raw, _PACK_ODD)),
    _pack_nest,
    _pack_twice,
)


class Tree(Bytes):
    """Seeds that are documents of a codec; each is one, or is mutated as bytes alone."""

    def __init__(self, seeds: Sequence[bytes], codec: Codec = JSON) -> None:
        super().__init__(seeds)
        self._codec = codec
        self._trees = tuple(seed for seed in self.seeds if _is_tree(seed, codec))
        self._names = tuple(sorted({name for t in self._trees for name in _names(codec.decode(t))}))

    def make(self, rng: Random) -> bytes:
        if not self._trees or rng.getrandbits(2) == 0:
            return super().make(rng)
        data = self.changed(rng, rng.choice(self._trees))
        return mutated(rng, data, self.seeds) if rng.getrandbits(4) == 0 else data

    def changed(self, rng: Random, seed: bytes) -> bytes:
        """A document with one to four changes in it; some have members of another besides."""
        holder = [self._codec.decode(seed)]
        if rng.getrandbits(2) == 0 and self._joined(rng, holder) and rng.getrandbits(1):
            return self._codec.encode(holder[0])
        try:
            for _ in range(1 + rng.getrandbits(rng.randrange(_CHANGES_MAX_BITS + 1))):
                self._change(rng, holder)
            return self._codec.encode(holder[0])
        except OverflowError:  # a number beside one that was the largest already
            return seed

    def _joined(self, rng: Random, holder: list[Any]) -> bool:
        """Take over some members of another seed, all of them as they are there."""
        other = self._codec.decode(rng.choice(self._trees))
        if not isinstance(holder[0], dict) or not isinstance(other, dict):
            return False
        holder[0].update((name, value) for name, value in other.items() if rng.getrandbits(1))
        return True

    def _change(self, rng: Random, holder: list[Any]) -> None:
        parent, key = _place(rng, holder)
        old = parent[key]
        match rng.randrange(10):
            case 0 | 1:
                parent[key] = rng.choice(self._codec.odd)
            case 2:
                other = [self._codec.decode(rng.choice(self._trees))]
                there, name = _place(rng, other)
                parent[key] = there[name]
            case 3 if parent is not holder:
                del parent[key]
            case 4:
                self._again(rng, parent, key)
            case 5:
                self._named(rng, parent, key)
            case 6:
                deep = rng.choice((1, 2, 30, 70, rng.randrange(900, 1010), 3000))
                nested = self._codec.nest(
                    self._codec.encode(old), deep, objects=rng.getrandbits(1) == 0
                )
                parent[key] = msgspec.Raw(nested)
            case _:
                parent[key] = self._scalar(rng, old)

    def _again(self, rng: Random, parent: Any, key: Any) -> None:
        """Once more, or many times; of an object, the same member twice."""
        if isinstance(parent, list):
            room = _GROWTH_MAX_BYTES // (1 + len(self._codec.encode(parent[key])))
            parent[key:key] = [parent[key]] * min(room, rng.choice(_MANY))
        elif isinstance(parent[key], dict) and parent[key]:
            inner = parent[key]
            parent[key] = msgspec.Raw(self._codec.twice(inner, rng.choice(list(inner))))

    def _named(self, rng: Random, parent: Any, key: Any) -> None:
        """A value under another name, or under one name more."""
        name = rng.choice(self._names) if self._names else "a"
        if isinstance(parent, dict):
            parent[name] = parent[key] if rng.getrandbits(1) else parent.pop(key)
        elif isinstance(parent[key], dict):
            parent[key][name] = rng.choice(self._codec.odd)

    def _scalar(self, rng: Random, old: Any) -> Any:
        """Something of the same kind."""
        if isinstance(old, bool):
            return rng.choice((not old, 0, 1, "true"))
        if isinstance(old, int):
            return rng.choice((old + 1, old - 1, -old, float(old), str(old), _edge(rng)))
        if isinstance(old, float):
            return rng.choice((old + 1, -old, old * 1e30, float(2**53), 0.0, _edge(rng)))
        if isinstance(old, str):
            return _text(rng, old)
        if isinstance(old, bytes):
            return mutated(rng, old, ()) if rng.getrandbits(2) else old * rng.choice(_MANY)
        return rng.choice(self._codec.odd)


def _edge(rng: Random) -> int:
    return rng.choice(INTERESTING)


def _text(rng: Random, old: str) -> str:
    at = rng.randrange(len(old) + 1)
    match rng.randrange(7):
        case 0:
            return old[:at]
        case 1:
            return old[:at] + rng.choice(_PIECES) + old[at:]
        case 2:
            return old[:at] + rng.choice(_PIECES) + old[at + 1 :]
        case 3:
            return (old or "a") * rng.choice(_MANY)
        case 4:
            return old.swapcase()
        case 5:
            return old + rng.choice(_PIECES)
    return old[:at] + old[at + 1 :]


_PIECES = (
    *("\x00", "\n", "\r\n", "\x1b[2J", " ", "\u202e", "\u2028", "\ufeff", "\U0001f600", "\uffff"),
    *("%", "/", "..", "\\", '"', "'", "{", "{{", "}}", "=", "&", "?", "#", ":", "-", "0", "z", "1"),
    *("\u0661", "\uff11", "\u00b2", "\u0130", "e\u0301", "a" * 70, "a" * 4000),
)


def _place(rng: Random, holder: list[Any]) -> tuple[Any, Any]:
    """A container and a key in it, from anywhere in the tree, the depth included."""
    parent: Any = holder
    key: Any = 0
    for _ in range(_STEPS_MAX):
        inner = parent[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.15:
            break
        parent = inner
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
    return parent, key


def _is_tree(seed: bytes, codec: Codec) -> bool:
    try:
        codec.decode(seed)
    except (ValueError, RecursionError):
        return False
    return True


def _names(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        found = {name for name in tree if isinstance(name, str)}
        return found.union(*map(_names, tree.values()))
    return set().union(*map(_names, tree)) if isinstance(tree, list) else set()
