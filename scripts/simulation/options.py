"""Everything that a run depends on, beside the code: one flat table with a line of help each.

The same options give the same run. A scenario is a file of them, flags come on top of it.
"""

import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from scripts.simulation.attacks.defences import DEFENCES, listed
from scripts.simulation.attacks.occasions import idle
from scripts.simulation.network.spread import spread
from scripts.simulation.plants import PLANTS

from aigrid.protocol.limits import LIMITS

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
ON_THE_WIRE = ("eclipse", "covert", "resend")
KINDS = ("cheat", "liar", "sybil", "flood", "replay", "censor", "poison", "squat", *ON_THE_WIRE)
NETS = ("model", "libp2p")
MODES = ("services", "events")


SEED_MAX = 2**63 - 1
DAY_SECONDS = 86_400
HONEST_MIN = 2
IN_EVENTS = frozenset(
    {
        "mode",
        "sample",
        "seed",
        "nodes",
        "duration_seconds",
        "settle_seconds",
        "connections",
        "latency_ms",
        "loss",
        "holders",
        "rate",
        "publish",
        "churn",
        "down_seconds",
        "partition",
        "success_min",
        "plant",
        "without",
    }
)
"""What `--mode events` looks at."""
EVENTS_MAX_BYTES = 4 << 30  # of its arrays: 4 a version held, 2 a node and version on its way
EVENTS_PLANTS = ("merge", "reconciliation")
EVENTS_WITHOUT = ("freshness", "repair")
WITHOUT_ON_THE_WIRE = ("ihave", "seen")


def _option(default: Any, doc: str, **range_: Any) -> Any:
    return field(default=default, metadata={"doc": doc, **range_})


def _number(default: float, doc: str, least: float, most: float) -> Any:
    return _option(default, doc, least=least, most=most)


def _share(default: float, doc: str) -> Any:
    return _number(default, doc, 0, 1)


def _drawn(default: str, doc: str, most: float) -> Any:
    """A distribution between 0 and `most`."""
    return _option(default, doc, least=0, most=most)


def _choice(default: str, doc: str, choices: Iterable[str]) -> Any:
    named = tuple(choices)
    return _option(default, f"{doc}: {', '.join(named)}", choices=named)


def _switch(doc: str) -> Any:
    return _option(default=False, doc=doc)


@dataclass(frozen=True, slots=True)
class Options:
    """See each field's `doc`; each has the range, or the choices, that it may be of.

    Raises:
        ValueError: one is out of its range, or two do not go together.
    """

    scenario: str = ""
    title: str = ""
    about: str = ""

    mode: str = _choice("services", "what is run, see the docs", MODES)
    sample: int = _number(20, "nodes that are real, of a crowd (--mode events)", 2, 1000)
    seed: int = _number(1, "everything random follows from it", 0, SEED_MAX)
    net: str = _choice("model", "the network", NETS)
    nodes: int = _number(20, "nodes in the grid, byzantine ones included", 2, 1_000_000)
    duration_seconds: float = _number(60.0, "of load and faults", 1, DAY_SECONDS)
    settle_seconds: float = _number(
        60.0, "after the faults, until liveness must hold", 1, DAY_SECONDS
    )
    connections: int = _number(8, "connections that a node seeks (a real node: 48)", 1, 10_000)
    storm: bool = _switch("all join at once through one node, at its real limits")

    ready: bool = _switch("the grid is up already: nobody joins, all start on what that left")

    latency_ms: str = _drawn("uniform:5-50", "one way, drawn once per pair of nodes", 60_000)
    loss: str = _drawn("0", "share lost each way, drawn once per pair, while faults last", 0.9)

    models: int = _number(2, "names of models", 1, 1000)
    holders: int = _number(3, "honest nodes, beside the first, that hold each of them", 1, 10_000)
    slots: int = _number(4, "requests that a holder answers at once", 1, 1000)
    cold: bool = _switch("nothing is loaded when the load begins")
    load_seconds: str = _drawn("uniform:1-3", "loading a model, drawn once per node", 3600)
    token_ms: str = _drawn("uniform:5-30", "each token of an answer, drawn once per node", 60_000)
    crashes: float = _share(0.0, "share of requests in which the engine's worker dies")

    rate: float = _number(2.0, "requests a second in the whole grid, at random times", 0, 100_000)
    askers: int = _number(0, "nodes that ask, 0: all honest ones", 0, 1_000_000)
    publish: float = _number(
        1.0, "records that nodes issue a second, in the whole grid", 0, 100_000
    )
    words: int = _number(6, "tokens of a request, and so of its answer", 1, 10_000)
    by_capability: bool = _switch("ask for a capability instead of a model")
    patience_seconds: float = _number(30.0, "that a request waits for a model", 0, DAY_SECONDS)
    audit: float = _share(0.0, "share of answers that nodes check at another holder")

    churn: float = _number(0.0, "nodes killed a minute; each comes back", 0, 100_000)
    down_seconds: str = _drawn("uniform:5-20", "until a killed node comes back", DAY_SECONDS)
    partition: float = _share(0.0, "share of nodes cut off from the others, half of the time")
    slow: int = _number(0, "holders that are slow", 0, 10_000)
    slow_factor: float = _number(
        20.0, "how many times slower they compute and are reached", 1, 10_000
    )
    skewed: int = _number(0, "nodes whose clock is wrong while faults last", 0, 1_000_000)
    skew_seconds: float = _number(0.0, "how far those are ahead", -DAY_SECONDS, DAY_SECONDS)

    byzantine: float = _share(0.0, "share of nodes that attack")
    kind: str = _choice("cheat", "how", KINDS)
    flood_rate: float = _number(50.0, "records a second of each node that floods", 1, 100_000)

    success_min: float = _share(0.95, "share of requests answered while faults last")
    success_after_min: float = _share(0.99, "share of requests answered afterwards")
    wrong_max: float = _share(0.0, "share of answers that may be wrong while faults last")
    wrong_after_max: float = _share(0.0, "the same, afterwards")

    first_min: float = _share(
        0.0, "share of answers that the first node asked gave, while faults last"
    )
    quick_min: float = _share(0.0, "share of answers within --quick-seconds, while faults last")
    quick_seconds: float = _number(1.0, "from a request to the end of its answer", 0, DAY_SECONDS)

    spread_seconds: float = _number(
        2.0, "beyond 8 latencies: until all are to have what is said", 0, DAY_SECONDS
    )
    spread_min: float = _share(0.9, "share of records that all have by then, where nothing hinders")

    plant: str = _choice("", "a bug put into the node on purpose", ("", *PLANTS))
    without: str = _option("", f"defences switched off, with commas: {', '.join(DEFENCES)}")

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one.name, getattr(self, one.name), one.metadata)
        listed(self.without)
        for wrong, why in (*self._at_odds(), *self._nobody(), *self._of_its_mode()):
            if wrong:
                raise ValueError(why)

    @property
    def attackers(self) -> int:
        return round(self.byzantine * self.nodes)

    @property
    def cut_off(self) -> int:
        return round(self.partition * self.nodes)

    def _at_odds(self) -> Iterator[tuple[bool, str]]:
        """(whether it is so, what does not go together)."""
        model = self.net != "libp2p"
        yield (
            self.attackers > 0 and self.kind in ON_THE_WIRE and model,
            f"{self.kind} is an attack on what --net libp2p has alone",
        )
        for name in WITHOUT_ON_THE_WIRE:
            yield (
                name in listed(self.without) and model,
                f"{name} is a defence of what --net libp2p has alone",
            )
        yield self.ready and self.storm, "where the grid is up already, nobody joins"
        yield self.attackers > self.nodes - HONEST_MIN, f"at least {HONEST_MIN} nodes are honest"

    def _nobody(self) -> Iterator[tuple[bool, str]]:
        """Faults and attacks that too few would be there for: the run would show nothing."""
        honest = self.nodes - self.attackers
        yield (
            self.byzantine > 0 and not self.attackers,
            f"--byzantine {self.byzantine:g} of {self.nodes} nodes is nobody: none would attack",
        )
        yield (
            self.partition > 0 and not 0 < self.cut_off < self.nodes,
            f"--partition {self.partition:g} of {self.nodes} nodes would cut nobody off",
        )
        yield (
            self.mode != "events" and self.holders > honest - 1,
            f"there are no --holders {self.holders} of {honest - 1} honest nodes beside the first",
        )
        yield (
            self.slow > self.holders,
            f"--slow {self.slow} is more than there are honest holders",
        )
        yield (
            self.skewed > honest - 2,
            f"of {honest} honest nodes two keep right clocks: {self.skewed} wrong are too many",
        )
        yield self.skewed > 0 and not self.skew_seconds, "clocks that are 0 s ahead are right"
        yield (
            self.churn > 0 and honest < 4,
            "nobody is killed among fewer than 4 honest nodes: the first and a holder stay",
        )

    def _of_its_mode(self) -> Iterator[tuple[bool, str]]:
        """What the mode that is run does not look at."""
        if self.mode != "events":
            for why in idle(self):
                yield True, why
            yield self.sample != 20, "only --mode events looks at --sample"
            return
        for name, (default, _) in settable().items():
            yield (
                name not in IN_EVENTS and getattr(self, name) != default,
                f"--mode events does not look at {flag_of(name)}",
            )
        yield (
            self.plant not in ("", *EVENTS_PLANTS),
            f"--mode events can plant {' or '.join(EVENTS_PLANTS)}, not {self.plant}",
        )
        for name in listed(self.without):
            yield (
                name not in EVENTS_WITHOUT,
                f"--mode events can leave out {' or '.join(EVENTS_WITHOUT)}, not {name}",
            )
        yield (
            self.nodes < self.holders + 3,
            f"beside {self.holders} holders --mode events takes at least 3 nodes",
        )
        most = LIMITS.availability_ttl_seconds
        yield (
            self.duration_seconds + self.settle_seconds > most,
            f"--mode events renews no offer: duration and settling take {most} s at most together",
        )
        versions = self.publish * self.duration_seconds
        keys = min(self.nodes, self.holders + versions)
        yield (
            self.nodes * (4 * keys + 2 * versions) > EVENTS_MAX_BYTES,
            "lower --nodes, --publish or --duration-seconds: so much takes over 4 GiB of memory",
        )


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Raises ValueError where it is out of its range."""
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        named = ", ".join(filter(None, choices))
        raise ValueError(f"{flag_of(name)} is one of {named}, not {value!r}")
    if "least" not in metadata:
        return
    least, most = metadata["least"], metadata["most"]
    bounds = spread(value).bounds() if isinstance(value, str) else (value,)
    if not all(least <= one <= most for one in bounds):  # nan is not, either
        raise ValueError(f"{flag_of(name)} is from {least:,} to {most:,}, not {value}")


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def settable() -> dict[str, tuple[Any, str]]:
    """Name -> default and help of all that may be said."""
    return {one.name: (one.default, one.metadata["doc"]) for one in fields(Options) if one.metadata}


def scenarios() -> list[str]:
    """Names of those that there are."""
    return sorted(path.stem for path in SCENARIOS.glob("*.toml") if path.is_file())


_MATTERS_WITH = {
    "kind": "byzantine",
    "flood_rate": "byzantine",
    "down_seconds": "churn",
    "slow_factor": "slow",
    "skew_seconds": "skewed",
    "quick_seconds": "quick_min",
}


def without_effect(options: Options, said: Iterable[str]) -> str:
    """Why one of the options that somebody `said` changes nothing; "" if all of them may."""
    for name in said:
        needs = _MATTERS_WITH.get(name)
        if needs is not None and not getattr(options, needs):
            return f"{flag_of(name)} changes nothing without {flag_of(needs)}"
    return ""


def options_of(scenario: str, said: Mapping[str, Any]) -> Options:
    """A scenario ("" for none), and what was `said` on top of it.

    Raises:
        ValueError: there is no such scenario, or one of them makes no options; it names the file.
    """
    base = _read(scenario) if scenario else Options()
    return replace(base, **_checked(said))


def _read(scenario: str) -> Options:
    path = SCENARIOS / f"{scenario}.toml"
    try:
        return _made(scenario, tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        there = ", ".join(scenarios())
        raise ValueError(f"no scenario {scenario!r}; there are {there}") from error
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ValueError(f"{path.name}: it is nested too deeply") from error
    except ValueError as error:  # those of TOML and of UTF-8, too
        raise ValueError(f"{path.name}: {error}") from error


def _made(scenario: str, said: Mapping[str, Any]) -> Options:
    if "scenario" in said:
        raise ValueError("its name is that of the file: it says no 'scenario'")
    return replace(Options(), scenario=scenario, **_checked(said))


def _checked(said: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {one.name: one.default for one in fields(Options)}
    ranges = {one.name for one in fields(Options) if "least" in one.metadata}
    unknown = said.keys() - defaults.keys()
    if unknown:
        raise ValueError(f"there is no option {min(unknown)!r}")
    found: dict[str, Any] = {}
    for name, value in said.items():
        kind = type(defaults[name])
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = _float(name, value)  # noqa: PLW2901
        if kind is str and name in ranges and type(value) in {int, float}:
            value = f"{Decimal(str(value)):f}"  # noqa: PLW2901 - a distribution that is one value
        if type(value) is not kind:
            raise ValueError(f"{name} is a {kind.__name__}, not {value!r}")
        found[name] = value
    return found


def _float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} is beyond what a float can be") from error


def replay_line(options: Options) -> str:
    """The command that repeats a run, for a shell."""
    base = options_of(options.scenario, {})
    words = [options.scenario] if options.scenario else []
    for name in settable():
        value, flag = getattr(options, name), flag_of(name)
        if value == getattr(base, name) and name != "seed":
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif str(value).startswith("-"):  # else it might be read as a flag
            words.append(f"{flag}={value}")
        else:
            words += [flag, str(value)]
    return shlex.join(["python", "scripts/simulate.py", *words])
