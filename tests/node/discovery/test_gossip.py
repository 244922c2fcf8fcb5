"""Batches out and in: bounds, order, and errors that end nothing."""

from contextlib import asynccontextmanager

import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph import world

from aigrid.node.discovery.batches import batches
from aigrid.node.discovery.gossip import Gossip
from aigrid.node.discovery.interests import Interests
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Records, decode_records, encode
from aigrid.protocol.record import Record


class Wire:
    """As much of a transport as gossip needs; refuses what the real one refuses."""

    def __init__(self):
        self.published: list[tuple[float, tuple[bytes, ...]]] = []
        self.send, self.receive = trio.open_memory_channel[tuple[str, bytes]](10)

    async def publish(self, topic, data):
        if len(data) > LIMITS.gossip_max_bytes:
            raise ValueError(len(data))
        self.published.append((trio.current_time(), decode_records(data).records))
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def subscribe(self, topic):
        yield self.receive


@asynccontextmanager
async def running(graph, spreads=lambda _: True, chosen=None):
    wire = Wire()
    interests = Interests(graph, chosen=chosen, now_ms=lambda: world.NOW)
    gossip = Gossip(wire, graph, interests, now_ms=lambda: world.NOW, spreads=spreads)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(gossip.run)
        yield wire, gossip
        nursery.cancel_scope.cancel()


@given(
    st.lists(st.integers(0, 400).map(lambda n: b"x" * n), max_size=40),
    st.integers(100, 1000),
)
def test_batches_keep_order_and_stay_within_the_bound(raws, max_bytes):
    made = batches(raws, max_bytes)
    assert [raw for batch in made for raw in batch] == raws
    assert all(batch for batch in made)
    for batch in made:
        assert len(batch) == 1 or len(encode(Records(batch))) <= max_bytes


async def test_the_first_change_goes_out_at_once_and_later_ones_together(autojump_clock):
    graph = world.with_members(world.ANN, world.BEN)
    async with running(graph) as (wire, _):
        start = trio.current_time()
        graph.ingest(world.manifest(world.ANN).raw, now_ms=world.NOW, received_from=None)
        await trio.sleep(0.1)
        for record in (world.manifest(world.BEN), world.manifest(world.BEN, 1)):
            graph.ingest(record.raw, now_ms=world.NOW, received_from=None)
            await trio.sleep(0.1)
        await trio.sleep(5)
        times = [at - start for at, _ in wire.published]
        assert [len(records) for _, records in wire.published] == [1, 2]
        assert times[0] < 0.1
        assert times[1] - times[0] >= LIMITS.gossip_interval_seconds


async def test_of_one_key_only_the_newest_is_sent(autojump_clock):
    graph = world.with_members(world.ANN)
    async with running(graph) as (wire, _):
        first, *others = (world.node_record(world.ANN, world.NOW + n) for n in range(4))
        for record in (first, *others):
            graph.ingest(record.raw, now_ms=world.NOW + 10, received_from=None)
        await trio.sleep(3)
        assert [records for _, records in wire.published] == [(others[-1].raw,)]


async def test_what_is_not_ours_to_spread_stays_here(autojump_clock):
    graph = world.with_members(world.ANN, world.BEN)
    async with running(graph, lambda record: record.issuer == world.ANN.did) as (wire, _):
        for issuer in (world.ANN, world.BEN):
            record = world.manifest(issuer)
            graph.ingest(record.raw, now_ms=world.NOW, received_from="peer")
        await trio.sleep(3)
        assert [records for _, records in wire.published] == [(world.manifest(world.ANN).raw,)]


async def test_what_is_not_ours_any_more_when_its_turn_comes_stays_here(autojump_clock):
    graph, ours = world.with_members(world.ANN, world.BEN), {world.ANN.did, world.BEN.did}
    async with running(graph, lambda record: record.issuer in ours) as (wire, _):
        for issuer in (world.ANN, world.BEN):  # the first goes out at once
            graph.ingest(world.manifest(issuer).raw, now_ms=world.NOW, received_from=None)
            await trio.sleep(0.1)
        ours.remove(world.BEN.did)
        await trio.sleep(3)
        assert [records for _, records in wire.published] == [(world.manifest(world.ANN).raw,)]


async def test_a_record_too_large_for_a_batch_is_left_to_sync(autojump_clock):
    graph = world.with_members(world.ANN)
    small = world.manifest(world.ANN)
    raw = b"x" * (LIMITS.gossip_max_bytes - 10)
    large = Record(
        Kind.MODEL, world.ANN.did, "large", world.NOW, world.NOW + 1, small.body, "id", raw
    )
    async with running(graph) as (wire, gossip):
        gossip.spread(large)
        gossip.spread(small)
        await trio.sleep(3)
        assert [records for _, records in wire.published] == [(small.raw,)]


async def test_neither_garbage_nor_a_full_disk_ends_the_service(autojump_clock, monkeypatch):
    graph = world.with_members(world.ANN)
    record = world.manifest(world.ANN)
    async with running(graph) as (wire, _):
        await wire.send.send(("peer", b"\xff garbage"))
        with monkeypatch.context() as patch:

            def full(*args, **kwargs):
                raise UsageError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

            patch.setattr(graph, "ingest_batch", full)
            await wire.send.send(("peer", encode(Records((record.raw,)))))
            await trio.sleep(1)
        await wire.send.send(("peer", encode(Records((b"{}", record.raw)))))
        await trio.sleep(1)
        assert graph.store.has(record.content_id)


async def test_repeating_says_again_what_one_issuer_said(autojump_clock):
    graph = world.with_members(world.ANN, world.BEN)
    for issuer in (world.ANN, world.BEN):
        graph.ingest(world.manifest(issuer).raw, now_ms=world.NOW, received_from=None)
    async with running(graph) as (wire, gossip):
        gossip.repeat(world.BEN.did)
        await trio.sleep(3)
        assert [records for _, records in wire.published] == [(world.manifest(world.BEN).raw,)]
