"""Slots for uploads: nobody who asks can keep them from the others."""

import math

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from tests.simulation.harness import Simulation
from tests.simulation.heavy import (
    content,
    files_of,
    heavy_grid,
    knows,
    manifest_of,
    publish_heavy,
)

from aigrid.node.mesh.weights.uploads import Upload, UploadSlots, share, to_end
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.chunks import Part
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.limits import LIMITS, MIB
from aigrid.protocol.messages import Weights, encode

PEERS = "abcdef"
PART = Part("weights.bin", 0, 1)
RATE, GRACE = LIMITS.upload_slow_bytes_per_second, LIMITS.upload_grace_seconds


def upload(peer: str, *, began: float = 0.0, sent: int = 0, waited: float = 0.0) -> Upload:
    return Upload(peer, "model", began, sent, _waited=waited)


def test_who_is_slow_ends_first_and_only_after_a_while():
    quick = upload("a", sent=10 * MIB, waited=60)
    young = upload("a", began=-1, sent=0, waited=GRACE - 1)
    slow = upload("b", sent=RATE, waited=GRACE + 10)
    slower = upload("c", sent=RATE // 2, waited=GRACE + 10)
    assert to_end([quick, young, slow, slower], "d", 4) is slower
    assert to_end([quick, young], "d", 2) is young, "the oldest of whoever has more than its share"
    assert to_end([quick, upload("d", sent=MIB)], "e", 2) is None


@given(st.lists(st.sampled_from(PEERS), max_size=16), st.sampled_from(PEERS))
def test_a_peer_below_its_share_ends_one_of_a_peer_above_and_never_the_other_way(held, peer):
    uploads = [upload(one, began=at) for at, one in enumerate(held)]
    fair = share(uploads, peer, 16)
    ended = to_end(uploads, peer, 16)
    if ended is None:
        assert held.count(peer) >= fair or all(held.count(one) <= fair for one in held)
        return
    assert held.count(peer) < fair < held.count(ended.peer)
    assert held.count(ended.peer) == max(map(held.count, held))


@given(st.lists(st.sampled_from(PEERS), min_size=40, max_size=80))
def test_whoever_asks_often_enough_has_its_share(asked):
    """Nobody ends by himself: each of so many peers comes to its share of the slots."""

    async def ask_all() -> None:
        slots = UploadSlots(8, 4)
        async with trio.open_nursery() as nursery:

            async def hold(peer: str) -> None:
                try:
                    with slots.slot(peer, "model"):
                        await trio.sleep_forever()
                except AigridError as error:
                    if error.code is not Code.BUSY:
                        raise

            for peer in [*asked, *(PEERS * 4)]:
                nursery.start_soon(hold, peer)
                await trio.testing.wait_all_tasks_blocked()
                assert len(slots.uploads) <= 8
            counts = [sum(u.peer == peer for u in slots.uploads) for peer in PEERS]
            assert min(counts) >= math.floor(8 / len(PEERS))
            nursery.cancel_scope.cancel()
        assert not slots.uploads

    trio.run(ask_all)


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(23, tmp_path, nursery)
        nursery.cancel_scope.cancel()


DATA = {"weights.bin": content(5 * MIB + 17)}


def read_slowly(holder, readers, seconds):
    """Pieces to some peers take so long."""
    honest = holder.weights.giving.serve

    async def serve(peer_id: str, message: Weights, send) -> None:
        async def drip(data: bytes) -> None:
            if peer_id in readers and message.part.count:
                await trio.sleep(seconds)
            await send(data)

        await honest(peer_id, message, drip)

    vars(holder.weights.giving)["serve"] = serve


async def test_four_slow_readers_do_not_keep_others_from_a_file(sim, autojump_clock):
    """They would hold all slots for as long as a chunk may take."""
    few = WeightsConfig(uploads=8, uploads_per_peer=2)
    slow = [f"slow{n}" for n in range(4)]
    holder, *readers, quick = await heavy_grid(sim, "holder", *slow, "quick", weights=few)
    read_slowly(holder, {one.identity.peer_id for one in readers}, LIMITS.upload_piece_seconds - 1)
    model = await publish_heavy(sim, "holder", DATA)
    manifest = await knows(quick, model)
    async with trio.open_nursery() as nursery:

        async def fetch(node) -> None:
            await node.weights.fetch(model, await knows(node, model))

        for one in readers:
            nursery.start_soon(fetch, one)
        await trio.sleep(30)
        assert holder.weights.giving.giving.total() == 8
        began = trio.current_time()
        await quick.weights.fetch(model, manifest)
        assert trio.current_time() - began < 60
        nursery.cancel_scope.cancel()
    assert files_of(sim, "quick", model) == DATA


async def test_a_fetch_from_slow_holders_gives_its_turn_to_others(sim, autojump_clock):
    holder, fetcher = await heavy_grid(sim, "a", "b")
    models = [
        await publish_heavy(sim, "a", {"w": content(5 * MIB, seed)}, called=f"m{seed}")
        for seed in range(LIMITS.fetches_max + 1)
    ]
    manifests = [await knows(fetcher, model) for model in models]
    honest = holder.weights.giving.serve

    async def serve(peer_id: str, message: Weights, send) -> None:
        async def drip(data: bytes) -> None:
            await trio.sleep(8 if message.model != models[-1] and message.part.count else 0)
            await send(data)

        await honest(peer_id, message, drip)

    vars(holder.weights.giving)["serve"] = serve
    async with trio.open_nursery() as nursery:
        for model, manifest in zip(models[:-1], manifests[:-1], strict=True):
            nursery.start_soon(fetcher.weights.fetch, model, manifest)
        await trio.sleep(1)
        with trio.fail_after(3 * LIMITS.fetch_turn_seconds):
            await fetcher.weights.fetch(models[-1], manifests[-1])
        assert fetcher.models.list().keys() == {models[-1]}
    assert fetcher.models.list().keys() == set(models), "the others come to their end, too"
    assert holder.weights.giving.given_bytes < 30 * MIB, "of what was here nothing is sent again"


async def test_who_is_refused_ends_nobodys_request(sim, autojump_clock):
    few = WeightsConfig(uploads=2, uploads_per_peer=2)
    holder, reader, stranger = await heavy_grid(sim, "holder", "reader", "stranger", weights=few)
    read_slowly(holder, {reader.identity.peer_id}, 5)
    model = await publish_heavy(sim, "holder", DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.weights.fetch, model, await knows(reader, model))
        await trio.sleep(10)
        before = list(holder.weights.giving._slots.uploads)
        assert len(before) == 2
        bare = encode(Weights(model, manifest_of(holder, model).content_id, PART, bytes(16), b""))
        for _ in range(3):
            with pytest.raises(RemoteError) as caught:
                await stranger.rpc.ask(holder.identity.peer_id, bare, silence_seconds=10)
            assert caught.value.code is Code.UNPRESENTED
        assert holder.weights.giving._slots.uploads == before
        nursery.cancel_scope.cancel()
