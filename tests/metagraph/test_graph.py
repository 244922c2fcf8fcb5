import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.metagraph.world import (
    ANN,
    AUTHORITY,
    BEN,
    DAY_MS,
    MINUTE_MS,
    MODELS,
    NOW,
    OWN,
    STRANGER,
    availability,
    graph,
    manifest,
    membership,
    node_record,
    offer,
    signed,
    status_delegation,
    status_list,
    visible,
    with_members,
    withdrawal,
)
from tests.protocol.strategies import example, example_bodies

from aigrid.metagraph import refusals as refusals_module
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.store import Store
from aigrid.protocol.canonical import canonical, content_id, parse
from aigrid.protocol.errors import Code, UsageError, VerificationError
from aigrid.protocol.evidence import AuditBody
from aigrid.protocol.kinds import (
    KINDS,
    AvailabilityBody,
    CapabilityBody,
    DemandBody,
    Kind,
    MembershipBody,
    NodeBody,
    WantedModel,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, verify, verify_form_and_signature


def ingest(
    made: Metagraph, *records: Record, now: int = NOW, peer: str | None = "peer"
) -> tuple[list[str], list[Code]]:
    raws = [record.raw for record in records]
    changed, refusals = made.ingest_batch(raws, now_ms=now, received_from=peer)
    return [record.content_id for record in changed], [error.code for error in refusals]


def refused(made: Metagraph, raw: bytes, code: Code, now: int = NOW) -> None:
    before, seen = made.refused[code], visible(made, now)
    for _ in range(2):  # the second time from memory
        with pytest.raises(VerificationError) as caught:
            made.ingest(raw, now_ms=now, received_from="peer")
        assert caught.value.code is code
    assert made.refused[code] == before + 2
    assert visible(made, now) == seen


def edited(record: Record, **members: object) -> bytes:
    document = parse(record.raw, max_bytes=10**6, depth_max=16).value
    return canonical({**document, **members})


CAPABILITY = CapabilityBody(id=f"{ANN.did}#x", broader=("text",), labels={"en": "x"})

DEMAND = DemandBody(ANN.did, (WantedModel(content_id(b"a model"), content_id(b"its manifest"), 3),))


def shared(kind: Kind) -> Record:
    """A record of `kind` that a grid with ANN in it believes."""
    return {
        Kind.NODE: node_record(ANN),
        Kind.MODEL: manifest(ANN),
        Kind.AVAILABILITY: availability(ANN, offer(manifest(ANN))),
        Kind.DEMAND: signed(DEMAND, Kind.DEMAND, ANN),
        Kind.CAPABILITY: signed(CAPABILITY, Kind.CAPABILITY, ANN),
        Kind.EVALUATION: signed(example_bodies()[Kind.EVALUATION], Kind.EVALUATION, ANN),
        Kind.AUDIT: signed(AuditBody(BEN.did, ()), Kind.AUDIT, ANN),
        Kind.MEMBERSHIP: membership(BEN),
        Kind.STATUS_LIST: status_list(ANN, ANN, 7),
        Kind.STATUS_DELEGATION: status_delegation(ANN, (BEN,)),
    }[kind]


SHARED = [kind for kind in Kind if KINDS[kind].shared]


@pytest.mark.parametrize("kind", SHARED)
def test_a_record_of_a_member_is_believed_and_then_known(kind: Kind) -> None:
    made, record = with_members(ANN), shared(kind)
    assert made.ingest(record.raw, now_ms=NOW, received_from="peer") == record
    assert record.content_id in visible(made, NOW)
    assert made.ingest(record.raw, now_ms=NOW, received_from="peer") is None
    assert not made.refused


@pytest.mark.parametrize("kind", SHARED)
def test_no_record_with_a_flipped_byte_is_ever_visible(kind: Kind) -> None:
    made, raw = with_members(ANN), shared(kind).raw
    before = visible(made, NOW)
    flipped = [raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :] for i in range(len(raw))]
    changed, refusals = made.ingest_batch(flipped, now_ms=NOW, received_from="peer")
    assert changed == []
    assert len(refusals) == len(flipped)
    assert visible(made, NOW) == before


def test_bad_records_are_refused_each_with_its_code_and_never_visible() -> None:
    made, good = with_members(ANN), node_record(ANN)
    refused(made, edited(good, validFrom="2026-01-01T00:00:00.000Z"), Code.TTL_TOO_LONG)
    refused(made, edited(good, issuer=BEN.did), Code.ISSUER_NOT_KEY)
    refused(made, edited(good, extra=1), Code.UNKNOWN_FIELD)
    refused(made, good.raw + b" ", Code.NOT_CANONICAL)
    refused(made, b"x" * (LIMITS.record_max_bytes + 1), Code.RECORD_TOO_LARGE)
    refused(made, b"", Code.MALFORMED)
    refused(made, good.raw, Code.EXPIRED, NOW + 10 * MINUTE_MS)
    refused(made, good.raw, Code.FROM_FUTURE, NOW - LIMITS.clock_skew_seconds * 1000 - 1)
    refused(made, node_record(STRANGER).raw, Code.NOT_MEMBER)
    refused(made, membership(BEN, by=ANN).raw, Code.NOT_MEMBER)
    refused(made, membership(ANN, by=STRANGER).raw, Code.NOT_MEMBER)
    refused(made, example(Kind.INVITATION, issuer=ANN, start_ms=NOW).raw, Code.UNKNOWN_KIND)
    ingest(made, node_record(ANN, start=NOW + 1))
    refused(made, good.raw, Code.SUPERSEDED)


def test_what_was_refused_for_its_time_or_its_issuer_may_be_welcome_later() -> None:
    made, early, stranger = with_members(ANN), node_record(ANN, start=NOW), node_record(BEN)
    refused(made, early.raw, Code.FROM_FUTURE, NOW - DAY_MS)
    refused(made, stranger.raw, Code.NOT_MEMBER)
    ingest(made, membership(BEN))
    assert ingest(made, early, stranger) == ([early.content_id, stranger.content_id], [])


def test_a_signature_is_checked_once_per_content_id(monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_members(ANN)
    checked: list[bytes] = []
    verify = verify_form_and_signature

    def counting(raw: bytes) -> Record:
        checked.append(raw)
        return verify(raw)

    monkeypatch.setattr(refusals_module, "verify_form_and_signature", counting)
    good, bad = node_record(ANN), node_record(ANN).raw.replace(b"eddsa", b"Eddsa")
    early = node_record(BEN)
    for _ in range(5):
        made.ingest_batch([good.raw, bad, early.raw], now_ms=NOW, received_from="peer")
    assert checked == [good.raw, bad, early.raw]


def test_the_memory_of_refusals_is_bounded() -> None:
    made = graph()
    for n in range(LIMITS.refusals_kept_max + 10):
        made.ingest_batch([b"%d" % n], now_ms=NOW, received_from="peer")
    assert len(made._refusals._refusals._items) == LIMITS.refusals_kept_max


def test_in_a_batch_memberships_count_first() -> None:
    made, node = graph(), node_record(ANN)
    changed, refusals = ingest(made, node, membership(ANN))
    assert node.content_id in changed
    assert refusals == []


def test_a_withdrawn_membership_in_the_same_batch_counts_too() -> None:
    made = with_members(ANN)
    gone = withdrawal(Kind.MEMBERSHIP, ANN.did, AUTHORITY, NOW + 1, 30 * DAY_MS)
    assert ingest(made, node_record(ANN), gone) == ([gone.content_id], [Code.NOT_MEMBER])


def test_losing_a_membership_hides_what_its_holder_said_until_it_is_renewed() -> None:
    made, about = with_members(ANN, BEN), manifest(ANN)
    made_by_ben = availability(BEN, offer(about), life=4 * MINUTE_MS)
    ingest(made, about, made_by_ben, node_record(ANN))
    before = visible(made, NOW + 2)
    assert made.index.offers_of_model(MODELS[0], NOW)
    made.withdraw(Kind.MEMBERSHIP, ANN.did, AUTHORITY, now_ms=NOW + 1)
    assert visible(made, NOW + 2) == {membership(BEN).content_id, made_by_ben.content_id}
    assert made.index.candidates(NOW + 2) == ()
    assert made.index.models(NOW + 2) == ()
    assert made.index.node(ANN.did, NOW + 2) is None
    assert made.members(NOW + 2) == {BEN.did}
    renewed = membership(ANN, start=NOW + 3)
    ingest(made, renewed, now=NOW + 3)
    expected = before - {membership(ANN).content_id} | {renewed.content_id}
    assert visible(made, NOW + 3) == expected
    assert made.index.offers_of_model(MODELS[0], NOW + 3)


def test_an_expired_membership_hides_even_before_it_is_deleted() -> None:
    made, about = graph(), manifest(ANN)
    ingest(made, membership(ANN, life=1000), about, availability(ANN, offer(about)))
    assert made.index.candidates(NOW + 999)
    assert made.index.candidates(NOW + 1000) == ()
    assert made.membership_of(ANN.did, NOW + 1000) is None
    assert visible(made, NOW + 1000) == set()
    made.expire(NOW + 1000)
    assert made.index.models(NOW) == ()
    ingest(made, membership(ANN, start=NOW + 2000), now=NOW + 2000)
    assert made.index.candidates(NOW + 2000)


def test_what_this_node_says_needs_no_membership() -> None:
    made, about = graph(), manifest(OWN)
    ingest(made, about, availability(OWN, offer(about)))
    assert len(made.index.candidates(NOW)) == 1


def test_the_authority_may_have_more_members_than_anybody_has_records() -> None:
    limits = replace(LIMITS, records_per_issuer_max=1, records_burst_per_issuer=1)
    made = graph(Store(limits=limits))
    assert ingest(made, membership(ANN), membership(BEN), membership(OWN))[1] == []
    assert ingest(made, node_record(ANN), manifest(ANN))[1] == [Code.OVER_QUOTA]
    assert ingest(made, node_record(ANN, start=NOW + 1))[1] == [Code.OVER_RATE]
    assert ingest(made, node_record(OWN), node_record(OWN, start=NOW + 1))[1] == []


def test_strangers_in_an_open_grid_share_the_account_of_who_introduced_them() -> None:
    made = with_members(ANN, open_to_strangers=True)
    ingest(made, node_record(STRANGER), node_record(BEN), node_record(ANN))
    accounts = dict(
        made.store.database.rows("SELECT subject, account FROM records WHERE kind = 'NodeRecord'")
    )
    assert accounts[STRANGER.did] == accounts[BEN.did] == "via peer"
    assert accounts[ANN.did] == ANN.did
    assert visible(made, NOW) >= {node_record(STRANGER).content_id}


def test_listeners_hear_of_changes_after_they_are_stored_and_once() -> None:
    made = with_members(ANN)
    heard: list[Record] = []

    def listener(record: Record) -> None:
        assert made.store.has(record.content_id)
        assert not made.store.database._connection.in_transaction
        heard.append(record)

    made.listeners.append(listener)
    old, new = node_record(ANN), node_record(ANN, start=NOW + 1)
    ingest(made, old, new)
    ingest(made, old, new)
    assert heard == [new]


def test_a_failing_disk_changes_nothing_that_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_members(ANN)
    heard: list[Record] = []
    made.listeners.append(heard.append)

    def full(*_: object) -> None:
        raise UsageError("disk full", Code.DATA_DIRECTORY_UNUSABLE)

    monkeypatch.setattr(made.store, "_write", full)
    with pytest.raises(UsageError):
        ingest(made, node_record(ANN))
    assert heard == []
    assert made.index.node(ANN.did, NOW) is None
    monkeypatch.undo()
    assert ingest(made, node_record(ANN)) == ([node_record(ANN).content_id], [])


def test_what_we_issue_always_replaces_what_we_said(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    made = graph(store)
    body = AvailabilityBody(id=OWN.did, offers=())
    issued = [
        made.issue(Kind.AVAILABILITY, body, OWN, now_ms=now, ttl_ms=ttl)
        for now, ttl in ((NOW, 60_000), (NOW, 1000), (NOW - 5000, 1000))
    ]
    store.close()
    made = graph(Store(tmp_path / "db"))
    issued.append(made.issue(Kind.AVAILABILITY, body, OWN, now_ms=NOW, ttl_ms=DAY_MS))
    starts = [record.valid_from_ms for record in issued]
    assert starts == [NOW, NOW + 1, NOW + 2, NOW + 3]
    ends = [record.valid_until_ms for record in issued]
    assert ends == sorted(ends)
    assert ends[1] == NOW + 60_000
    assert ends[3] == NOW + 3 + LIMITS.availability_ttl_seconds * 1000
    assert visible(made, NOW) == {issued[-1].content_id}


def test_a_withdrawal_is_valid_as_long_as_what_it_takes_back() -> None:
    made, about = graph(), manifest(OWN)
    ingest(made, about)
    gone = made.withdraw(Kind.MODEL, about.subject, OWN, now_ms=NOW)
    assert gone is not None
    assert gone.withdrawn
    assert gone.valid_from_ms == NOW + 1
    assert gone.valid_until_ms == about.valid_until_ms
    assert made.index.models(NOW) == ()
    assert made.withdraw(Kind.MODEL, about.subject, OWN, now_ms=NOW + 5) is None
    refused(made, about.raw, Code.SUPERSEDED)


def test_there_is_nothing_to_withdraw_where_nothing_is_valid() -> None:
    made = graph()
    assert made.withdraw(Kind.NODE, OWN.did, OWN, now_ms=NOW) is None
    ingest(made, node_record(OWN, life=1000))
    assert made.withdraw(Kind.NODE, OWN.did, OWN, now_ms=NOW + 1000) is None


def test_issuing_what_would_be_refused_is_an_error() -> None:
    made = graph()
    body = NodeBody(
        id=ANN.did, protocol_version=1, software="", addresses=(), engines=(), devices=()
    )
    with pytest.raises(VerificationError) as caught:
        made.issue(Kind.NODE, body, ANN, now_ms=NOW, ttl_ms=1000)
    assert caught.value.code is Code.NOT_MEMBER


def test_a_restarted_node_believes_the_same(tmp_path: Path) -> None:
    made, about = with_members(ANN, BEN, store=Store(tmp_path / "db")), manifest(ANN)
    ingest(made, about, availability(BEN, offer(about)), node_record(ANN))
    made.withdraw(Kind.MEMBERSHIP, BEN.did, AUTHORITY, now_ms=NOW)
    made.store.close()
    again = graph(Store(tmp_path / "db"), now=NOW)
    assert visible(again, NOW) == visible(made_anew(again), NOW)
    assert again.members(NOW) == {ANN.did}
    assert again.index.candidates(NOW) == ()
    assert again.index.resolve("echo", NOW) == (MODELS[0],)
    ingest(again, membership(BEN, start=NOW + 2), now=NOW + 2)
    assert len(again.index.candidates(NOW + 2)) == 1


def made_anew(made: Metagraph) -> Metagraph:
    """The same records, ingested once more by another node."""
    other = graph()
    raws = list(made.raws(said(made, NOW), now_ms=NOW))
    _, refusals = other.ingest_batch(raws, now_ms=NOW, received_from="peer")
    assert refusals == []
    return other


def test_switching_grids_keeps_only_what_we_said(tmp_path: Path) -> None:
    made, about = with_members(ANN, OWN, store=Store(tmp_path / "db")), manifest(OWN)
    theirs = manifest(ANN, 1)
    ingest(made, about, availability(OWN, offer(about)), theirs, node_record(ANN))
    made.switch_grid(BEN.did)
    assert visible(made, NOW) == {about.content_id, availability(OWN, offer(about)).content_id}
    assert len(made.index.candidates(NOW)) == 1
    assert made.members(NOW) == frozenset()
    assert ingest(made, theirs, membership(ANN)) == ([], [Code.NOT_MEMBER, Code.NOT_MEMBER])
    ours = membership(OWN, by=BEN)
    assert ingest(made, ours, membership(ANN, by=BEN), theirs)[1] == []
    assert made.members(NOW) == {OWN.did, ANN.did}
    assert made.index.resolve(MODELS[1], NOW) == (MODELS[1],)


def test_leaving_a_grid_of_ones_own_leaves_its_memberships_too() -> None:
    made = Metagraph(Store(), Index(), grid=OWN.did, own_did=OWN.did, open_to_strangers=False)
    ingest(made, membership(OWN, by=OWN), node_record(OWN))
    assert made.members(NOW) == {OWN.did}
    made.switch_grid(AUTHORITY.did)
    assert made.counts(NOW) == {"NodeRecord": 1}
    assert made.members(NOW) == frozenset()


def test_what_expired_while_the_node_was_down_is_gone_at_start(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    ingest(graph(store), node_record(OWN, life=1000))
    store.close()
    made = graph(Store(tmp_path / "db"), now=NOW + 1000)
    assert made.store.next_expiry_ms() is None


def said(made, now=NOW + 1):
    """SHA-256 of what may be said to a peer, in order."""
    items = made.items(now)
    return items.ids(0, len(items))


def test_what_may_be_said_is_memberships_first_and_withdrawals_too() -> None:
    made, about = with_members(ANN, BEN), manifest(ANN)
    ingest(made, about, node_record(ANN), node_record(BEN))
    made.withdraw(Kind.MEMBERSHIP, BEN.did, AUTHORITY, now_ms=NOW)
    answer = list(made.raws(said(made), now_ms=NOW + 1))
    records = [verify(raw, now_ms=NOW + 1) for raw in answer]
    assert [record.kind for record in records[:2]] == [Kind.MEMBERSHIP] * 2
    assert {record.issuer for record in records} == {AUTHORITY.did, ANN.did}  # not BEN's
    assert len(records) == len(said(made)) == 4
    assert hashlib.sha256(answer[0]).digest() in said(made)[:2]
    other = graph()
    assert other.ingest_batch(answer, now_ms=NOW + 1, received_from="peer")[1] == []
    assert visible(other, NOW + 1) == visible(made, NOW + 1)
    assert said(other) == said(made)


def test_what_may_not_be_said_is_not_sent_when_asked_for() -> None:
    made, hidden = with_members(ANN, BEN), node_record(BEN)
    ingest(made, hidden)
    digest = hashlib.sha256(hidden.raw).digest()
    assert list(made.raws((digest, bytes(32)), now_ms=NOW)) == [hidden.raw]
    made.withdraw(Kind.MEMBERSHIP, BEN.did, AUTHORITY, now_ms=NOW)
    assert list(made.raws((digest,), now_ms=NOW)) == []


def test_expired_records_are_neither_named_nor_sent() -> None:
    made = with_members(ANN)
    ingest(made, node_record(ANN, life=1000))
    named = said(made, NOW + 999)
    assert len(named) == 2
    assert len(said(made, NOW + 1000)) == 1
    assert len(list(made.raws(named, now_ms=NOW + 1000))) == 1


def test_a_membership_that_ends_silences_its_holder() -> None:
    made = graph()
    ingest(made, membership(ANN, life=1000), node_record(ANN), membership(BEN))
    assert len(said(made, NOW + 999)) == 3
    assert len(said(made, NOW + 1000)) == 1


def test_a_snapshot_is_kept_until_something_changes() -> None:
    made = with_members(ANN)
    first = made.items(NOW)
    assert made.items(NOW + 1000) is first
    ingest(made, node_record(ANN))
    second = made.items(NOW + 1000)
    assert len(second) == 2
    assert made.items(NOW) is not second  # the clock was set back
    made.switch_grid(OWN.did)
    assert len(made.items(NOW + 1000)) == 0


def test_a_branch_has_a_snapshot_of_its_own() -> None:
    made = with_members(ANN)
    ingest(made, manifest(ANN), node_record(ANN))
    text, everybodys = made.items(NOW, branch="text"), made.items(NOW, branch="everybody")
    assert (len(text), len(everybodys), len(made.items(NOW))) == (1, 2, 3)
    assert len(made.items(NOW, branch="vision")) == 0
    assert len(made.items(NOW, branch="no-such-branch")) == 0
    assert made.items(NOW, branch="text") is text
    assert made.items(NOW, branch="everybody") is everybodys


def test_a_small_branch_of_a_large_store_is_not_gathered_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aigrid.metagraph.repair._REUSE_MS_PER_RECORD", 100)
    made = with_members(ANN)
    ingest(made, manifest(ANN))
    text = made.items(NOW, branch="text")
    ingest(made, manifest(ANN, 1))
    assert made.items(NOW + 199, branch="text") is text  # two records were looked at, for one
    assert len(made.items(NOW + 200, branch="text")) == 2


def test_a_membership_is_issued_with_the_authoritys_key() -> None:
    made = graph()
    body = MembershipBody(id=ANN.did, grid=AUTHORITY.did)
    record = made.issue(Kind.MEMBERSHIP, body, AUTHORITY, now_ms=NOW, ttl_ms=DAY_MS)
    assert made.membership_of(ANN.did, NOW) == record
    assert made.counts(NOW) == {"Membership": 1}


def test_what_there_was_no_room_for_is_not_worth_fetching_for_a_while() -> None:
    """Nodes that a member told different records, each up to its quota, never agree on them."""
    limits = replace(LIMITS, records_per_issuer_max=1)
    made = graph(Store(limits=limits))
    for record in (membership(ANN), manifest(ANN)):
        made.ingest(record.raw, now_ms=NOW, received_from="peer")
    other = manifest(ANN, 1)
    digest = hashlib.sha256(other.raw).digest()
    later = NOW + LIMITS.refused_for_room_seconds * 1000
    assert made.lacking([digest], peer_id="peer", now_ms=NOW) == [digest]
    assert ingest(made, other, peer="peer")[1] == [Code.OVER_QUOTA]
    assert made.lacking([digest], peer_id="peer", now_ms=later - 1) == []
    assert made.lacking([digest], peer_id="another", now_ms=NOW) == [digest]
    assert made.lacking([digest], peer_id="peer", now_ms=later) == [digest]
    made.ingest(membership(BEN).raw, now_ms=NOW, received_from="peer")
    assert made.lacking([digest], peer_id="peer", now_ms=NOW) == [digest]
