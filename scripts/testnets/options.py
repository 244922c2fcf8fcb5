"""Everything that a run depends on, beside the code and the machine: a flat table with help.

The same options give the same schedule of requests and faults. What comes of it is not the same
twice: processes and sockets are real.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from scripts.simulation.network.spread import spread

LOOPBACK, NAMESPACES = "loopback", "namespaces"
NETS = (LOOPBACK, NAMESPACES)
THROUGH = ("all", "spared")


LATENCY_MS_MAX = 60_000
DEVIATION_MAX = 4.0  # of a logarithm: beyond it e**x is days
_DAY = 86_400.0
_SHARE = (0.0, 1.0)
_A_MINUTE = (0.0, 6000.0)
_SIZE = (0.0, 1e9)


def _option(
    default: Any, doc: str, bounds: tuple[float, float] = (0, 0), flags: tuple[str, ...] = ()
) -> Any:
    """`bounds` are the least and the most that a number may be; text and switches have none."""
    return field(default=default, metadata={"doc": doc, "bounds": bounds, "flags": flags})


@dataclass(frozen=True, slots=True)
class Options:
    """See each field's `doc`. Rates of faults are those of the whole grid."""

    nodes: int = _option(5, "node processes in the grid", (1, 1000))
    duration: float = _option(
        0.0,
        "seconds of load and faults; 0: until Ctrl-C",
        (0.0, 365 * _DAY),
        ("--seconds",),
    )
    seed: int = _option(1, "what is asked and broken when follows from it", (0, 2**63 - 1))

    models: str = _option("", "starter models, or capability:NAME, that are asked for; commas")
    echo: bool = _option(default=False, doc="the last node offers the echo model")
    holders: int = _option(1, "nodes that have each model on the disk from the start", (1, 1000))
    rate: float = _option(0.0, "requests a second, at random times", (0.0, 10_000.0))
    clients: int = _option(
        16, "requests under way at once; others wait, and that counts", (1, 4096)
    )
    stream: float = _option(0.5, "share of requests that are streamed", _SHARE)
    words: int = _option(8, "words of a prompt", (1, 100_000))
    tokens: int = _option(32, "tokens of an answer at most", (1, 1_000_000))
    patience: float = _option(30.0, "seconds that a request may take", (0.1, _DAY))
    through: str = _option("all", "whose gateways are asked: all, spared or n0,n3")

    kill: float = _option(0.0, "nodes killed (kill -9) a minute; each comes back", _A_MINUTE)
    down: float = _option(5.0, "seconds until a killed node is started again", (0.0, _DAY))
    stop: float = _option(0.0, "nodes held (SIGSTOP) a minute", _A_MINUTE)
    held: float = _option(10.0, "seconds until a held node goes on", (0.0, _DAY))
    restart: float = _option(0.0, "nodes stopped (SIGTERM) and started again a minute", _A_MINUTE)
    drop: float = _option(0.0, "nodes a minute all of whose connections end at once", _A_MINUTE)
    partition: float = _option(
        0.0, "times a minute that the grid falls in two (namespaces)", _A_MINUTE
    )
    cut: float = _option(15.0, "seconds that it stays so", (0.0, _DAY))
    spare: float = _option(
        0.34, "share of nodes that nothing is done to; leaks are sought there", _SHARE
    )

    net: str = _option(LOOPBACK, f"one of {', '.join(NETS)}; the latter needs root")
    latency: str = _option("uniform:5-50", "ms one way, drawn once per pair (namespaces)")
    loss: float = _option(0.0, "share of packets lost each way (namespaces)", _SHARE)

    success_min: float = _option(0.95, "share of requests that must be answered", _SHARE)
    leak_max: float = _option(256.0, "KiB a minute that a spared node may surely grow by", _SIZE)
    growth_max: float = _option(
        0.2, "share by which descriptors, tasks, threads may grow; 16 of each may anyway", _SIZE
    )
    warmup: float = _option(0.25, "share of the run before leaks are sought", _SHARE)
    settle: float = _option(60.0, "seconds after the faults until all must see all", (0.0, _DAY))
    interval: float = _option(2.0, "seconds between looks", (0.1, 3600.0))

    def __post_init__(self) -> None:
        """Raises ValueError, with a sentence about the first that cannot be."""
        for one in fields(self):
            _check_number(one.name, getattr(self, one.name), one.metadata["bounds"])
        _check_latency(self.latency)
        if self.net not in NETS:
            raise ValueError(f"--net is one of {', '.join(NETS)}")
        if self.partition and self.net != NAMESPACES:
            raise ValueError("--partition needs --net namespaces")
        for name, needs in _MATTERS_WITH.items():
            if getattr(self, name) != _default(name) and not getattr(self, needs):
                raise ValueError(f"--{name} changes nothing without --{needs}")
        for name in ("latency", "loss"):
            if getattr(self, name) != _default(name) and self.net != NAMESPACES:
                raise ValueError(f"--{name} needs --net namespaces")
        if self.partition and not self.duration:
            raise ValueError("--partition needs a --duration")
        if self.drop and not hasattr(os, "pidfd_open"):
            raise ValueError("--drop needs Linux")
        if self.spared == self.nodes and (self.kill or self.stop or self.restart or self.drop):
            raise ValueError("--spare leaves no node to which anything could be done")
        if self.rate and not self.asked:
            raise ValueError("--rate needs --models")
        if self.holders > self.nodes:
            raise ValueError("--holders is at most --nodes")
        if self.through not in THROUGH and not self.named_askers <= set(range(self.nodes)):
            raise ValueError("--through is all, spared, or names such as n0,n3")

    @property
    def asked(self) -> tuple[str, ...]:
        """What requests name as their model."""
        return tuple(filter(None, self.models.split(",")))

    @property
    def fetched(self) -> tuple[str, ...]:
        """The models among them, which their holders fetch."""
        return tuple(one for one in self.asked if not one.startswith("capability:"))

    @property
    def named_askers(self) -> frozenset[int]:
        """Numbers of the nodes that `through` names; -1 for what is no name of a node."""
        names = [] if self.through in THROUGH else self.through.split(",")
        return frozenset(
            int(one[1:]) if one[:1] == "n" and one[1:].isdecimal() else -1 for one in names
        )

    @property
    def spared(self) -> int:
        """How many nodes nothing is done to."""
        return round(self.spare * self.nodes)

    @property
    def breaks(self) -> bool:
        """Whether anything is done to nodes."""
        return bool(self.faults)

    @property
    def faults(self) -> tuple[str, ...]:
        """The kinds of what is done to nodes."""
        kinds = ("kill", "stop", "restart", "drop", "partition")
        return tuple(kind for kind in kinds if getattr(self, kind))


_MATTERS_WITH = {"down": "kill", "held": "stop", "cut": "partition"}


def _default(name: str) -> Any:
    return next(one.default for one in fields(Options) if one.name == name)


def _check_number(name: str, value: object, bounds: tuple[float, float]) -> None:
    """Raises ValueError: NaN and the infinities, too, are between no bounds.

    With them in a schedule a run would have no end.
    """
    if isinstance(value, bool | str):
        return
    assert isinstance(value, int | float)
    least, most = bounds
    if not least <= value <= most:
        flag = "--" + name.replace("_", "-")
        raise ValueError(f"{flag} is a number from {least:g} to {most:g}, not {value!s:.20}")


def _check_latency(text: str) -> None:
    """Raises ValueError."""
    found = spread(text)
    second = DEVIATION_MAX if found.kind == "lognormal" else LATENCY_MS_MAX
    if not (found.first <= LATENCY_MS_MAX and found.second <= second):
        raise ValueError(
            f"--latency has at most {LATENCY_MS_MAX} ms, and a deviation of {DEVIATION_MAX:g}"
        )


def add_to(parser: argparse.ArgumentParser) -> None:
    """A flag for each option."""
    for one in fields(Options):
        flags = ("--" + one.name.replace("_", "-"), *one.metadata["flags"])
        doc = one.metadata["doc"].replace("%", "%%")
        if isinstance(one.default, bool):
            parser.add_argument(*flags, action="store_true", help=doc)
            continue
        shown = f"{doc} ({one.default})" if one.default != "" else doc
        parser.add_argument(
            *flags,
            dest=one.name,
            type=type(one.default),
            default=one.default,
            metavar="X",
            help=shown,
        )


def options_of(said: argparse.Namespace) -> Options:
    """Raises ValueError."""
    return Options(**{one.name: getattr(said, one.name) for one in fields(Options)})


def replay_line(options: Options, more: Sequence[str] = ()) -> str:
    """The command that makes the same schedule."""
    words = ["python", "scripts/testnet.py"]
    for one in fields(Options):
        value = getattr(options, one.name)
        if value == one.default and one.name != "seed":
            continue
        flag = "--" + one.name.replace("_", "-")
        words += [flag] if isinstance(value, bool) else [flag, _spelled(value)]
    return shlex.join([*words, *more])


def _spelled(value: float | str) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if isinstance(value, str) or float(short) == value else str(value)
