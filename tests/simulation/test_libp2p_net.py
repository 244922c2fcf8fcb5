"""`--net libp2p`: real py-libp2p in virtual time, which touches nothing and repeats to the byte."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scripts.simulation.options import Options
from scripts.simulation.reporting.report import report
from scripts.simulation.run import simulate
from tests.simulation.test_simulate import run, told, words_of

from aigrid.node.network import libp2p_dht, libp2p_gossip

SMALL = Options(
    net="libp2p",
    nodes=5,
    seed=3,
    duration_seconds=12.0,
    settle_seconds=45.0,
    models=1,
    holders=2,
    words=3,
)
TOUCHES = ("socket.bind", "socket.connect", "subprocess.Popen", "os.fork", "_thread.start_new")
_touched: list[str] | None = None


def _hear(event: str, _arguments: object) -> None:
    if _touched is not None and event.startswith(TOUCHES):
        _touched.append(event)


sys.addaudithook(_hear)  # for good: there is no way to take one away


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed() -> None:
    faulty = replace(SMALL, nodes=4, churn=15.0, loss="0.1", partition=0.3, success_min=0.0)
    first, second = (run(*words_of(faulty), hash_seed=n) for n in (1, 2))
    assert first[0] == 0, first
    assert told(first[1], "net=libp2p")
    assert told(first[1], "trace") == told(second[1], "trace")
    _, third = run(*words_of(replace(faulty, seed=4)), hash_seed=1)
    assert told(third, "trace") != told(first[1], "trace")


def test_a_run_uses_gossipsub_and_kad_dht_and_no_thread_socket_or_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    global _touched  # noqa: PLW0603 - the hook is global, too
    used: set[str] = set()
    for place, name in ((libp2p_gossip.Gossip, "_deliver"), (libp2p_dht.Dht, "provide")):
        real = getattr(place, name)

        def counted(*arguments: object, real: object = real, name: str = name) -> object:
            used.add(name)
            return real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(place, name, counted)
    _touched = []
    try:
        outcome = simulate(SMALL, tmp_path)
        assert _touched == []
    finally:
        _touched = None
    assert outcome.violations == []
    assert used == {"_deliver", "provide"}
    found = report(outcome, "none")
    assert found["model"].startswith("net=libp2p")
    assert found["requests"]["under_faults"]["answered"] == 1
    assert found["propagation"]["reached_everybody"] == found["propagation"]["issued"] > 0


def test_what_made_libp2p_repeatable_is_undone_after() -> None:
    from libp2p.peer.id import ID
    from libp2p.pubsub import pubsub
    from scripts.simulation.network.libp2p_net import repeatable

    clock, draws, hashed = vars(pubsub)["time"], random.random, ID.__hash__
    with repeatable(1):
        assert vars(pubsub)["time"] is not clock
    assert (vars(pubsub)["time"], random.random, ID.__hash__) == (clock, draws, hashed)
