"""What every column's process needs to measure, lattica's too: the standard library alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

ECHO, WRITE, TOKENS = b"E", b"W", b"T"  # the first byte of a request, in every column
TOKEN_PADDING = b"t" * 52  # with its time of 8 bytes, a token is 60 bytes
REQUEST = bytes(1024)
TOGETHER = 32
KIB, MIB = 1 << 10, 1 << 20
WRITES = {"write_64k_mbps": 64 * KIB, "write_1m_mbps": MIB}

Found = dict[str, float]


@dataclass(frozen=True)
class Amounts:
    """How much each load is. `write_mib` is of one size of writes; bursts are of `burst` tokens."""

    requests: int = 2000
    requests_together: int = 6000
    fresh: int = 300
    connects: int = 5
    tokens: int = 200
    interval_ms: int = 10
    burst: int = 5000
    write_mib: int = 64

    def scaled(self, factor: float) -> "Amounts":
        """The same with less of everything, once at least, but for the time between two tokens."""
        less = {name: max(1, int(count * factor)) for name, count in asdict(self).items()}
        return Amounts(**{**less, "interval_ms": self.interval_ms})


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which so great a share of them lies; NaN where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def token() -> bytes:
    """A token that says when it was made, by the clock that all processes share."""
    return time.monotonic_ns().to_bytes(8, "big") + TOKEN_PADDING


def token_age_ms(made: bytes) -> float:
    return (time.monotonic_ns() - int.from_bytes(made[:8], "big")) / 1e6


def cpu_clock(pid: int) -> Callable[[], float]:
    """CPU seconds of all threads of a process, to the nanosecond (Linux: clock_getcpuclockid)."""
    clock = (~pid << 3) | 2
    return lambda: time.clock_gettime(clock)


class CpuMeter:
    """CPU of both sides from now on, per thing done, in milliseconds."""

    def __init__(self, server_pid: int) -> None:
        self._server = cpu_clock(server_pid)
        self._before = time.process_time(), self._server()

    def per(self, count: int) -> tuple[float, float]:
        """Of the client and of the server."""
        client, server = self._before
        return (
            (time.process_time() - client) / count * 1000,
            (self._server() - server) / count * 1000,
        )
