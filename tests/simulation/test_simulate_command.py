"""The command line of `scripts/simulate.py`: what makes no run is refused, and no run is well by default."""

import math
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripts import simulate as command
from scripts.running import JOBS_MAX
from scripts.simulation.checks.judging import judge
from scripts.simulation.events.broken import IN_EVENTS_PLANTED, IN_EVENTS_WITHOUT
from scripts.simulation.options import (
    EVENTS_PLANTS,
    EVENTS_WITHOUT,
    IN_EVENTS,
    SEED_MAX,
    Options,
    flag_of,
    options_of,
    replay_line,
)
from scripts.simulation.workload import Request

SIMULATION = Path(command.__file__).parent / "simulation"
SETTABLE: list[Field[Any]] = [one for one in fields(Options) if one.metadata]
EVENTS = ("--mode", "events", "--duration-seconds", "24")
CROWD = (
    *EVENTS,
    *[
        "--nodes",
        "120",
        "--connections",
        "3",
        "--sample",
        "6",
        "--churn",
        "60",
        "--loss",
        "0.3",
        "--partition",
        "0.4",
    ],
    *["--publish", "2", "--success-min", "0.3"],
)
Typed = Callable[..., int]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Call `main` with these words; its exit status."""
    monkeypatch.setattr("structlog.configure", lambda **_: None)

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["simulate.py", *words])
        try:
            return command.main()
        except SystemExit as ended:
            return int(str(ended.code))

    return call


@pytest.fixture
def refused(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What is said of words that have to be refused, before anything runs."""

    def ran(*_: object) -> None:
        raise AssertionError("it was run")

    for name in ("_found", "repeats", "run_many"):
        monkeypatch.setattr(command, name, ran)

    def call(*words: str) -> str:
        assert typed(*words) == 2, words
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert line.startswith("simulate: "), line
        return line

    return call


def beyond(one: Field[Any]) -> Iterator[str]:
    """Values that an option may not have."""
    if isinstance(one.default, bool):
        return
    if "choices" in one.metadata or one.name == "without":
        yield "nonsense"
        return
    least, most = one.metadata["least"], one.metadata["most"]
    assert math.isfinite(least), one.name
    assert math.isfinite(most), one.name
    if isinstance(one.default, str):
        yield from (f"{most + 1}", f"uniform:0-{most + 1}", f"exponential:{most + 1}", "-1", "nan")
        yield from ("1.2.3", ".", "uniform:0.8-0.2", "lognormal:0.1,9")
        return
    yield from (str(least - 1), str(most + 1))
    if isinstance(one.default, float):
        yield from ("nan", "inf", "-inf")


@pytest.mark.parametrize("one", SETTABLE, ids=lambda one: one.name)
def test_every_option_has_a_range_and_is_refused_beyond_it(
    refused: Callable[..., str], one: Field[Any]
) -> None:
    for value in beyond(one):
        said = refused(f"{flag_of(one.name)}={value}")
        assert flag_of(one.name) in said or repr(value) in said


@pytest.mark.parametrize(
    "line",
    [
        "liars --nodes 2",
        "--byzantine 0.95",
        "--partition 1.0",
        "--partition 0.01",
        "--slow 4",
        "--skewed 19 --skew-seconds 9",
        "--skewed 1",
        "--churn 6 --nodes 3",
        "--sample 3",
        "--without ihave",
        "steady --without nonces",
        "steady --without freshness,chunks",
        "replay --without audits",
        "flood --byzantine 0 --without quotas",
        "--holders 20",
        "--nodes 3",
        "liars --holders 16",
        "eclipse --net model",
        "--seeds 0",
        "--seeds -1",
        "--jobs 0",
        "--repeat 0",
        "--repeat -3",
        "--repeat 1",
        "--repeat 2 --seeds 2",
        "--repeat 2 --jobs 2",
        "--repeat 2 --out there",
        "--jobs 2 --seeds 2 --out there",
        f"--seed {SEED_MAX} --seeds 2",
        f"--seed {SEED_MAX} --repeat 2",
        "--mode events --holders 60",
        "--mode events --nodes 5",
        "--mode events --duration-seconds 290",
        "--mode events --nodes 1000000 --publish 50",
        "--mode events --plant failover",
        "--mode events --without nonces",
        "steady --mode events",
        "cheats --mode events",
        "steady --kind flood",
        "steady --skew-seconds 60",
        "steady --slow-factor 9",
        "churn --churn 0 --down-seconds 9",
        "flood --byzantine 0 --flood-rate 9",
    ],
)
def test_what_goes_together_with_nothing_is_refused(
    refused: Callable[..., str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(*line.split())
    assert not list(tmp_path.iterdir())


def test_there_are_not_any_number_of_processes(refused: Callable[..., str]) -> None:
    assert refused("--jobs", str(JOBS_MAX + 1)).endswith(f"--jobs is at most {JOBS_MAX}")


OTHER = {
    "net": "libp2p",
    "kind": "sybil",
    "byzantine": "0.5",
    "load_seconds": "9",
    "token_ms": "9",
    "slow_factor": "9",
    "skew_seconds": "9",
}


@pytest.mark.parametrize("one", SETTABLE, ids=lambda one: one.name)
def test_events_mode_refuses_what_it_does_not_look_at(
    refused: Callable[..., str], one: Field[Any]
) -> None:
    if one.name in IN_EVENTS:
        return
    flag = flag_of(one.name)
    value = OTHER.get(one.name) or str(1 if one.default != 1 else 2)
    if one.default in {0.95, 0.99}:
        value = "0.5"
    words = (flag,) if isinstance(one.default, bool) else (flag, value)
    assert flag in refused("--mode", "events", *words) or one.name in {"slow", "skewed"}


def test_events_mode_looks_at_what_its_code_reads() -> None:
    code = "".join(path.read_text("utf-8") for path in SIMULATION.glob("events/*.py"))
    read = set(re.findall(r"options\.([a-z_]+)", code)) - {"options"}
    assert read & {one.name for one in SETTABLE} | {"mode"} == IN_EVENTS


def test_what_events_mode_can_break_is_what_it_says() -> None:
    assert tuple(IN_EVENTS_PLANTED) == EVENTS_PLANTS
    assert tuple(IN_EVENTS_WITHOUT) == EVENTS_WITHOUT


@pytest.mark.parametrize(
    ("words", "caught"),
    [
        ("", set()),
        ("--plant merge", {"agrees", "merged"}),
        ("--plant reconciliation", {"reconciled"}),
        ("--without freshness", {"agrees", "merged"}),
        ("--without repair", {"converged"}),
    ],
)
def test_events_mode_catches_what_is_broken_in_it(
    typed: Typed, capsys: pytest.CaptureFixture[str], words: str, caught: set[str]
) -> None:
    status = typed(*CROWD, *words.split())
    failed = set(re.findall(r"^FAILED ([a-z_]+)", capsys.readouterr().out, re.MULTILINE))
    assert status == (1 if words else 0)
    assert failed & caught if words else not failed
    typed(*CROWD)  # and it is whole again
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        ("--rate 0 --publish 0", ["`merged`", "`served`"]),
        ("--duration-seconds 4 --nodes 6", ["`reconciled`"]),
        ("--nodes 300 --plant merge", ["`merge` had no occasion"]),
    ],
)
def test_an_empty_run_of_events_is_not_well(
    typed: Typed, capsys: pytest.CaptureFixture[str], words: str, lacking: list[str]
) -> None:
    assert typed(*EVENTS, *words.split()) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert all("checked" in line for line in failed)
    assert all(any(each in line for line in failed) for each in lacking)


def test_a_small_crowd_has_real_nodes_too(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    for nodes, sampled in ((20, 8), (6, 2)):
        assert typed(*EVENTS, "--nodes", str(nodes)) == 0
        assert f"real in {sampled} sampled nodes of {nodes}" in capsys.readouterr().out


# Services


class Seen:
    """Of a `Watch`, what is judged."""

    def __init__(self, said: int = 3, **checks: int) -> None:
        self.checks = Counter({"never_back": 5, "members_only": 5, "answered": 5} | checks)
        self.propagation = SimpleNamespace(issued=3)
        prompt = SimpleNamespace(due=said, share=1.0)
        self.promptly = {False: prompt, True: prompt}
        self.said: list[tuple[str, str]] = []

    def violated(self, name: str, what: str) -> None:
        self.said.append((name, what))


def asked(*outcomes: str, after: bool) -> list[Request]:
    return [Request(n, "n1", 1.0, after, outcome) for n, outcome in enumerate(outcomes)]


BOTH = asked("ok", after=False) + asked("ok", after=True)


@pytest.mark.parametrize(
    ("said", "checks", "requests", "lacking"),
    [
        ({}, {}, BOTH, ""),
        ({"rate": 0.0}, {}, BOTH[1:], ""),
        ({}, {}, BOTH[1:], "under faults no request"),
        ({}, {}, BOTH[:1], "after the faults no request"),
        ({}, {}, BOTH + asked("asker_killed", after=False), ""),
        ({}, {}, BOTH[1:] + asked("asker_killed", after=False), "under faults no request"),
        ({"success_min": 0.0}, {}, BOTH[1:] + asked("busy", after=False), "nothing says `right`"),
        ({}, {"never_back": 0}, BOTH, "`never_back`"),
        ({"partition": 0.5}, {}, BOTH, "nobody was cut off"),
        ({"churn": 1.0}, {}, BOTH, "nobody was killed"),
        ({"publish": 0.0}, {"said": 0}, BOTH, "after the faults nothing was said"),
        ({"byzantine": 0.2, "kind": "flood"}, {}, BOTH, "`bounded`"),
        ({"byzantine": 0.2, "kind": "flood"}, {"bounded": 1}, BOTH, ""),
        ({"byzantine": 0.2, "kind": "poison"}, {"weights": 1}, BOTH, "`avoided`"),
    ],
)
def test_what_a_run_never_came_to_is_told(
    said: dict[str, Any], checks: dict[str, int], requests: list[Request], lacking: str
) -> None:
    watch: Any = Seen(**checks)
    judge(options_of("", said), watch, requests, cut_off=0, killed=0)
    assert [name for name, _ in watch.said] == ["checked"] * bool(lacking)
    assert lacking in "".join(what for _, what in watch.said)


def test_an_attack_that_is_over_before_it_shows_is_not_well(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record may take 30 s to get around the censors: this run is shorter."""
    line = "censors --nodes 6 --holders 1 --duration-seconds 4 --settle-seconds 12 --seed 5 --success-min 0"
    assert typed(*line.split()) == 1
    assert "by which `heard` could have been broken" in capsys.readouterr().out


# Reports


def test_what_cannot_be_written_is_refused_before_the_run(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refused("--out", str(tmp_path / "file" / "below"))
    assert "cannot be written" in refused("--out", str(tmp_path / "file"))
    assert "names no folder" in refused("--out", "")


@pytest.mark.parametrize(("words", "status"), [("", 2), ("--plant reconciliation", 1)])
def test_a_report_that_cannot_be_written_takes_no_verdict_along(
    typed: Typed, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, status: int
) -> None:
    (tmp_path / command.REPORT_FILE).mkdir()
    assert typed(*CROWD, "--out", str(tmp_path), *words.split()) == status
    said = capsys.readouterr()
    assert said.err.startswith("simulate: the report is not written")
    assert len(said.err.splitlines()) == 1
    assert said.out.splitlines()[-1].startswith("replay: " if words else "")
    assert ("FAILED reconciled" in said.out) is bool(words)


def test_of_many_seeds_the_report_of_the_first_that_failed_stays(
    typed: Typed,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = command._found

    def some_fail(options: Options) -> dict[str, Any]:
        return found(options) | {"well": options.seed not in {2, 3}}

    monkeypatch.setattr(command, "_found", some_fail)
    words = (*EVENTS, "--nodes", "12", "--seeds", "4", "--out", str(tmp_path))
    assert typed(*words) == 1
    assert '"seed": 2,' in (tmp_path / command.REPORT_FILE).read_text("utf-8")
    assert capsys.readouterr().out.count("replay: ") == 2


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("poison", {"without": "chunks, files"}),
        ("", {"skewed": 1, "skew_seconds": -1e-05}),
        ("clock_behind_288", {"skew_seconds": -287.5, "loss": "uniform:0-0.2"}),
        ("censors", {"without": ""}),
    ],
)
def test_the_line_that_replays_is_one_for_a_shell(scenario: str, said: dict[str, Any]) -> None:
    options = options_of(scenario, said)
    words = shlex.split(replay_line(options))[2:]
    assert command.options_given(command.parser().parse_args(words)) == options


def test_the_verdict_is_in_the_status_where_standard_output_is_closed() -> None:
    line = "steady --nodes 4 --holders 2 --duration-seconds 4"
    command = f"exec {sys.executable} scripts/simulate.py {line} >&-"
    assert subprocess.run(command, shell=True, check=False).returncode == 0
