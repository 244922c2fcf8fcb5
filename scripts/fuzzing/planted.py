"""Decoders with a fault in them, by which the fuzzer itself is tested."""

import os
import time
from functools import partial
from random import Random

from scripts.fuzzing.target import Target

_HELD: list[bytearray] = []


class _Numbers:
    """Inputs that are a number below a hundred."""

    def make(self, rng: Random) -> bytes:
        return str(rng.randrange(100)).encode()


def _run(fault: str, data: bytes) -> None:
    if int(data) % 10 == 0:
        raise ValueError("announced")
    if data != b"77":
        return
    match fault:
        case "error":
            raise KeyError("not announced")
        case "hang":
            time.sleep(3600)
        case "slow":
            began = time.thread_time()
            while time.thread_time() - began < 0.2:
                pass
        case "death":
            os._exit(139)
        case "unraisable":
            _Lost()
        case "print":
            print("said to whoever reads standard output", flush=True)
        case "memory":
            _HELD.append(bytearray(b"x") * (64 << 20))


class _Lost:
    """What goes wrong when this goes reaches nobody."""

    def __del__(self) -> None:
        raise OSError("in a finalizer")


class _Unmade:
    """Numbers, one of which cannot be made."""

    def make(self, rng: Random) -> bytes:
        if (data := _Numbers().make(rng)) == b"77":
            raise OverflowError("a mutator with a fault")
        return data


TARGETS = (
    *(
        Target(f"planted-{fault}", _Numbers, partial(_run, fault), (ValueError,))
        for fault in ("error", "hang", "slow", "death", "memory", "unraisable")
    ),
    Target("planted-print", _Numbers, partial(_run, "print"), (ValueError,)),
    Target("planted-mutator", _Unmade, partial(_run, "none"), (ValueError,)),
)
