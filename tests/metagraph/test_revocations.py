"""Status lists and renewed memberships in the metagraph: what counts, in whatever order it comes."""

import hashlib
import itertools
from pathlib import Path
from random import Random
from typing import Never

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph.world import (
    ANN,
    AUTHORITY,
    BEN,
    DAY_MS,
    MINUTE_MS,
    NOW,
    OWN,
    STRANGER,
    graph,
    membership,
    node_record,
    renewal,
    revocable,
    signed,
    status_delegation,
    status_list,
    withdrawal,
)

from aigrid.metagraph.feed import Feed
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.store import Store
from aigrid.protocol.credential_kinds import StatusListBody, status_list_of
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import issue_membership, renewal_body
from aigrid.protocol.record import Record
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import Standing, has_bit, standing

CARL = Identity(bytes([15]) * 32)
A, B, C = (revocable(who, index) for index, who in enumerate((ANN, BEN, CARL), 1))
DELEGATION = status_delegation(AUTHORITY, (ANN, BEN))


def tell(made: Metagraph, *records: Record, now: int = NOW) -> list[Code]:
    raws = [record.raw for record in records]
    return [error.code for error in made.ingest_batch(raws, now_ms=now, received_from="p")[1]]


def world(*records: Record, store: Store | None = None) -> Metagraph:
    made = graph(store)
    assert tell(made, *records) == []
    return made


def test_a_stored_membership_keeps_its_status_entry(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    first = Store(path)
    world(A, store=first)
    first.close()
    again = graph(Store(path), now=NOW).membership_of(ANN.did, NOW)
    assert again is not None
    assert again.status == A.status == StatusEntry(AUTHORITY.did, 1, 86400)


def test_whose_bit_is_set_is_no_member_and_is_heard_no_more() -> None:
    made = world(A, B, node_record(ANN))
    shifts: list[int] = []
    made.shift_listeners.append(lambda: shifts.append(1))
    assert made.index.node(ANN.did, NOW) is not None
    tell(made, status_list(AUTHORITY, AUTHORITY, 1))
    assert made.members(NOW) == {BEN.did}
    assert made.membership_of(ANN.did, NOW) is None
    assert made.index.node(ANN.did, NOW) is None
    assert tell(made, node_record(ANN, NOW + 1)) == [Code.NOT_MEMBER]
    assert shifts == [1]


def test_a_dataset_forgets_what_a_revoked_member_said() -> None:
    said = node_record(ANN)
    made = world(A, B, said)
    feed = Feed(made)
    feed.start_over()
    assert said.content_id in {name for update in feed.updates(NOW) for name, _ in update.added}
    tell(made, status_list(AUTHORITY, AUTHORITY, 1))
    assert said.content_id in {name for update in feed.updates(NOW) for name in update.removed}


def test_a_revoked_membership_that_comes_after_the_list_admits_nobody() -> None:
    made = world(status_list(AUTHORITY, AUTHORITY, 1))
    assert tell(made, A, node_record(ANN)) == [Code.NOT_MEMBER]
    assert made.members(NOW) == frozenset()
    tell(made, revocable(ANN, 9, NOW + 1), now=NOW + 1)
    assert made.members(NOW + 1) == {ANN.did}


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_the_order_in_which_it_comes_does_not_matter(order: tuple[int, ...]) -> None:
    """In single messages, each said again as repair does."""
    said = (
        A,
        C,
        DELEGATION,
        status_list(AUTHORITY, ANN, 3),
        renewal(revocable(BEN, 2, NOW - 10 * DAY_MS, DAY_MS), ANN, NOW),
    )
    made = graph()
    for _ in range(3):
        for place in order:
            tell(made, said[place])
    assert made.members(NOW) == {ANN.did, BEN.did}
    known = made.revocations.status(AUTHORITY.did, NOW)
    assert known is not None
    assert (has_bit(known.bits, 3), known.delegates_ms) == (True, {ANN.did: NOW})


def test_a_list_before_its_delegation_counts_when_that_comes() -> None:
    made = world(A, C)
    assert tell(made, status_list(AUTHORITY, ANN, 3)) == []  # what a member says is kept
    assert made.members(NOW) == {ANN.did, CARL.did}
    tell(made, DELEGATION)
    assert made.members(NOW) == {ANN.did}


def test_a_list_by_anybody_else_revokes_nothing() -> None:
    made = world(A, C, status_delegation(AUTHORITY, (BEN,)))
    tell(made, status_list(AUTHORITY, ANN, 3), status_list(CARL, ANN, 5))
    assert tell(made, status_list(AUTHORITY, STRANGER, 3)) == [Code.NOT_MEMBER]
    assert made.members(NOW) == {ANN.did, CARL.did}
    assert made.revocations.status(AUTHORITY.did, NOW) is not None
    assert not has_bit(made.revocations.bits(AUTHORITY.did), 3)
    assert made.revocations.status(CARL.did, NOW) is None


def test_the_authority_speaks_only_of_its_own_list() -> None:
    made = world(A)
    assert tell(made, status_list(ANN, AUTHORITY, 5)) == [Code.NOT_MEMBER]


def test_a_list_that_cannot_be_unpacked_is_refused() -> None:
    body = StatusListBody(id=status_list_of(AUTHORITY.did), encoded_list="uAAAA")
    made = world(A)
    assert tell(made, signed(body, Kind.STATUS_LIST, AUTHORITY)) == [Code.MALFORMED]


def test_two_delegates_that_revoke_each_other_both_go_in_either_order() -> None:
    lists = status_list(AUTHORITY, ANN, 2), status_list(AUTHORITY, BEN, 1)
    for first, second in (lists, lists[::-1]):
        made = world(A, B, C, DELEGATION)
        assert tell(made, first) == tell(made, second) == []
        assert made.members(NOW) == {CARL.did}


def test_a_revoked_bit_outlives_lists_delegations_restarts_and_poorer_lists(
    tmp_path: Path,
) -> None:
    """The issuer may have lost its database; its list is gone everywhere; a grant is not."""
    path = tmp_path / "records.db"
    year = LIMITS.grant_ttl_seconds * 1000
    long = issue_membership(
        AUTHORITY, CARL.did, now_ms=NOW, valid_ms=year, status=StatusEntry(AUTHORITY.did, 3, 86400)
    )
    first = Store(path)
    made = world(long, status_list(AUTHORITY, AUTHORITY, 3), store=first)
    tell(made, status_list(AUTHORITY, AUTHORITY, start=NOW + 1), now=NOW + 1)
    assert made.members(NOW + 1) == frozenset()
    first.close()
    later = NOW + 300 * DAY_MS
    made = graph(Store(path), now=later)
    assert made.revocations.list_of(AUTHORITY.did, AUTHORITY.did, later) is None
    assert made.members(later) == frozenset()
    assert standing(long, made.revocations.at(later), later) is Standing.REVOKED
    tell(made, status_list(AUTHORITY, AUTHORITY, start=later), now=later)
    assert standing(long, made.revocations.at(later), later) is Standing.REVOKED
    made.revocations.forget(NOW + year + 32 * DAY_MS)  # nothing under it can be valid then
    assert not has_bit(made.revocations.bits(AUTHORITY.did), 3)


def test_an_expired_list_makes_its_credentials_stale_and_not_good() -> None:
    grant = issue_membership(
        AUTHORITY,
        CARL.did,
        now_ms=NOW,
        valid_ms=300 * DAY_MS,
        status=StatusEntry(AUTHORITY.did, 3, LIMITS.status_age_max_seconds),
    )
    made = world(grant, status_list(AUTHORITY, AUTHORITY))
    for days, expected in ((1, Standing.GOOD), (30, Standing.GOOD), (32, Standing.STALE)):
        now = NOW + days * DAY_MS
        made.expire(now)
        assert standing(grant, made.revocations.at(now), now) is expected
    assert made.members(NOW + 32 * DAY_MS) == {CARL.did}  # only decisions need to be recent


def test_a_status_list_cannot_be_withdrawn() -> None:
    with pytest.raises(VerificationError):
        withdrawal(Kind.STATUS_LIST, status_list_of(AUTHORITY.did), AUTHORITY, NOW, DAY_MS)


def test_a_quorum_of_delegates_has_to_be_recent_where_the_issuer_is_not() -> None:
    made = world(A, B, C, status_delegation(AUTHORITY, (ANN, BEN, CARL), quorum=2))
    tell(made, status_list(AUTHORITY, AUTHORITY))
    for minutes, by, as_of in ((5, ANN, 0), (6, BEN, 5), (7, ANN, 6), (9, CARL, 7)):
        at = NOW + minutes * MINUTE_MS
        tell(made, status_list(AUTHORITY, by, start=at), now=at)
        known = made.revocations.status(AUTHORITY.did, at)
        assert known is not None
        assert known.as_of_ms == NOW + as_of * MINUTE_MS
    tell(made, status_list(AUTHORITY, AUTHORITY, start=NOW + 10 * MINUTE_MS), now=NOW + DAY_MS)
    known = made.revocations.at(NOW + DAY_MS)[AUTHORITY.did]
    assert known.as_of_ms == NOW + 10 * MINUTE_MS


# --- memberships renewed by delegates

ORIGINAL = revocable(CARL, 3, NOW - 16 * DAY_MS)


def test_a_delegate_renews_what_the_authority_signed() -> None:
    made = world(A, ORIGINAL, DELEGATION, renewal(ORIGINAL, ANN, NOW))
    later = NOW + 20 * DAY_MS
    made.expire(later)
    assert CARL.did in made.members(later)
    current = made.membership_of(CARL.did, later)
    assert current is not None
    assert (current.issuer, current.status) == (ANN.did, ORIGINAL.status)
    assert made.memberships.original(CARL.did, later) == ORIGINAL


def test_a_renewal_lasts_only_as_long_as_its_delegation() -> None:
    made = world(A, ORIGINAL, DELEGATION, renewal(ORIGINAL, ANN, NOW))
    later = NOW + 20 * DAY_MS
    made.expire(later)
    tell(made, status_delegation(AUTHORITY, (BEN,), start=later), now=later)
    assert CARL.did not in made.members(later)
    assert made.believed(later) == [r.content_id for r in made.live_records(later)]
    tell(made, status_delegation(AUTHORITY, (ANN,), start=later + 1), now=later + 1)
    assert CARL.did in made.members(later + 1)


def test_what_the_authority_says_beats_renewals_of_what_it_said_before() -> None:
    by_ann = renewal(ORIGINAL, ANN, NOW)
    gone = withdrawal(Kind.MEMBERSHIP, CARL.did, AUTHORITY, NOW - DAY_MS, 13 * DAY_MS)
    for order in itertools.permutations((ORIGINAL, by_ann, gone)):
        made = world(A, DELEGATION)
        for record in order:
            tell(made, record)
        assert CARL.did not in made.members(NOW)
        after = NOW + 13 * DAY_MS  # the withdrawal has ended, but is remembered
        made.expire(after)
        assert tell(made, renewal(ORIGINAL, BEN, after), now=after) == [Code.SUPERSEDED]
        again = revocable(CARL, 44, after)
        assert tell(made, again, renewal(again, ANN, after), now=after) == []
        assert CARL.did in made.members(after)


def test_a_superseded_renewal_is_not_kept_or_passed_on() -> None:
    by_ann = renewal(ORIGINAL, ANN, NOW)
    made = world(A, DELEGATION, ORIGINAL, by_ann)
    newer = revocable(CARL, 3, NOW + 1)
    tell(made, newer, now=NOW + 1)
    assert not made.store.has(by_ann.content_id)
    assert made.membership_of(CARL.did, NOW + 1) == newer
    assert tell(made, by_ann, now=NOW + 1) == [Code.SUPERSEDED]


def forged(**changes: object) -> Record:
    """A renewal by ANN that differs from a good one in one way."""
    fields: dict[str, object] = {"body": renewal_body(ORIGINAL), "status": ORIGINAL.status}
    life = changes.pop("life", 30 * DAY_MS)
    by = changes.pop("by", ANN)
    return renewal(ORIGINAL, by, NOW, life, **{**fields, **changes})  # type: ignore[arg-type]


def renewing(original: Record, did: str = CARL.did) -> MembershipBody:
    renews = renewal_body(original).renews
    return MembershipBody(id=did, grid=AUTHORITY.did, renews=renews)


OTHER_ENTRY = StatusEntry(AUTHORITY.did, 99, 86400)
LONGER_AGE = StatusEntry(AUTHORITY.did, 3, 2 * 86400)
FORGERIES = {
    "a stranger": forged(body=renewing(ORIGINAL, STRANGER.did)),
    "another entry": forged(status=OTHER_ENTRY),
    "an older list may do": forged(status=LONGER_AGE),
    "no entry": forged(status=None),
    "for a year": forged(life=300 * DAY_MS),
    "no delegate": forged(by=STRANGER),
    "the membership of another grid": forged(
        body=renewing(
            issue_membership(
                STRANGER,
                CARL.did,
                now_ms=NOW,
                valid_ms=DAY_MS,
                status=StatusEntry(STRANGER.did, 3, 86400),
            )
        )
    ),
    "nothing signed": forged(
        body=MembershipBody(id=CARL.did, grid=AUTHORITY.did, renews="e30"),
    ),
    "a renewal": forged(body=renewing(renewal(ORIGINAL, BEN, NOW - 1))),
    "not base64": forged(body=MembershipBody(id=CARL.did, grid=AUTHORITY.did, renews="A")),
    "before the original": renewal(ORIGINAL, ANN, NOW - 17 * DAY_MS),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_malicious_delegate_admits_nobody(forgery: str) -> None:
    made = world(A, B, DELEGATION)
    assert len(tell(made, FORGERIES[forgery])) == 1
    assert made.members(NOW) == {ANN.did, BEN.did}


def test_a_malicious_delegate_brings_nobody_back() -> None:
    made = world(A, B, DELEGATION, ORIGINAL, status_list(AUTHORITY, BEN, 3))
    tell(made, renewal(ORIGINAL, ANN, NOW + 1), now=NOW + 1)
    tell(made, status_list(AUTHORITY, ANN, start=NOW + 2), now=NOW + 2)
    tell(made, withdrawal(Kind.MEMBERSHIP, CARL.did, BEN, NOW + 2, DAY_MS), now=NOW + 2)
    assert made.members(NOW + 2) == {ANN.did, BEN.did}
    assert made.memberships.revoked(NOW + 2) == [ORIGINAL]


def test_the_authority_s_node_is_not_renewed_by_others() -> None:
    own = issue_membership(
        AUTHORITY,
        OWN.did,
        now_ms=NOW,
        valid_ms=DAY_MS,
        role="authority",
        status=StatusEntry(AUTHORITY.did, 8, 86400),
    )
    made = world(A, DELEGATION, own)
    assert made.memberships.original(OWN.did, NOW) is None
    with pytest.raises(VerificationError):
        tell(
            made,
            renewal(
                own,
                ANN,
                NOW,
                body=MembershipBody(
                    id=OWN.did,
                    grid=AUTHORITY.did,
                    role="authority",
                    renews=renewal_body(own).renews,
                ),
            ),
        )


def test_delegates_of_a_member_sign_for_its_own_credentials() -> None:
    grant = StatusEntry(CARL.did, 12, 600)
    made = world(A, B, C, status_delegation(CARL, (ANN, BEN), quorum=1))
    tell(made, status_list(CARL, ANN, 12), status_list(CARL, OWN, 13))
    assert made.revocations.revoked(grant)
    assert made.revocations.naming(BEN.did, NOW) == [CARL.did]
    assert made.members(NOW) == {ANN.did, BEN.did, CARL.did}


def test_another_grid_begins_with_no_lists_but_our_own() -> None:
    made = graph()
    tell(made, A, DELEGATION, status_list(AUTHORITY, AUTHORITY, 3))
    tell(made, status_list(OWN, OWN, 4))
    made.switch_grid(STRANGER.did)
    assert made.revocations.list_of(AUTHORITY.did, AUTHORITY.did, NOW) is None
    assert made.revocations.list_of(OWN.did, OWN.did, NOW) is not None
    assert made.members(NOW) == frozenset()


def test_the_grid_s_delegation_goes_ahead_of_what_rests_on_it() -> None:
    """In repair and in a batch: a renewal before it would be refused."""
    old = membership(BEN, NOW - 29 * DAY_MS)
    by_ann = renewal(ORIGINAL, ANN, NOW)
    made = world(old, A, DELEGATION, by_ann, status_list(AUTHORITY, AUTHORITY))
    items = made.items(NOW)
    said = list(made.raws(items.ids(0, len(items)), now_ms=NOW))
    assert said[0] == DELEGATION.raw
    assert items.ids(0, 1) == [hashlib.sha256(DELEGATION.raw).digest()]
    fresh = graph()
    assert fresh.ingest_batch(said[::-1], now_ms=NOW, received_from="p")[1] == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from([AUTHORITY, ANN, BEN]),
            st.sets(st.integers(0, LIMITS.status_entries - 1), max_size=3),
        ),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_lists_merge_to_the_same_in_any_order(
    lists: list[tuple[Identity, set[int]]], random: Random
) -> None:
    """Each signer's newer lists hold its older ones, as honest ones do."""
    said: list[Record] = []
    so_far: dict[str, set[int]] = {who.did: set() for who in (AUTHORITY, ANN, BEN)}
    for number, (by, entries) in enumerate(lists):
        so_far[by.did] |= entries
        said.append(status_list(AUTHORITY, by, *so_far[by.did], start=NOW + number))
    expected = set[int]().union(*so_far.values())
    shuffled = [A, B, DELEGATION, *said]
    random.shuffle(shuffled)
    made = graph()
    for _ in range(2):
        for record in shuffled:
            tell(made, record, now=NOW + 10)
    bits = made.revocations.bits(AUTHORITY.did)
    assert {n for n in range(LIMITS.status_entries) if has_bit(bits, n)} == expected


# --- issuers by the thousand


def test_issuers_that_come_and_go_do_not_fill_the_disk() -> None:
    """Keys are free in an open grid, and a list may be valid for a second."""
    made = graph(open_to_strangers=True)
    made.revocations._owners_max = 32
    tell(made, A, status_list(AUTHORITY, AUTHORITY, 1), status_list(ANN, ANN, 5))
    for number in range(100):
        now, one = NOW + number * 2000, Identity(bytes([number, 7]) * 16)
        made.expire(now)
        tell(made, status_list(one, one, number, start=now, life=1000), now=now)
    rows = made.store.database.rows("SELECT owner FROM revoked")
    owners = {row[0] for row in rows}
    assert len(owners) <= 32
    assert {AUTHORITY.did, ANN.did, one.did} <= owners


def test_a_decision_looks_at_the_lists_that_count_alone() -> None:
    """Every member may sign a list of the grid: it is kept, and costs a decision nothing."""
    made = world(A, B, status_list(AUTHORITY, AUTHORITY), status_list(AUTHORITY, BEN, 1))

    class Counted(dict[str, Record]):
        def items(self) -> Never:
            raise AssertionError("all of them are looked at")

    lists = made.revocations._lists
    lists[AUTHORITY.did] = Counted(lists[AUTHORITY.did])
    status = made.revocations.at(NOW)[AUTHORITY.did]
    assert (status.own_ms, status.delegates_ms) == (NOW, {})


# --- issuers outside


def test_an_outsider_s_delegation_is_taken_in_where_a_member_signs_for_it() -> None:
    said = status_delegation(STRANGER, (ANN,))
    grant = StatusEntry(STRANGER.did, 12, 600)
    made = world(A, B)
    assert tell(made, said) == [Code.NOT_MEMBER]  # to name somebody costs that one nothing
    assert tell(made, status_list(STRANGER, BEN, 12)) == []
    assert tell(made, said) == [Code.NOT_MEMBER]
    assert tell(made, status_list(STRANGER, ANN, 13)) == []
    assert tell(made, said) == []
    known = made.revocations.at(NOW)[STRANGER.did]
    assert (known.as_of_ms, has_bit(known.bits, 13), has_bit(known.bits, 12)) == (NOW, True, False)
    assert said.content_id in made.believed(NOW)
    assert made.store.accounts.held(ANN.did)[0] == 2
    tell(made, status_list(STRANGER, ANN, 12, start=NOW + 1), now=NOW + 1)
    assert made.revocations.revoked(grant)
    gone = withdrawal(
        Kind.STATUS_DELEGATION, status_list_of(STRANGER.did), STRANGER, NOW + 2, 300 * DAY_MS
    )
    assert tell(made, gone, now=NOW + 2) == []
    assert made.revocations.delegates(STRANGER.did, NOW + 2) == ()
    assert made.revocations.revoked(grant)


def test_what_an_outsider_says_goes_with_its_sponsor_s_membership() -> None:
    said = status_delegation(STRANGER, (ANN,))
    made = world(A, B)
    tell(made, status_list(STRANGER, ANN))
    tell(made, said)
    tell(made, status_list(AUTHORITY, AUTHORITY, 1))
    assert said.content_id not in made.believed(NOW)
    assert tell(made, status_list(STRANGER, ANN, start=NOW + 1), now=NOW + 1) == [Code.NOT_MEMBER]


def test_an_outsider_changes_its_mind_no_more_often_than_it_may() -> None:
    made = world(A)
    tell(made, status_list(STRANGER, ANN))
    said = [
        tell(made, status_delegation(STRANGER, (ANN, BEN)[: 1 + n % 2], start=NOW + n), now=NOW + n)
        for n in range(LIMITS.outsiders_burst + 1)
    ]
    assert said == [[]] * LIMITS.outsiders_burst + [[Code.OVER_RATE]]
    later = NOW + 2 * MINUTE_MS
    assert tell(made, status_delegation(STRANGER, (ANN,), start=NOW + 9), now=later) == []
