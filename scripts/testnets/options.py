"""Everything that a run depends on, beside the code and the machine: a flat table with help.

The same options give the same schedule of requests and faults. What comes of it is not the same
twice: processes and sockets are real.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from scripts.simulation.spread import spread

LOOPBACK, NAMESPACES = "loopback", "namespaces"
NETS = (LOOPBACK, NAMESPACES)
THROUGH = ("all", "spared")


def _option(default: Any, doc: str, **more: Any) -> Any:
    return field(default=default, metadata={"doc": doc, **more})


@dataclass(frozen=True, slots=True)
class Options:
    """See each field's `doc`. Rates of faults are those of the whole grid."""

    nodes: int = _option(5, "node processes in the grid")
    duration: float = _option(
        0.0, "seconds of load and faults; 0: until Ctrl-C", flags=("--seconds",)
    )
    seed: int = _option(1, "what is asked and broken when follows from it")

    models: str = _option("", "starter models, or capability:NAME, that are asked for; commas")
    echo: bool = _option(default=False, doc="the last node offers the echo model")
    holders: int = _option(1, "nodes that have each model on the disk from the start")
    rate: float = _option(0.0, "requests a second, at random times")
    clients: int = _option(16, "requests under way at once; others wait, and that counts")
    stream: float = _option(0.5, "share of requests that are streamed")
    words: int = _option(8, "words of a prompt")
    tokens: int = _option(32, "tokens of an answer at most")
    patience: float = _option(30.0, "seconds that a request may take")
    through: str = _option("all", "whose gateways are asked: all, spared or n0,n3")

    kill: float = _option(0.0, "nodes killed (kill -9) a minute; each comes back")
    down: float = _option(5.0, "seconds until a killed node is started again")
    stop: float = _option(0.0, "nodes held (SIGSTOP) a minute")
    held: float = _option(10.0, "seconds until a held node goes on")
    restart: float = _option(0.0, "nodes stopped (SIGTERM) and started again a minute")
    drop: float = _option(0.0, "nodes a minute all of whose connections end at once")
    partition: float = _option(0.0, "times a minute that the grid falls in two (namespaces)")
    cut: float = _option(15.0, "seconds that it stays so")
    spare: float = _option(0.34, "share of nodes that nothing is done to; leaks are sought there")

    net: str = _option(LOOPBACK, f"one of {', '.join(NETS)}; the latter needs root")
    latency: str = _option("uniform:5-50", "ms one way, drawn once per pair (namespaces)")
    loss: float = _option(0.0, "share of packets lost each way (namespaces)")

    success_min: float = _option(0.95, "share of requests that must be answered")
    leak_max: float = _option(256.0, "KiB a minute that a spared node may surely grow by")
    growth_max: float = _option(
        0.2, "share by which descriptors, tasks, threads may grow; 16 of each may anyway"
    )
    warmup: float = _option(0.25, "share of the run before leaks are sought")
    settle: float = _option(60.0, "seconds after the faults until all must see all")

    def __post_init__(self) -> None:
        spread(self.latency)
        if self.nodes < 1:
            raise ValueError("--nodes must be at least 1")
        if self.net not in NETS:
            raise ValueError(f"--net is one of {', '.join(NETS)}")
        if self.partition and self.net != NAMESPACES:
            raise ValueError("--partition needs --net namespaces")
        if self.partition and not self.duration:
            raise ValueError("--partition needs a --duration")
        if self.drop and not hasattr(os, "pidfd_open"):
            raise ValueError("--drop needs Linux")
        for name in ("stream", "spare", "loss", "success_min", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} is a share, from 0 to 1")
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"--{one.name.replace('_', '-')} is not negative")
        if self.rate and not self.asked:
            raise ValueError("--rate needs --models")
        if not 1 <= self.holders <= self.nodes:
            raise ValueError("--holders is at least 1, and at most --nodes")
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
    def breaks(self) -> bool:
        """Whether anything is done to nodes."""
        return bool(self.kill or self.stop or self.restart or self.drop or self.partition)


def add_to(parser: argparse.ArgumentParser) -> None:
    """A flag for each option."""
    for one in fields(Options):
        flags = ("--" + one.name.replace("_", "-"), *one.metadata.get("flags", ()))
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
    return " ".join([*words, *more])


def _spelled(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
