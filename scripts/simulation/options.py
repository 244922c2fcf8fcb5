"""Everything that a run depends on, beside the code: one flat table with a line of help each.

The same options give the same run. A scenario is a file of them, flags come on top of it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scripts.simulation.defences import DEFENCES, listed
from scripts.simulation.plants import PLANTS
from scripts.simulation.spread import spread

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
ON_THE_WIRE = ("eclipse", "covert", "resend")
KINDS = ("cheat", "liar", "sybil", "flood", "replay", "censor", "poison", "squat", *ON_THE_WIRE)
NETS = ("model", "libp2p")
MODES = ("services", "events")


def _option(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


def _switch(doc: str) -> Any:
    return _option(default=False, doc=doc)


@dataclass(frozen=True, slots=True)
class Options:
    """See each field's `doc`."""

    scenario: str = ""
    title: str = ""
    about: str = ""

    mode: str = _option("services", f"what is run: {', '.join(MODES)}; see the docs")
    sample: int = _option(20, "nodes that are real, of a crowd (--mode events)")
    seed: int = _option(1, "everything random follows from it")
    net: str = _option("model", f"the network: {', '.join(NETS)}")
    nodes: int = _option(20, "nodes in the grid, byzantine ones included")
    duration_seconds: float = _option(60.0, "of load and faults")
    settle_seconds: float = _option(60.0, "after the faults, until liveness must hold")
    connections: int = _option(8, "connections that a node seeks (a real node: 48)")
    storm: bool = _switch("all join at once through one node, at its real limits")

    ready: bool = _switch("the grid is up already: nobody joins, all start on what that left")

    latency_ms: str = _option("uniform:5-50", "one way, drawn once per pair of nodes")
    loss: str = _option("0", "share lost each way, drawn once per pair, while faults last")

    models: int = _option(2, "names of models")
    holders: int = _option(3, "honest nodes that hold each of them")
    slots: int = _option(4, "requests that a holder answers at once")
    cold: bool = _switch("nothing is loaded when the load begins")
    load_seconds: str = _option("uniform:1-3", "loading a model, drawn once per node")
    token_ms: str = _option("uniform:5-30", "each token of an answer, drawn once per node")
    crashes: float = _option(0.0, "share of requests in which the engine's worker dies")

    rate: float = _option(2.0, "requests a second in the whole grid, at random times")
    askers: int = _option(0, "nodes that ask, 0: all honest ones")
    publish: float = _option(1.0, "records that nodes issue a second, in the whole grid")
    words: int = _option(6, "tokens of a request, and so of its answer")
    by_capability: bool = _switch("ask for a capability instead of a model")
    patience_seconds: float = _option(30.0, "that a request waits for a model")
    audit: float = _option(0.0, "share of answers that nodes check at another holder")

    churn: float = _option(0.0, "nodes killed a minute; each comes back")
    down_seconds: str = _option("uniform:5-20", "until a killed node comes back")
    partition: float = _option(0.0, "share of nodes cut off from the others, half of the time")
    slow: int = _option(0, "holders that are slow")
    slow_factor: float = _option(20.0, "how many times slower they compute and are reached")
    skewed: int = _option(0, "nodes whose clock is wrong while faults last")
    skew_seconds: float = _option(0.0, "how far those are ahead")

    byzantine: float = _option(0.0, "share of nodes that attack")
    kind: str = _option("cheat", f"how: {', '.join(KINDS)}")
    flood_rate: float = _option(50.0, "records a second of each node that floods")

    success_min: float = _option(0.95, "share of requests answered while faults last")
    success_after_min: float = _option(0.99, "share of requests answered afterwards")
    wrong_max: float = _option(0.0, "share of answers that may be wrong while faults last")
    wrong_after_max: float = _option(0.0, "the same, afterwards")

    plant: str = _option("", f"a bug put into the node on purpose: {', '.join(PLANTS)}")
    without: str = _option("", f"defences switched off, with commas: {', '.join(DEFENCES)}")

    def __post_init__(self) -> None:
        for name in ("latency_ms", "loss", "load_seconds", "token_ms", "down_seconds"):
            spread(getattr(self, name))
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.net not in NETS:
            raise ValueError(f"net is one of {', '.join(NETS)}, not {self.net!r}")
        if self.byzantine and self.kind in ON_THE_WIRE and self.net != "libp2p":
            raise ValueError(f"{self.kind} is an attack on what --net libp2p has alone")
        if self.plant and self.plant not in PLANTS:
            raise ValueError(f"plant is one of {', '.join(PLANTS)}, not {self.plant!r}")
        listed(self.without)
        if self.mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {self.mode!r}")
        if self.ready and self.storm:
            raise ValueError("where the grid is up already, nobody joins")
        if self.nodes < 2 or self.connections < 1:
            raise ValueError("a grid has at least 2 nodes, and a node seeks at least 1 connection")
        if round(self.byzantine * self.nodes) > self.nodes - 2:
            raise ValueError("at least 2 nodes are honest")


def settable() -> dict[str, tuple[Any, str]]:
    """Name -> default and help of all that may be said."""
    return {one.name: (one.default, one.metadata["doc"]) for one in fields(Options) if one.metadata}


def scenarios() -> list[str]:
    """Names of those that there are."""
    return sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def options_of(scenario: str, said: Mapping[str, Any]) -> Options:
    """A scenario ("" for none), and what was `said` on top of it.

    Raises:
        ValueError: there is no such scenario, or it says what is no option.
    """
    base = Options()
    if scenario:
        path = SCENARIOS / f"{scenario}.toml"
        if not path.is_file():
            raise ValueError(f"no scenario {scenario!r}; there are {', '.join(scenarios())}")
        base = replace(base, scenario=scenario, **_checked(tomllib.loads(path.read_text("utf-8"))))
    return replace(base, **_checked(said))


def _checked(said: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {one.name: one.default for one in fields(Options)}
    unknown = said.keys() - defaults.keys()
    if unknown:
        raise ValueError(f"there is no option {min(unknown)!r}")
    found: dict[str, Any] = {}
    for name, value in said.items():
        kind = type(defaults[name])
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # noqa: PLW2901
        if type(value) is not kind:
            raise ValueError(f"{name} is a {kind.__name__}, not {value!r}")
        found[name] = value
    return found


def replay_line(options: Options) -> str:
    """The command that repeats a run."""
    base = options_of(options.scenario, {})
    words = [options.scenario] if options.scenario else []
    for name in settable():
        value = getattr(options, name)
        if value == getattr(base, name) and name != "seed":
            continue
        flag = "--" + name.replace("_", "-")
        words += (
            [flag if value else f"--no-{flag[2:]}"]
            if isinstance(value, bool)
            else [flag, str(value)]
        )
    return " ".join(["python", "scripts/simulate.py", *words])
