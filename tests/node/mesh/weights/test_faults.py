"""Holders that sent something else are asked after everybody else, for a while."""

import pytest

from aigrid.metagraph.index import Seeder
from aigrid.node.mesh.weights.faults import HolderFaults, asked_first
from aigrid.protocol.limits import LIMITS

GOOD, BAD = (Seeder(did, f"peer of {did}", "manifest") for did in ("good", "bad"))


def test_who_did_badly_is_asked_where_nobody_else_is_there() -> None:
    assert asked_first([BAD, GOOD], lambda did: did == "bad") == [GOOD]
    assert asked_first([BAD], lambda did: did == "bad") == [BAD]
    assert asked_first([BAD, GOOD], lambda _: False) == [BAD, GOOD]
    assert asked_first([], lambda _: True) == []


def test_a_fault_counts_for_twice_as_long_each_time_within_a_bound() -> None:
    faults, now, last = HolderFaults(), 10.0, LIMITS.holder_fault_seconds
    assert not faults.counts("bad", now)
    for expected in (last, 2 * last, 4 * last):
        faults.note("bad", now)
        assert faults.counts("bad", now + expected - 1)
        assert not faults.counts("bad", now + expected)
    for _ in range(20):
        faults.note("bad", now)
    assert not faults.counts("bad", now + LIMITS.holder_fault_max_seconds)


@pytest.mark.parametrize("more", [1, 5])
def test_only_so_many_are_remembered_the_newest(more: int) -> None:
    faults = HolderFaults()
    for number in range(LIMITS.holder_faults_max + more):
        faults.note(f"d{number}", 0.0)
    assert not faults.counts(f"d{more - 1}", 1.0)
    assert faults.counts(f"d{more}", 1.0)
