"""Frames of a peer against the Yamux session: see `scripts.fuzz_yamux`, which does the same alone.

What an owner does with the streams meanwhile, and where the bytes are cut, follows from them.
"""

from functools import cache
from random import Random

from scripts import fuzz_yamux
from scripts.fuzzing.mutations import mutated
from scripts.fuzzing.target import RefusedError, Target


@cache
def _prepared() -> tuple[bytes, ...]:
    return tuple(fuzz_yamux.prepare(Random("yamux-sessions")))


class Frames:
    """A few frames, half of the time with some bytes changed; now and then anything at all."""

    def make(self, rng: Random) -> bytes:
        data = fuzz_yamux.sequence(rng, _prepared())
        return mutated(rng, data, ()) if rng.getrandbits(2) == 0 else data


def _session(data: bytes) -> None:
    """Cut elsewhere it is the same; whatever an owner does, all bounds hold."""
    violated = [
        fuzz_yamux.judge(Random(data), data, compare=compare, opens=opens)[1]
        for compare in (True, False)
        for opens in (False, True)
    ]
    if all(violated):
        raise RefusedError


TARGETS = (Target("yamux-sessions", Frames, _session, ()),)
