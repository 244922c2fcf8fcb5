"""Whose connections were ended for breaking the protocol waits before the next handshake. Pure.

A handshake costs some milliseconds of computing before it is known who is there, so whoever is cut
off and at once comes back takes more from others than what it was cut off for. All that is known
so early is the address, which honest nodes may share: they wait as long, and that is little.
"""

from dataclasses import dataclass
from typing import Final

FIRST_SECONDS: Final = 0.5
MOST_SECONDS: Final = 2.0
FORGOTTEN_SECONDS: Final = 60.0
_HOSTS_MAX: Final = 1024


@dataclass(slots=True)
class _Host:
    breaches: int
    last: float


class Penance:
    """By host, as an address; of a bounded number, those whose last breach is oldest go first."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    def broke(self, host: str, now: float) -> None:
        """A connection from there was ended for what was said on it."""
        known = self._hosts.pop(host, None)
        fresh = known is None or now - known.last > FORGOTTEN_SECONDS
        self._hosts[host] = _Host(1 if known is None or fresh else known.breaches + 1, now)
        if len(self._hosts) > _HOSTS_MAX:
            del self._hosts[next(iter(self._hosts))]

    def wait_seconds(self, host: str, now: float) -> float:
        """How long the next handshake from there waits: twice as long each time, up to a bound."""
        known = self._hosts.get(host)
        if known is None or now - known.last > FORGOTTEN_SECONDS:
            return 0.0
        return float(min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(known.breaches - 1, 16)))
