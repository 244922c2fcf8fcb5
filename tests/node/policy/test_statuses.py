"""Entries that are given away, and lists that are signed: the service without a network."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from tests.metagraph.world import (
    ANN,
    AUTHORITY,
    BEN,
    DAY_MS,
    NOW,
    OWN,
    STRANGER,
    graph,
    renewal,
    revocable,
    status_delegation,
    status_list,
)
from trio.testing import MockClock

from aigrid.metagraph.store import Store
from aigrid.node.policy import statuses
from aigrid.node.policy.statuses import StatusKeeper
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import has_bit


class World:
    """A node with its clock; `authority` is whose key it holds besides its own."""

    def __init__(self, store: Store | None = None, authority: Identity | None = AUTHORITY) -> None:
        self.now_ms = NOW
        self.graph = graph(store, now=NOW)
        self.keeper = StatusKeeper(
            self.graph,
            identity=OWN,
            authority=lambda: authority,
            now_ms=lambda: self.now_ms,
            random_bytes=random.Random(1).randbytes,
        )

    def tell(self, *records: Record) -> None:
        refusals = self.graph.ingest_batch(
            [r.raw for r in records], now_ms=self.now_ms, received_from="p"
        )[1]
        assert refusals == []

    def lists(self) -> dict[tuple[str, str], int]:
        """`validFrom` of every list that is held, by owner and signer."""
        return {
            (r.subject.removeprefix("urn:aigrid:status:"), r.issuer): r.valid_from_ms
            for r in self.graph.store.of_kind(Kind.STATUS_LIST)
        }


def code_of(act: Callable[..., object], *arguments: object) -> Code:
    with pytest.raises(AigridError) as caught:
        act(*arguments)
    return caught.value.code


def test_a_name_keeps_its_entry_through_restarts_until_it_is_revoked(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    store = Store(path)
    first = World(store).keeper.entry(OWN.did, "grant 1")
    assert (first.issuer, first.max_age_seconds) == (OWN.did, LIMITS.status_age_grant_seconds)
    store.close()
    again = World(Store(path))
    assert again.keeper.entry(OWN.did, "grant 1", 60) == replace(first, max_age_seconds=60)
    other = again.keeper.entry(OWN.did, "grant 2")
    assert other.index != first.index
    again.keeper.revoke(first)
    assert again.keeper.entry(OWN.did, "grant 1").index not in (first.index, other.index)
    assert again.keeper.entry(OWN.did, "grant 2") == other


def test_others_can_rely_on_a_list_as_soon_as_there_is_an_entry() -> None:
    world = World()
    assert OWN.did not in world.keeper.known()
    world.keeper.keep()
    assert list(world.lists()) == [(AUTHORITY.did, AUTHORITY.did)]  # nothing else was issued
    world.keeper.entry(OWN.did, "grant 1")
    assert world.keeper.known()[OWN.did].as_of_ms == NOW


def test_a_list_is_signed_on_change_at_once_and_else_when_it_is_due() -> None:
    world = World()
    entry = world.keeper.entry(OWN.did, "grant 1")
    world.keeper.keep()
    seen = [world.lists()]
    for later_ms in (1000, 100_000, LIMITS.status_renew_seconds * 1000):
        world.now_ms = NOW + later_ms
        world.keeper.keep()
        seen.append(world.lists())
    assert seen[0] == seen[1] == seen[2]
    assert set(seen[3].values()) == {NOW + LIMITS.status_renew_seconds * 1000}
    record = world.keeper.revoke(entry)
    assert (record.kind, record.issuer) == (Kind.STATUS_LIST, OWN.did)
    assert has_bit(world.keeper.known()[OWN.did].bits, entry.index)


def test_a_delegate_signs_for_those_who_named_it_with_all_that_it_knows() -> None:
    world = World(authority=None)
    members = [revocable(who, n) for n, who in enumerate((OWN, ANN, BEN))]
    world.tell(*members, status_delegation(AUTHORITY, (OWN, ANN)), status_delegation(BEN, (OWN,)))
    world.tell(status_list(AUTHORITY, ANN, 77), status_list(AUTHORITY, AUTHORITY, 78))
    world.keeper.keep()
    assert (AUTHORITY.did, OWN.did) in world.lists()
    assert (BEN.did, OWN.did) in world.lists()
    assert (ANN.did, OWN.did) not in world.lists()
    fresh = graph()  # has heard of nobody but this delegate
    own = [r.raw for r in world.graph.store.of_issuer(OWN.did)]
    said = [members[0].raw, status_delegation(AUTHORITY, (OWN, ANN)).raw, *own]
    fresh.ingest_batch(said, now_ms=NOW, received_from="p")
    bits = fresh.revocations.bits(AUTHORITY.did)
    assert has_bit(bits, 77)
    assert has_bit(bits, 78)


def test_lists_that_are_not_signed_here_do_not_keep_it_busy() -> None:
    world = World()
    world.tell(revocable(ANN, 5), revocable(BEN, 6))
    world.keeper._poke = trio.Event()
    world.tell(status_list(ANN, ANN, 1), status_list(STRANGER, BEN))
    assert not world.keeper._poke.is_set()
    world.tell(status_delegation(ANN, (OWN,)))
    assert world.keeper._poke.is_set()


def test_the_grid_s_list_comes_before_those_of_many_who_name_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statuses, "LIMITS", replace(LIMITS, status_owners_max=2))
    world = World(authority=None)
    people = [Identity(bytes([n]) * 32) for n in range(100, 106)]
    world.tell(*(revocable(who, n) for n, who in enumerate((OWN, *people))))
    world.tell(
        *(status_delegation(who, (OWN,)) for who in people), status_delegation(AUTHORITY, (OWN,))
    )
    world.keeper.keep()
    assert len(world.lists()) == 2
    assert (AUTHORITY.did, OWN.did) in world.lists()


def test_only_the_issuer_and_its_delegates_revoke() -> None:
    world = World(authority=None)
    world.tell(revocable(OWN, 1), revocable(ANN, 2))
    assert not world.keeper.signs(AUTHORITY.did)
    assert code_of(world.keeper.revoke, StatusEntry(ANN.did, 3, 60)) is Code.NOT_AUTHORITY
    assert code_of(world.keeper.revoke_membership, ANN.did) is Code.NOT_AUTHORITY
    assert code_of(world.keeper.revoke_membership, STRANGER.did) is Code.NOT_MEMBER
    assert code_of(world.keeper.entry, ANN.did, "x") is Code.NOT_AUTHORITY
    assert code_of(world.keeper.delegate, AUTHORITY.did, [OWN.did]) is Code.NOT_AUTHORITY
    world.tell(status_delegation(AUTHORITY, (OWN,)))
    assert world.keeper.signs(AUTHORITY.did)
    world.keeper.revoke_membership(ANN.did)
    assert world.graph.members(NOW) == {OWN.did}


def test_a_membership_keeps_the_entry_it_has_although_the_database_was_lost() -> None:
    world = World()
    kept = revocable(ANN, 4321)
    world.tell(kept)
    assert world.keeper.membership_entry(ANN.did) == kept.status
    assert world.keeper.membership_entry(ANN.did) == kept.status
    assert world.keeper.membership_entry(BEN.did).index != 4321


def test_delegates_are_members_and_the_quorum_is_of_them() -> None:
    world = World()
    world.tell(revocable(ANN, 1), revocable(BEN, 2), revocable(OWN, 3))
    delegate, grid = world.keeper.delegate, AUTHORITY.did
    for named, quorum in (
        ([STRANGER.did], None),
        ([grid], None),
        (["did:key:zz"], None),
        ([ANN.did], 2),
        ([ANN.did], 0),
    ):
        assert code_of(delegate, grid, named, quorum) in (Code.USAGE, Code.MALFORMED)
    assert world.keeper.delegates(grid) == ((), 0)
    delegate(grid, [OWN.did, BEN.did, ANN.did, ANN.did])
    expected = tuple(sorted((OWN.did, BEN.did, ANN.did)))
    assert world.keeper.delegates(grid) == (expected, 2)
    world.keeper.undelegate(ANN.did)
    assert world.keeper.delegates(grid) == (tuple(sorted((OWN.did, BEN.did))), 2)
    delegate(grid, [])
    assert world.keeper.delegates(grid) == ((), 0)
    world.keeper.undelegate(ANN.did)


def test_a_delegation_is_said_again_at_half_its_life() -> None:
    world = World()
    world.tell(revocable(ANN, 1, life=300 * DAY_MS))
    world.keeper.delegate(AUTHORITY.did, [ANN.did])
    for days, renewed in ((180, False), (190, True)):
        world.now_ms = NOW + days * DAY_MS
        world.keeper.keep()
        found = world.graph.revocations.delegation(AUTHORITY.did, world.now_ms)
        assert found is not None
        assert (found.valid_from_ms == world.now_ms) is renewed


def test_when_every_entry_is_given_away_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "LIMITS", replace(LIMITS, status_entries=8))
    world = World()
    given = {world.keeper.entry(OWN.did, f"grant {n}").index for n in range(8)}
    assert given == set(range(8))
    assert code_of(world.keeper.entry, OWN.did, "grant 9") is Code.OVER_QUOTA


async def test_a_list_that_cannot_be_signed_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    world = World()
    with monkeypatch.context() as broken:
        broken.setattr(
            world.graph,
            "issue",
            lambda *_a, **_k: (_ for _ in ()).throw(
                AigridError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)
            ),
        )
        world.keeper.keep()
    assert world.lists() == {}
    world.keeper.keep()
    assert len(world.lists()) == 1


def test_a_renewed_membership_is_revoked_under_the_entry_of_the_original() -> None:
    world = World(authority=None)
    original = revocable(BEN, 9, NOW - 29 * DAY_MS)
    world.tell(revocable(OWN, 1), revocable(ANN, 2), status_delegation(AUTHORITY, (OWN, ANN)))
    world.tell(original, renewal(original, ANN, NOW))
    world.now_ms = NOW + 5 * DAY_MS
    world.graph.expire(world.now_ms)
    assert BEN.did in world.graph.members(world.now_ms)
    world.keeper.revoke_membership(BEN.did)
    assert BEN.did not in world.graph.members(world.now_ms)


def test_it_signs_for_an_outsider_that_names_it_if_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statuses, "LIMITS", replace(LIMITS, status_owners_max=1))
    world = World(authority=None)
    world.tell(revocable(OWN, 1), revocable(ANN, 2))
    other = status_delegation(STRANGER, (ANN,))
    assert not world.keeper.may_sponsor(other)
    assert not world.keeper.may_sponsor(status_delegation(ANN, (OWN,)))
    said = status_delegation(STRANGER, (OWN,))
    assert world.keeper.may_sponsor(said)
    world.keeper.sponsor(said)
    world.tell(said)
    assert world.keeper.known()[STRANGER.did].as_of_ms == NOW
    second = status_delegation(BEN, (OWN,))
    assert code_of(world.keeper.sponsor, second) is Code.BUSY
