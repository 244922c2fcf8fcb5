"""Repair without gossip: what one node was told alone gets to the others, both ways."""

import hashlib
import random
from typing import Any

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.store import Store
from aigrid.node.discovery.interests import Interests
from aigrid.node.discovery.sync import RecordSync
from aigrid.protocol.errors import Code, LocalError, RemoteError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, NodeBody, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import issue_membership
from aigrid.protocol.messages import (
    Fetch,
    Push,
    Pushed,
    Reconcile,
    Reconciled,
    Records,
    decode_rpc_answer,
    decode_rpc_request,
    encode,
)
from aigrid.protocol.reconcile_wire import INFINITY, Writer
from aigrid.protocol.record import build
from aigrid.protocol.record_status import StatusEntry

LIFE_MS = 30 * 86_400_000
ABSENT = Identity(bytes([77]) * 32)  # a member that is never there to speak for itself
PEER = Identity(bytes([78]) * 32).peer_id


@pytest.fixture
async def grid(tmp_path):
    async with trio.open_nursery() as nursery:
        sim = Simulation(5, tmp_path, nursery)
        for name in ("a", "b"):
            await sim.start(name)
        await sim.join("b", "a")
        await trio.sleep(5)
        yield sim
        nursery.cancel_scope.cancel()


def node_of(sim, name):
    return sim.nodes[name].node


def tell(sim, name, *records):
    """As if gossip had reached this node alone; others' records are not spread on."""
    raws = [record.raw for record in records]
    _, refusals = node_of(sim, name).graph.ingest_batch(
        raws, now_ms=sim.now_ms(), received_from=None
    )
    assert refusals == []


def knows(sim, name, record):
    return node_of(sim, name).graph.store.has(record.content_id)


def absent_member(sim, later_ms=0):
    authority = Identity(hashlib.sha256(f"{sim.seed}/a/grid".encode()).digest())
    now_ms = sim.now_ms() + later_ms
    entry = StatusEntry(authority.did, 77, LIMITS.status_age_member_seconds)
    return issue_membership(authority, ABSENT.did, now_ms=now_ms, valid_ms=LIFE_MS, status=entry)


def said_by_absent(sim, later_ms=0, *, withdrawn=False):
    now_ms = sim.now_ms() + later_ms
    body = (
        WithdrawnBody(id=ABSENT.did, withdrawn=True)
        if withdrawn
        else NodeBody(
            id=ABSENT.did, protocol_version=1, software="t", addresses=(), engines=(), devices=()
        )
    )
    return build(Kind.NODE, body, ABSENT, valid_from_ms=now_ms, valid_until_ms=now_ms + 600_000)


async def test_what_gossip_lost_arrives_within_one_period(grid, autojump_clock):
    records = absent_member(grid), said_by_absent(grid)
    tell(grid, "a", *records)
    took = await eventually(
        lambda: all(knows(grid, "b", record) for record in records),
        seconds=1.5 * LIMITS.sync_interval_seconds,
    )
    assert took > 0


async def test_a_sync_that_brought_news_is_soon_followed_by_another(
    grid, autojump_clock, monkeypatch
):
    syncs = []
    b = node_of(grid, "b").sync
    real = b.sync

    async def noted(peer_id, *, push):
        syncs.append((trio.current_time(), await real(peer_id, push=push)))
        return syncs[-1][1]

    async def nothing(peer_id, *, push):
        return 0

    monkeypatch.setattr(b, "sync", noted)
    monkeypatch.setattr(node_of(grid, "a").sync, "sync", nothing)
    tell(grid, "a", absent_member(grid), said_by_absent(grid))
    await trio.sleep(3 * LIMITS.sync_interval_seconds)
    (first, news), (second, none), (third, _) = syncs[:3]
    assert news > none == 0
    assert second - first <= 1.2 * LIMITS.sync_again_seconds + 1
    assert third - second >= 0.8 * LIMITS.sync_interval_seconds


@pytest.mark.parametrize("teller", ["a", "b"])
async def test_one_conversation_repairs_both_ways_withdrawals_included(
    grid, autojump_clock, teller
):
    other = "ab".replace(teller, "")
    membership, old = absent_member(grid), said_by_absent(grid)
    gone = said_by_absent(grid, 1, withdrawn=True)
    tell(grid, "a", membership, old)
    tell(grid, "b", membership)
    tell(grid, "b", gone)
    asker = node_of(grid, teller)
    await asker.sync.sync(node_of(grid, other).identity.peer_id, push=True)
    for name in ("a", "b"):
        assert knows(grid, name, gone)
        assert not knows(grid, name, old)


async def test_without_push_only_the_asker_learns(grid, autojump_clock):
    ours, theirs = absent_member(grid), said_by_absent(grid)
    tell(grid, "b", ours, theirs)
    b = node_of(grid, "b")
    assert await b.sync.sync(node_of(grid, "a").identity.peer_id, push=False) == 0
    assert not knows(grid, "a", ours)
    assert await node_of(grid, "a").sync.sync(b.identity.peer_id, push=False) == 2
    assert knows(grid, "a", theirs)


async def test_what_a_removed_member_said_is_not_spread(grid, autojump_clock):
    membership, said = absent_member(grid), said_by_absent(grid)
    tell(grid, "a", membership, said)
    a, b = node_of(grid, "a"), node_of(grid, "b")
    a.grid.remove(ABSENT.did)
    assert knows(grid, "a", said)
    await trio.sleep(2 * LIMITS.sync_interval_seconds)
    assert not knows(grid, "b", said)
    assert await a.sync.sync(b.identity.peer_id, push=True) == 0


class Wire:
    """An RpcClient whose peer is a function from request to answers."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []

    def call(self, peer_id, request, *, silence_seconds):
        return _Answers(self, request)

    async def ask(self, peer_id, request, *, silence_seconds):
        async with self.call(peer_id, request, silence_seconds=silence_seconds) as answers:
            return await anext(answers)


class _Answers:
    def __init__(self, wire, request):
        self.wire, self.request = wire, request

    async def __aenter__(self):
        message = decode_rpc_request(self.request)
        self.wire.requests.append(message)

        async def bodies():
            for one in self.wire.answer(message):
                yield encode(one)

        return bodies()

    async def __aexit__(self, *_):
        pass


class NoPeers:
    on_alive = None


def sync_over(wire, graph=None, chosen=None):
    graph = graph or Metagraph(
        Store(), Index(), grid="did:key:zGrid", own_did=ABSENT.did, open_to_strangers=True
    )
    peers: Any = NoPeers()
    interests = Interests(graph, chosen=chosen, now_ms=lambda: 1)
    return RecordSync(graph, wire, peers, interests, now_ms=lambda: 1, rng=random.Random(0))


def named(*ids):
    """A responder that holds `ids`, and says so whatever it is asked."""
    return b"\x61\x00\x00\x02" + bytes([len(ids)]) + b"".join(ids)


@pytest.mark.parametrize(
    "fetched",
    [[Records((b"1", b"2"))], [Records((b"1",)), Records((b"2",))], [Pushed(1)]],
)
async def test_more_than_was_asked_for_is_not_taken(fetched):
    wire = Wire(lambda m: [Reconciled(named(bytes(32)))] if isinstance(m, Reconcile) else fetched)
    sync = sync_over(wire)
    assert await sync.sync(PEER, push=True) == 0
    assert [type(m) for m in wire.requests] == [Reconcile, Fetch]


async def test_a_peer_that_never_agrees_is_left_after_bounded_rounds():
    def differs(message):
        return [Reconciled(b"\x61\x00\x00\x01" + bytes(16))]

    wire = Wire(differs)
    await sync_over(wire).sync(PEER, push=True)
    assert len(wire.requests) == LIMITS.reconcile_rounds_max + 1


async def test_many_needs_are_asked_for_in_bounded_requests():
    ids = [n.to_bytes(32, "big") for n in range(6000)]

    def lists(message):
        if isinstance(message, Fetch):
            return []
        round_ = len([m for m in wire.requests if isinstance(m, Reconcile)])
        writer = Writer()
        writer.skip((round_ - 1).to_bytes(8, "big"))
        writer.id_list(round_.to_bytes(8, "big"), ids[2000 * (round_ - 1) : 2000 * round_])
        if round_ < 3:
            writer.fingerprint(INFINITY, bytes(16))
        return [Reconciled(writer.message())]

    wire = Wire(lists)
    await sync_over(wire).sync(PEER, push=True)
    fetches = [m.ids for m in wire.requests if isinstance(m, Fetch)]
    assert [len(one) for one in fetches] == [LIMITS.sync_ids_max, 6000 - LIMITS.sync_ids_max]
    assert [one for fetch in fetches for one in fetch] == ids


async def test_requests_of_one_peer_are_rated(autojump_clock):
    sync, sent = sync_over(Wire(None)), []

    async def send(body):
        sent.append(decode_rpc_answer(body))

    for _ in range(LIMITS.syncs_burst):
        await sync.serve("peer", Reconcile(b"\x61\x00\x00\x02\x00"), send)
    for message in (Reconcile(b"\x61"), Fetch(()), Push(())):
        with pytest.raises(LocalError) as caught:
            await sync.serve("peer", message, send)
        assert caught.value.code is Code.RATE_LIMITED
    await sync.serve("other", Push((b"junk",)), send)
    assert sent[-1] == Pushed(0)
    with pytest.raises(RemoteError):
        await sync.serve("other", Reconcile(b"\x61\x00"), send)


async def test_what_there_was_no_room_for_is_not_asked_for(grid, monkeypatch, autojump_clock):
    membership, record = absent_member(grid), said_by_absent(grid)
    tell(grid, "a", membership, record)
    tell(grid, "b", membership)
    a, b = node_of(grid, "a"), node_of(grid, "b")
    with monkeypatch.context() as patched:
        patched.setattr(b.graph, "lacking", lambda _sha256s, **_who: [])
        assert await b.sync.sync(a.identity.peer_id, push=False) == 0
        assert not knows(grid, "b", record)
    assert await b.sync.sync(a.identity.peer_id, push=False) == 1
    assert knows(grid, "b", record)
