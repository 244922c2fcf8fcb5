"""Attacks on GossipSub and Kad-DHT, on the real ones: each fails, and succeeds without its defence."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from scripts.simulation import deterministic
from scripts.simulation.attacks import on_the_wire
from scripts.simulation.options import Options, options_of, replay_line
from scripts.simulation.plants import Swap, swapped
from scripts.simulation.run import Outcome, simulate

from aigrid.node.discovery.providers import model_key
from aigrid.protocol.identity import Identity

ATTACKS = {
    "eclipse": options_of(
        "eclipse", {"nodes": 8, "byzantine": 0.5, "duration_seconds": 30.0, "seed": 2}
    ),
    # Of a few seeds, 5 among them, records reach everybody without any defence.
    "covert_flash": options_of(
        "covert_flash", {"duration_seconds": 14.0, "settle_seconds": 15.0, "seed": 4}
    ),
    "resend": options_of("resend", {"nodes": 5, "duration_seconds": 10.0}),
    # Each half has as many nodes as each node wants connections: none is missing anybody.
    "partition": options_of(
        "partition",
        {"net": "libp2p", "nodes": 6, "connections": 1, "holders": 3, "models": 1, "rate": 0.0}
        | {"duration_seconds": 64.0},
    ),
}
"""By scenario; the last is none of members that mean ill."""

SWITCHES = (
    ("eclipse", "unhinted", "found"),
    ("covert_flash", "ihave,repair", "converged"),
    ("resend", "seen", "again"),
    ("partition", "regained", "converged"),
)
# A lookup asks the nearest ten of twenty, and a query eight nodes: here there are eight in all.
LIMITS_IN_SMALL = {"dht_queries_max": 4, "find_peers_max": 4}


def run(options: Options, directory: Path) -> Outcome:
    with deterministic.limits(**(LIMITS_IN_SMALL if options.kind == "eclipse" else {})):
        return simulate(options, directory)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_wire_comes_to_nothing(tmp_path: Path, attack: str) -> None:
    outcome = run(ATTACKS[attack], tmp_path)
    assert outcome.violations == [], replay_line(ATTACKS[attack])
    assert outcome.watch is not None
    checks = outcome.watch.checks
    if attack == "eclipse":
        assert checks["found"] >= checks["eclipsed"] > 0  # to some, no honest holder was named
    if attack == "resend":
        assert checks["resent"] > 0 < checks["again"]


@pytest.mark.parametrize(("attack", "defence", "broken"), SWITCHES)
def test_without_its_defence_an_attack_on_the_wire_succeeds(
    tmp_path: Path, attack: str, defence: str, broken: str
) -> None:
    outcome = run(replace(ATTACKS[attack], without=defence), tmp_path)
    assert broken in {one.name for one in outcome.violations}


@pytest.mark.parametrize(
    ("attack", "idle"),
    [
        ("eclipse", (on_the_wire, "_lie", lambda *_: None)),
        ("resend", (on_the_wire.Frames, "say_again", lambda _: 0)),
    ],
)
def test_an_attack_that_does_nothing_fails_the_run(tmp_path: Path, attack: str, idle: Swap) -> None:
    with swapped([idle]):
        outcome = run(ATTACKS[attack], tmp_path)
    assert "attacked" in {one.name for one in outcome.violations}


@pytest.mark.parametrize("seed", range(1, 7))
def test_who_eclipses_is_nearer_than_everybody_else(seed: int) -> None:
    """Of seed 4 a node was among the ten nearest of four thousand that were made."""
    rng, grid = random.Random(f"{seed}/ground"), on_the_wire.grid_of(seed, "n0000")
    names = [*(f"n{n:04d}" for n in (0, 11, 12, 13)), *on_the_wire.SEEKERS]  # honest ones of 4
    others = [Identity(hashlib.sha256(f"{seed}/{name}".encode()).digest()) for name in names]
    key = on_the_wire.multihash(model_key(grid, "parrot-0"))
    near = [*on_the_wire.ground(rng, grid, ("parrot-0",), 10, others)]
    ids = [ID.from_base58(one.peer_id) for one in (*others, *near)]
    assert set(sort_peer_ids_by_distance(key, ids)[:10]) == set(ids[6:])


def test_such_an_attack_needs_the_real_network() -> None:
    with pytest.raises(ValueError, match="--net libp2p"):
        options_of("eclipse", {"net": "model"})
