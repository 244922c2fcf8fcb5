"""Each attack fails as long as the defences are there, and succeeds without the one it is meant for."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripts.simulation.attacks import censoring
from scripts.simulation.attacks.defences import DEFENCES, without
from scripts.simulation.options import KINDS, Options, options_of, replay_line
from scripts.simulation.run import simulate
from tests.simulation import test_wire_attacks

import aigrid.metagraph.graph as graph_module
from aigrid.metagraph.members import Members
from aigrid.metagraph.store import Store
from aigrid.protocol import kinds
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.limits import LIMITS

DOC = Path(__file__).resolve().parents[2] / "docs" / "simulation.md"


def small(scenario: str, **said: float) -> Options:
    """As it is in `scripts/scenarios`, of a size for a test."""
    return options_of(scenario, {"nodes": 8, "duration_seconds": 16.0, "seed": 5, **said})


ATTACKS = {
    "cheats": small("cheats", duration_seconds=40.0, rate=4.0, wrong_max=1.0, holders=4),
    "liars": small("liars", byzantine=0.4, holders=2, patience_seconds=10.0),
    "sybils": small("sybils", holders=1),
    "flood": small("flood", flood_rate=150.0),
    "clock_ahead_288": small("clock_ahead_288"),
    "replay": small("replay", holders=1, byzantine=0.3, askers=2),
    "censors": small("censors", seed=2, duration_seconds=36.0, settle_seconds=12.0, rate=0.5),
    "poison": small("poison", nodes=7, duration_seconds=50.0, rate=0.5, byzantine=0.57),
    "name_squatting": small("name_squatting", holders=1),
}
"""By scenario; that of wrong clocks is none of members that mean ill."""

SWITCHES = (
    ("cheats", "audits", "right"),
    ("liars", "beginning", "answered"),
    ("sybils", "experience,unproven", "served"),
    ("flood", "quotas", "bounded"),
    ("flood", "rates", "rated"),
    ("clock_ahead_288", "clock", "in_time"),
    ("replay", "freshness", "never_back"),
    ("replay", "freshness,revocations", "members_only"),
    ("replay", "revocations", "members_only"),
    ("replay", "expiry", "in_time"),
    ("replay", "nonces", "once"),
    ("replay", "binding", "once"),
    ("replay", "receipts", "once"),
    ("censors", "repair", "heard"),
    ("poison", "chunks", "weights"),
    ("poison", "chunks,files", "weights"),
    ("poison", "silence", "weights"),
    ("poison", "faults", "avoided"),
    ("name_squatting", "names", "served"),
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_comes_to_nothing(tmp_path: Path, attack: str) -> None:
    outcome = simulate(ATTACKS[attack], tmp_path)
    assert outcome.violations == [], replay_line(ATTACKS[attack])
    assert outcome.watch is not None
    looked_at = {broken for name, _, broken in SWITCHES if name == attack}
    looked_at |= {"genuine"} if attack == "replay" else set()
    for broken in looked_at - {"right", "served", "in_time"}:  # these are not counted one by one
        assert outcome.watch.checks[broken], broken


@pytest.mark.parametrize(("attack", "defence", "broken"), SWITCHES)
def test_without_its_defence_an_attack_succeeds(
    tmp_path: Path, attack: str, defence: str, broken: str
) -> None:
    outcome = simulate(replace(ATTACKS[attack], without=defence), tmp_path)
    assert broken in {one.name for one in outcome.violations}


def test_without_repair_it_is_the_censors_who_keep_a_victim_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(censoring, "_keep_quiet", lambda *_: None)
    outcome = simulate(replace(ATTACKS["censors"], without="repair"), tmp_path)
    assert outcome.watch is not None
    assert outcome.watch.checks["heard"]
    assert "heard" not in {one.name for one in outcome.violations}


def test_a_victim_is_not_heard_where_its_records_do_not_stay(tmp_path: Path) -> None:
    outcome = simulate(replace(ATTACKS["censors"], plant="store"), tmp_path)
    assert "heard" in {one.name for one in outcome.violations}


def test_what_others_never_signed_is_held_only_where_signatures_pass(tmp_path: Path) -> None:
    outcome = simulate(replace(ATTACKS["replay"], plant="signatures"), tmp_path)
    assert {one.name for one in outcome.violations} == {"genuine"}


def test_whom_a_member_admits_is_held_only_where_anybody_may_admit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = kinds.KINDS[kinds.Kind.MEMBERSHIP]
    anybody = replace(rule, check=lambda _issuer, _body: None)
    monkeypatch.setitem(kinds.KINDS, kinds.Kind.MEMBERSHIP, anybody)
    monkeypatch.setattr(Members, "check", lambda *_: None)
    outcome = simulate(ATTACKS["replay"], tmp_path)
    assert {one.name for one in outcome.violations} == {"genuine"}


def test_every_defence_and_every_attack_has_such_a_test_and_a_line_in_the_table() -> None:
    every = (*SWITCHES, *test_wire_attacks.SWITCHES)
    names = {name for _, defence, _ in every for name in defence.split(",")}
    assert names == set(DEFENCES)
    attacks = [*ATTACKS.values(), *test_wire_attacks.ATTACKS.values()]
    assert {options.kind for options in attacks} == set(KINDS)
    table = [line for line in DOC.read_text("utf-8").splitlines() if line.startswith("| ")]
    for attack, defence, broken in every:
        lines = [line for line in table if line.startswith(f"| `{attack}`")]
        assert any(f"`{defence}`" in line and f"`{broken}`" in line for line in lines), defence


def test_a_defence_is_back_afterwards() -> None:
    right, silence = vars(Store)["_remembered"], LIMITS.fetch_silence_seconds
    with without("freshness,silence"):
        assert vars(Store)["_remembered"] is not right
        assert LIMITS.fetch_silence_seconds > 1000 * silence
    assert vars(Store)["_remembered"] is right
    assert silence == LIMITS.fetch_silence_seconds


def test_two_that_check_time_are_missing_at_once() -> None:
    module: Any = graph_module
    right, wrong = module.check_time, SimpleNamespace(valid_from_ms=1 << 60, valid_until_ms=0)
    with without("clock,expiry"):
        for _ in range(2):
            module.check_time(wrong, 1)
    with without("expiry"), pytest.raises(VerificationError):
        module.check_time(wrong, 1)
    assert module.check_time is right


def test_what_is_no_defence_is_refused() -> None:
    with pytest.raises(ValueError, match="moat"):
        options_of("", {"without": "chunks,moat"})
