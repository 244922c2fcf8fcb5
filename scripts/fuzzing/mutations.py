"""Mutations of bytes and of text, the same for the same state of a generator."""

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

INTERESTING = (
    *(0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 129, 255, 256, 1023, 1024, 4095, 4096),
    *(32767, 32768, 65535, 65536, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 - 1),
    *(2**53, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -128, -(2**31), -(2**63)),
)
_WIDTHS = tuple(struct.Struct(order + code) for order in "<>" for code in "BHIQ")
_GROWTH_MAX_BYTES = 1 << 16


def _flip(rng: Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.getrandbits(3)


def _set(rng: Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.getrandbits(8)


def _number(rng: Random, data: bytearray) -> None:
    """An edge where a number may stand, in either order of its bytes."""
    form = rng.choice(_WIDTHS)
    if len(data) >= form.size:
        at = rng.randrange(len(data) - form.size + 1)
        form.pack_into(data, at, rng.choice(INTERESTING) & ((1 << 8 * form.size) - 1))


def _nudge(rng: Random, data: bytearray) -> None:
    """A little more or less, as of a length that is off by one."""
    form = rng.choice(_WIDTHS)
    if len(data) >= form.size:
        at = rng.randrange(len(data) - form.size + 1)
        value = form.unpack_from(data, at)[0] + rng.choice((-8, -2, -1, 1, 2, 8))
        form.pack_into(data, at, value & ((1 << 8 * form.size) - 1))


def _insert(rng: Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(1 + rng.getrandbits(rng.randrange(6)))


def _delete(rng: Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + 1 + rng.getrandbits(rng.randrange(8))]


def _copy(rng: Random, data: bytearray) -> None:
    """A part once more, elsewhere; now and then many times."""
    start, at = rng.randrange(len(data)), rng.randrange(len(data) + 1)
    part = data[start : start + 1 + rng.getrandbits(rng.randrange(8))]
    times = rng.choice((1, 1, 1, 2, 3, 17, 300))
    data[at:at] = (part * times)[:_GROWTH_MAX_BYTES]


def _cut(rng: Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _ascii(rng: Random, data: bytearray) -> None:
    """A character that means something to some parser."""
    data[rng.randrange(len(data))] = rng.choice(b"\x00\t\n\r \"'\\/{}[]()<>:;,.=%&#+-*_09aAzZ\x7f")


_CHANGES: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_flip, _flip, _set, _number, _number, _nudge, _insert, _delete, _copy, _cut, _ascii),
)


def mutated(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight changes; one in eight inputs is the beginning of this and the end of another."""
    changed = bytearray(data)
    if others and rng.getrandbits(3) == 0:
        other = rng.choice(others)
        changed[rng.randrange(len(changed) + 1) :] = other[rng.randrange(len(other) + 1) :]
    for _ in range(1 + rng.getrandbits(rng.randrange(4))):
        if not changed:
            changed += rng.randbytes(1 + rng.getrandbits(4))
        rng.choice(_CHANGES)(rng, changed)
    return bytes(changed)


class Bytes:
    """Seeds, and their mutations byte by byte."""

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self.seeds = tuple(seeds)

    def make(self, rng: Random) -> bytes:
        data = rng.choice(self.seeds)
        if rng.getrandbits(6) == 0:
            return data
        return mutated(rng, data, self.seeds)


class Text(Bytes):
    """Lines of text: moved, lost, doubled, and their words exchanged for others that are known."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes], line: bytes = b"\n") -> None:
        super().__init__(seeds)
        self._words = (*words, *_WORDS)
        self._line = line

    def make(self, rng: Random) -> bytes:
        if rng.getrandbits(2) == 0:
            return super().make(rng)
        lines = rng.choice(self.seeds).split(self._line)
        for _ in range(1 + rng.getrandbits(rng.randrange(4))):
            self._change(rng, lines)
        data = self._line.join(lines)
        return mutated(rng, data, self.seeds) if rng.getrandbits(3) == 0 else data

    def _change(self, rng: Random, lines: list[bytes]) -> None:
        at = rng.randrange(len(lines))
        line = lines[at]
        match rng.randrange(8):
            case 0:
                lines.insert(rng.randrange(len(lines) + 1), line)
            case 1 if len(lines) > 1:
                del lines[at]
            case 2:
                other = rng.randrange(len(lines))
                lines[at], lines[other] = lines[other], line
            case 3:
                lines[at:at] = rng.choice(self.seeds).split(self._line)[:1] * rng.choice((1, 2, 50))
            case _:
                found = [*_WORD.finditer(line)]
                if not found:
                    lines[at] = line + rng.choice(self._words)
                    return
                word = rng.choice(found)
                lines[at] = line[: word.start()] + rng.choice(self._words) + line[word.end() :]


_WORD = re.compile(rb"[A-Za-z0-9_.-]+|[^A-Za-z0-9_.-]+")
_WORDS = (
    *(b"0", b"-1", b"1", b"1.5", b"1e999", b"nan", b"inf", b"true", b"null", b"", b" ", b"\t"),
    *(b"9" * 19, b"9" * 30, b"9" * 5000, b"0x10", b"1_000", b"[]", b"{}", b'""', b'"', b"'"),
    *(b"[" * 200, b"[" * 2000, b"{a=" * 2000, b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00"),
    *(b"\xe2\x80\xae", b"\xf0\x9f\x98\x80", b"a" * 300, b"a" * 70000, b"../..", b"%00", b"\\ud800"),
)
