"""Kill -9 of whoever writes: a few rounds of what `scripts/bench/crash.py` does a hundred times."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scripts.bench import crash
from scripts.bench.crash import NOW_MS, Fact, Ledger, LostError
from tests.metagraph import world
from tests.metagraph.world import ANN

from aigrid.metagraph.database import MIGRATIONS
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.store import Store
from aigrid.protocol.record import Record

# Opens a store, and kills itself before the statement of this number.
KILLED_BEFORE = """
import os, signal, sqlite3, sys
from pathlib import Path
from aigrid.metagraph.store import Store
connect, left = sqlite3.connect, iter(range(int(sys.argv[2])))
def traced(*arguments, **more):
    connection = connect(*arguments, **more)
    connection.set_trace_callback(
        lambda _: next(left, None) is None and os.kill(os.getpid(), signal.SIGKILL)
    )
    return connection
sqlite3.connect = traced
Store(Path(sys.argv[1]))
"""


@pytest.mark.process
def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    report = crash.burst(tmp_path, 10, seed=3)
    assert report["acknowledged"] > 100
    assert report["log_to_recover"]


@pytest.mark.process
def test_a_database_that_was_being_made_is_made_by_the_next_process(tmp_path: Path) -> None:
    crash.opens(tmp_path, 3, seed=3)


@pytest.mark.process
def test_whichever_statement_of_the_first_opening_is_the_last(tmp_path: Path) -> None:
    killed = 0
    while True:
        path = tmp_path / f"{killed}.db"
        done = subprocess.run([sys.executable, "-c", KILLED_BEFORE, path, str(killed)], check=False)
        store = Store(path)
        crash.check_sound(store)
        graph = world.with_members(ANN, store=store)
        assert graph.ingest(OLD.raw, now_ms=NOW_MS, received_from=None) == OLD
        store.close()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
    assert killed > len(MIGRATIONS[0].split(";"))


@pytest.mark.process
def test_a_node_that_is_killed_knows_what_it_acknowledged(tmp_path: Path) -> None:
    assert crash.nodes(tmp_path, 2, seed=3)["acknowledged"]


def held(*records: Record) -> Metagraph:
    graph = world.with_members(ANN)
    for record in records:
        graph.ingest(record.raw, now_ms=NOW_MS, received_from=None)
    return graph


def fact(record: Record) -> Fact:
    return Fact(record.key, record.valid_from_ms, record.valid_until_ms, record.content_id)


OLD, NEW = world.manifest(ANN), world.manifest(ANN, start=NOW_MS + 1)
OTHER = world.manifest(ANN, 1)
KNOWN = world.membership(ANN)


def ledger(*records: Record, begun: str = "", batch: tuple[Record, ...] = ()) -> Ledger:
    said = {record.key: fact(record) for record in (KNOWN, *records)}
    cids = frozenset(record.content_id for record in batch)
    return Ledger(newest=said, begun=begun, batch=cids)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        pytest.param(ledger(OLD), (), id="lost"),
        pytest.param(ledger(NEW), (OLD,), id="the one before it"),
        pytest.param(ledger(begun="batch", batch=(OLD, OTHER)), (OLD,), id="half a batch"),
        pytest.param(ledger(), (OLD, OTHER), id="from nowhere"),
        pytest.param(ledger(OLD, OTHER, begun="switch"), (OLD,), id="half a switch"),
    ],
)
def test_the_check_notices(expected: Ledger, found: tuple[Record, ...]) -> None:
    with pytest.raises(LostError):
        expected.check(held(*found))


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        pytest.param(ledger(OLD), (OLD,), id="all there"),
        pytest.param(ledger(OLD, begun="publish"), (NEW,), id="done but not said"),
        pytest.param(ledger(begun="batch", batch=(OLD, OTHER)), (OLD, OTHER), id="a whole batch"),
        pytest.param(ledger(OLD, begun="batch", batch=(NEW, OTHER)), (OLD,), id="none of it"),
    ],
)
def test_the_check_lets_pass(expected: Ledger, found: tuple[Record, ...]) -> None:
    expected.check(held(*found))


def test_an_acknowledgement_out_of_order_is_noticed() -> None:
    known = ledger(NEW)
    with pytest.raises(LostError):
        known.acknowledge(fact(OLD))
