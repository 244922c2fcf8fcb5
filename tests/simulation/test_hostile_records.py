"""A member that says what nobody may say, by every way there is.

Gossip messages themselves go on unopened, under their publisher's name; what a node says is looked at.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from tests.metagraph.hostile import SHARED, hostile, replayed
from tests.simulation.harness import SimNode, Simulation, eventually
from trio.testing import MockClock

from aigrid.node.app import Node
from aigrid.node.discovery.batches import batches
from aigrid.protocol.canonical import content_id
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import (
    RECORDS_TOPIC,
    Push,
    Pushed,
    Records,
    decode_records,
    decode_rpc_answer,
    encode,
)
from aigrid.protocol.reconcile_items import Items, item

HONEST = ("n0", "n1", "n2")


def seen(node: Node) -> set[str]:
    """Content ids in everything that this node answers or tells its peers."""
    now = node.now_ms()
    candidates = node.graph.index.candidates(now)
    items = node.graph.items(now)
    said = node.graph.raws(items.ids(0, len(items)), now_ms=now)
    return (
        {record.content_id for record in node.graph.live_records(now)}
        | set(node.graph.believed(now))
        | {each for found in candidates for each in (found.manifest, found.record)}
        | {hashlib.sha256(raw).hexdigest() for raw in said}
    )


def evil_records(
    sim: Simulation, mallory: Node, authority: Node
) -> tuple[list[bytes], list[bytes]]:
    """(good ones that come first, what must never be seen)."""
    assert authority.grid.authority is not None
    now, evil = sim.now_ms(), list[bytes]()
    for kind in SHARED:
        crimes = hostile(kind, now, member=mallory.identity, authority=authority.grid.authority)
        crimes["tampered"] = crimes["tampered"][::11]  # each byte once is tried without a network
        evil += [raw for raws in crimes.values() for raw in raws]
    old, new, gone = replayed(Kind.MODEL, now, by=mallory.identity)
    return [gone.raw], [*evil, old.raw, new.raw]


def lie_in_sync(mallory: SimNode, evil: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reconciles with it is offered, and then sent, `evil`."""
    graph = mallory.node.graph
    by_id = {hashlib.sha256(raw).digest(): raw for raw in evil}
    lies = Items(item(1_800_000_000, sha256) for sha256 in by_id)

    def raws(sha256s: Sequence[bytes], *, now_ms: int) -> list[bytes]:
        del now_ms
        return [by_id[sha256] for sha256 in sha256s if sha256 in by_id]

    monkeypatch.setattr(graph, "items", lambda _now_ms, **_branch: lies)
    monkeypatch.setattr(graph, "raws", raws)


async def test_no_honest_node_shows_or_passes_on_what_must_not_be_seen(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(3, tmp_path, nursery)
        for name in (*HONEST, "mallory"):
            await sim.start(name)
            if name != "n0":
                await sim.join(name, "n0")
        nodes = [sim.nodes[name].node for name in HONEST]
        await eventually(
            lambda: all(len(each.peers.alive_members()) == 3 for each in nodes), seconds=30
        )
        mallory = sim.nodes["mallory"]
        good, evil = evil_records(sim, mallory.node, nodes[0])
        published: set[bytes] = set()
        for node in nodes:
            publish = node.transport.publish

            async def noting(topic: str, data: bytes, publish=publish) -> None:
                published.update(decode_records(data).records)
                await publish(topic, data)

            monkeypatch.setattr(node.transport, "publish", noting)
        await mallory.node.transport.publish(RECORDS_TOPIC, encode(Records(tuple(good))))
        await eventually(
            lambda: all(each.graph.store.has(content_id(good[0])) for each in nodes), seconds=10
        )
        for batch in batches(evil):
            await mallory.node.transport.publish(RECORDS_TOPIC, encode(Records(batch)))
            for node in nodes:
                answer = decode_rpc_answer(
                    await mallory.node.rpc.ask(
                        node.identity.peer_id, encode(Push(batch)), silence_seconds=10.0
                    )
                )
                assert answer == Pushed(0)
            await trio.sleep(1)
        lie_in_sync(mallory, evil, monkeypatch)
        refused = [node.graph.refused.total() for node in nodes]
        for node in nodes:
            assert await node.sync.sync(mallory.node.identity.peer_id, push=True) == 0
        await trio.sleep(3 * LIMITS.sync_interval_seconds)
        after = [node.graph.refused.total() for node in nodes]
        assert all(now >= then + len(evil) for then, now in zip(refused, after, strict=True))
        names = {content_id(raw) for raw in evil}
        names |= {hashlib.sha256(raw).hexdigest() for raw in evil}
        members = {each.node.identity.did for each in sim.nodes.values()}
        for node in nodes:
            assert node.grid.members() == members
            assert seen(node).isdisjoint(names)
        assert published.isdisjoint(evil)
        nursery.cancel_scope.cancel()
