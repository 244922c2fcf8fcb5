"""A member that was invited and turned hostile, against real nodes that serve other members."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.kad_dht.pb.kademlia_pb2 import Message as DhtMessage
from libp2p.pubsub.pb import rpc_pb2
from multiaddr import Multiaddr
from scripts.offers import offers
from tests.faults import attackers
from tests.faults.attackers import Attacker, dht, publish, varint
from tests.faults.conftest import ProcessGrid
from tests.faults.presenting import Said
from tests.faults.test_hostile_network import member_traffic
from tests.faults.test_hostile_stranger import refused, until
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.transport import RPC_PROTOCOL
from aigrid.protocol import messages
from aigrid.protocol.framing import FrameDecoder, FrameKind, decode_error, encode_credit
from aigrid.protocol.framing import encode as frame
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import (
    InferRequest,
    Tensor,
    TensorRequest,
    TextRequest,
)
from aigrid.protocol.kinds import (
    Kind,
    ModelBody,
    NodeBody,
    WithdrawnBody,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Fetch, Records, encode
from aigrid.protocol.model import MODEL_URN, ModelDescription, ModelFile, model_id
from aigrid.protocol.record import Record, build, verify_form_and_signature

pytestmark = pytest.mark.process
MIB = 1 << 20
GROWTH_MAX_BYTES = 60 * MIB
PAUSE_MAX_SECONDS = 2.5  # below `ping_timeout_seconds`: nobody may take the node for dead
RECORDS = messages.RECORDS_TOPIC


@contextmanager
def unharmed(grid: ProcessGrid, growth_max_bytes: int = GROWTH_MAX_BYTES) -> Iterator[None]:
    """Every node is the process it was, not much larger, and served members all the while."""
    with member_traffic(grid):
        pass  # the model is loaded before anything is measured
    pids = [node.pid for node in grid.nodes]
    sizes = [node.usage().rss_bytes for node in grid.nodes]
    with member_traffic(grid) as seconds:
        yield
    assert max(seconds) < PAUSE_MAX_SECONDS
    assert [node.pid for node in grid.nodes] == pids
    for node, size in zip(grid.nodes, sizes, strict=True):
        assert node.usage().rss_bytes - size < growth_max_bytes


async def member(nursery: trio.Nursery, grid: ProcessGrid) -> tuple[Attacker, Muxer]:
    """A hostile member, and its connection to the asker."""
    made = Attacker(nursery)
    await made.become_member(grid.authority)
    return made, await made.meet(grid.asker)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# --- Gossip


async def test_gossip_control_floods_cost_neither_time_nor_memory(grid, nursery):
    """Without the guard: 11 s of silence for the IHAVEs, 40 MB for each frame of PRUNEs."""
    mallory, muxer = await member(nursery, grid)
    before = refused(grid.asker)["network"]["gossip_refused"]
    stream = await mallory.open(muxer, compat.MESHSUB_PROTOCOL)
    with unharmed(grid):
        for kind in ("prune", "ihave", "graft"):
            rpc = rpc_pb2.RPC()
            for number in range(50_000):
                getattr(rpc.control, kind).add().topicID = f"{kind[0]}{number}"
            for entry in rpc.control.ihave:
                entry.messageIDs.append(b"ab")
            for _ in range(3):
                await stream.write(varint(rpc.SerializeToString()))
        rpc = rpc_pb2.RPC()
        for number in range(5000):
            rpc.subscriptions.add(subscribe=True, topicid=f"topic{number}")
        await stream.write(varint(rpc.SerializeToString()))
        await until(grid.asker, "network", "gossip_refused", above=before + 8)


async def test_one_message_is_not_asked_for_a_thousand_times(grid, nursery):
    mallory, muxer = await member(nursery, grid)
    stream = await mallory.open(muxer, compat.MESHSUB_PROTOCOL)
    large = mallory.message(b"z" * 65_000, seqno=5)
    rpc = rpc_pb2.RPC(publish=[large])
    rpc.subscriptions.add(subscribe=True, topicid=RECORDS)
    await stream.write(varint(rpc.SerializeToString()))
    received = 0

    async def count(inbound: Any) -> None:
        nonlocal received
        with suppress(Exception):
            while True:
                received += len(await inbound.read(MIB))

    mallory.table[compat.MESHSUB_PROTOCOL] = count
    with unharmed(grid):
        for _ in range(4):
            rpc = rpc_pb2.RPC()
            wanted = (large.from_id + large.seqno).hex().encode()
            rpc.control.iwant.add().messageIDs.extend([wanted] * 4900)
            await stream.write(varint(rpc.SerializeToString()))
        await publish(mallory, muxer, b"\xc1")  # behind them, and noticed
        await trio.to_thread.run_sync(grid.asker.cli, "status")
    assert received < 4 * MIB


async def test_messages_that_are_not_ones_own_or_not_signed_are_refused(grid, nursery):
    mallory, muxer = await member(nursery, grid)
    before = refused(grid.asker)["network"]["gossip_refused"]
    stream = await mallory.open(muxer, compat.MESHSUB_PROTOCOL)
    holder = grid.holder.peer_id
    empty = encode(Records(()))
    with unharmed(grid):
        for number in range(400):  # more than `gossip_provocations_max` end the connection
            forged = mallory.message(empty, seqno=number, publisher=holder, signed=False)
            forged.signature = b"s" * 64
            if not number % 100:
                rpc = rpc_pb2.RPC()
            rpc.publish.append(forged)
            if number % 100 == 99:
                await stream.write(varint(rpc.SerializeToString()))
        rpc = rpc_pb2.RPC()
        rpc.publish.append(
            mallory.message(empty, seqno=1, publisher=attackers.new_identity().peer_id)
        )
        rpc.publish.append(mallory.message(b"x" * 70_000, seqno=2))
        rpc.publish.append(mallory.message(empty, seqno=3, signed=False))
        await stream.write(varint(rpc.SerializeToString()))
        await until(grid.asker, "network", "gossip_refused", above=before + 400)
        for junk in attackers.GARBAGE:
            with suppress(Exception):
                other = await mallory.open(muxer, compat.MESHSUB_PROTOCOL)
                await other.write(junk)
                await other.write(varint(junk))
                other.end()


# --- Records


def node_record(who: Identity, began_ms: int, *, subject: str = "", software: str = "x") -> Record:
    body = NodeBody(subject or who.did, 1, software, ("/ip4/127.0.0.1/tcp/9",), (), ())
    return build(Kind.NODE, body, who, valid_from_ms=began_ms, valid_until_ms=began_ms + 600_000)


async def test_records_that_do_not_hold_are_refused_and_counted(grid, nursery):
    mallory, muxer = await member(nursery, grid)
    own, began = mallory.identity, now_ms()
    good = node_record(own, began).raw
    newer = node_record(own, began + 5, software="newer").raw
    gone = build(
        Kind.NODE,
        WithdrawnBody(own.did, withdrawn=True),
        own,
        valid_from_ms=began + 9,
        valid_until_ms=began + 700_000,
    ).raw
    victim = grid.holder.ready["did"]
    bad = {
        "bad_signature": good.replace(b'"software":"x"', b'"software":"y"'),
        "expired": node_record(own, began - 800_000).raw,
        "from_future": node_record(own, began + 200_000).raw,
        "duplicate_key": good.replace(b'{"@context"', b'{"issuer":"x","@context"', 1),
        "unsigned": good[: good.index(b'"proof"')] + good[good.index(b'"type":["Veri') :],
        "unknown_field": good.replace(b'"region":""', b'"region":"","root":1'),
        "issuer_not_key": good.replace(own.did.encode(), victim.encode()),
        "not_member": node_record(attackers.new_identity(), began).raw,
        "malformed": b"\xff\x00 no json",
        "not_canonical": good.replace(b'"issuer":', b'"issuer": '),
    }
    before = refused(grid.asker)["records"]
    with unharmed(grid):
        await publish(mallory, muxer, *(encode(Records((raw,))) for raw in bad.values()))
        await publish(mallory, muxer, b"\x82\xa4type\xa7records\xa7records\x91\xc6\xff\xff\xff\xff")
        for code in bad:
            await until(grid.asker, "records", code, above=before.get(code, 0))
    for raw in (newer, good, gone, newer, good):  # nothing old comes back
        await publish(mallory, muxer, encode(Records((raw,))))
    await until(grid.asker, "records", "superseded", above=before.get("superseded", 0) + 2)
    shown = grid.asker.cli("peers")["peers"]
    assert any(peer["peer_id"] == grid.holder.peer_id and peer["alive"] for peer in shown)


async def test_a_flood_of_signed_records_is_cut_to_its_issuers_share(grid, nursery):
    mallory, muxer = await member(nursery, grid)
    own, began = mallory.identity, now_ms()
    held = grid.asker.cli("status")["records"]
    raws = [manifest(own, f"spam{number}", began)[0].raw for number in range(900)]
    with unharmed(grid):
        for start in range(0, len(raws), 40):
            await publish(mallory, muxer, encode(Records(tuple(raws[start : start + 40]))))
        await until(grid.asker, "records", "over_quota", above=0)
    assert grid.asker.cli("status")["records"] - held <= 512 + 10


def manifest(who: Identity, name: str, began_ms: int) -> tuple[Record, str]:
    """Of a model that does not exist; its id."""
    file = ModelFile("m.gguf", hashlib.sha256(name.encode()).hexdigest(), 1)
    described = ModelDescription("gguf", "text-generation", (file,))
    model = model_id(described)
    body = ModelBody(MODEL_URN + model, name, ("text-generation",), described)
    until_ms = began_ms + 600_000
    record = build(Kind.MODEL, body, who, valid_from_ms=began_ms, valid_until_ms=until_ms)
    return record, model


# --- Requests


async def say(mallory: Attacker, muxer: Muxer, *frames: bytes) -> str:
    """Frames on a fresh RPC stream; the code of the error that answers, "" for another end."""
    with trio.fail_after(PATIENCE_SECONDS):
        stream = await mallory.open(muxer, RPC_PROTOCOL)
        decoder = FrameDecoder()
        try:
            for one in frames:
                await stream.write(one)
            while True:
                for kind, body in decoder.feed(await stream.read(65536)):
                    if kind is FrameKind.ERROR:
                        stream.end()
                        return decode_error(body).code.value
                    if kind in {FrameKind.END, FrameKind.CANCEL}:
                        stream.end()
                        return kind.name
        except Exception as error:  # noqa: BLE001 - however it is cut off
            stream.abandon()
            return type(error).__name__


async def test_what_breaks_the_rules_of_an_exchange_ends_its_stream_alone(grid, nursery):
    mallory, muxer = await member(nursery, grid)
    request, part = FrameKind.REQUEST, FrameKind.REQUEST_PART
    ping = frame(request, encode(messages.Ping()))
    steady = await mallory.open(muxer, RPC_PROTOCOL)
    cuts = [
        *((junk,) for junk in attackers.GARBAGE if junk != bytes(range(200))),  # half a frame
        ((1 << 31).to_bytes(4, "big") + b"\x01",),
        (frame(FrameKind.DATA, b"x"),),
        (frame(FrameKind.END),),
        (frame(FrameKind.CANCEL),),
        (frame(FrameKind.CREDIT, encode_credit(1 << 31)),),
        (frame(FrameKind.CREDIT, b""),),
        (frame(part, b"a"), frame(FrameKind.CREDIT, b"\xff\xff\xff\xff")),
        (frame(FrameKind.CANCEL, b"with a body"),),
    ]
    with unharmed(grid):
        for frames in cuts:
            assert await say(mallory, muxer, *frames) not in {"END", "TimeoutError"}
        for body in (
            b"",
            b"\xc1",
            b"\x81\xa4type\xa4root",
            b"\x81\xa4type\xa5infer",
            b"\x93" * 999,
        ):
            assert await say(mallory, muxer, frame(request, body)) == "protocol_violation"
        codes = {
            await say(mallory, muxer, frame(request, encode(Fetch(()))))
            for _ in range(2 * LIMITS.syncs_burst)
        }
        assert "rate_limited" in codes
        await steady.write(ping)  # a stream beside all that
        with trio.fail_after(PATIENCE_SECONDS):
            assert await steady.read(100)


async def test_requests_never_finished_hold_no_more_than_a_peers_share(grid, nursery):
    mallory, muxer = await member(nursery, grid)
    part = frame(FrameKind.REQUEST_PART, b"p" * (MIB - 64))
    # what a peer may hold: 64 MiB of requests, and one frame that is being put together
    with unharmed(grid, growth_max_bytes=64 * MIB + GROWTH_MAX_BYTES):

        async def never_finish() -> None:
            with suppress(Exception), trio.move_on_after(4):
                stream = await mallory.open(muxer, RPC_PROTOCOL)
                mallory.nursery.start_soon(attackers.drain, stream)
                for _ in range(31):
                    await stream.write(part)

        async with trio.open_nursery() as attack:
            for _ in range(6):
                attack.start_soon(never_finish)
        before = refused(grid.asker)["network"]["streams_refused"]
        opened = []
        for _ in range(250):
            with suppress(Exception):
                opened.append(await muxer.open_stream())
        await until(grid.asker, "network", "streams_refused", above=before)
        for stream in opened:
            stream.abandon()


ABSURD: list[tuple[InferRequest, str]] = [
    (TextRequest(), "invalid_request"),
    (TextRequest(prompt="x", temperature=float("nan")), ""),
    (TextRequest(prompt="x", temperature=-1), "protocol_violation"),
    (TextRequest(prompt="x", max_tokens=1 << 40), "protocol_violation"),
    (TextRequest(prompt="x", top_logprobs=10**9), "protocol_violation"),
    (TextRequest(prompt="x", max_tokens=1, seed=-(1 << 63)), ""),
    (TextRequest(prompt="x", max_tokens=1, seed=(1 << 64) - 1), ""),
    (TextRequest(token_ids=(2**31 - 1,) * 50), ""),
    (TextRequest(prompt="x" * 900_000), ""),
    (TextRequest(prompt="\x00\ud7ff\U0010ffff", max_tokens=1), ""),
    (TextRequest(prompt="x", stop=("",)), "protocol_violation"),
    (TensorRequest({"x": Tensor("float32", (1 << 40, 1 << 40), b"")}), ""),
    (TensorRequest({"x": Tensor("object", (1,), b"12345678")}), ""),
    (TensorRequest({"x": Tensor("float32", (0, 1 << 62), b"")}), ""),
    (TensorRequest({}), ""),
]


async def test_absurd_requests_get_a_typed_error(grid, nursery):
    """An empty code: any but `internal`, or an answer."""
    mallory = Attacker(nursery)
    await mallory.become_member(grid.authority)
    muxer = await mallory.meet(grid.holder)
    (offer,) = [m for m in offers(grid.asker) if m["node"] == grid.holder.peer_id]
    honest = Said(
        holder=mallory.identity,
        credentials=(verify_form_and_signature(mallory.membership),),
        audience=grid.holder.ready["did"],
        model=offer["model"],
        manifest="",
    )
    with unharmed(grid, growth_max_bytes=3 * GROWTH_MAX_BYTES):
        for request, code in ABSURD:
            message = encode(replace(honest, request=request, presented_for=request).message())
            answer = await say(mallory, muxer, frame(FrameKind.REQUEST, message))
            assert answer == code if code else answer not in {"internal", "TooSlowError"}, request
        other = encode(replace(honest, model="b" + "c" * 58).message())
        assert await say(mallory, muxer, frame(FrameKind.REQUEST, other)) == "no_candidate"


# --- DHT and identify


async def test_the_dht_is_neither_held_nor_filled_by_one_member(grid, nursery):
    mallory, muxer = await member(nursery, grid)
    alice, hers = await member(nursery, grid)
    before = refused(grid.asker)["network"]["streams_refused"]
    addresses = [
        Multiaddr(f"/ip4/10.0.{n >> 8}.{n & 255}/tcp/{p}").to_bytes()
        for n in range(1000)
        for p in range(1, 6)
    ]
    own = compat.ID.from_base58(mallory.peer_id).to_bytes()
    peers = [DhtMessage.Peer(id=own, addrs=addresses)]
    with unharmed(grid, growth_max_bytes=30 * MIB):
        for number in range(125):  # without the guard: half a MB for each of these
            stream = await mallory.open(muxer, compat.KAD_PROTOCOL)
            with suppress(Exception):
                key = number.to_bytes(32, "big")
                await stream.write(dht(DhtMessage.ADD_PROVIDER, key, providerPeers=peers))
                await stream.read(100)
            stream.abandon()
        for junk in attackers.GARBAGE:
            stream = await mallory.open(muxer, compat.KAD_PROTOCOL)
            with suppress(Exception), trio.move_on_after(1):
                await stream.write(junk)
                await stream.read(100)
            stream.abandon()
        for _ in range(20):
            await mallory.open(muxer, compat.KAD_PROTOCOL)
        await until(grid.asker, "network", "streams_refused", above=before)
        stream = await alice.open(hers, compat.KAD_PROTOCOL)
        await stream.write(dht(DhtMessage.PING, b""))
        with trio.fail_after(PATIENCE_SECONDS):
            assert await stream.read(100)


async def test_lies_about_addresses_cut_nobody_off(grid, nursery):
    mallory, muxer = await member(nursery, grid)
    lie = Identify(
        agent_version="x" * 100_000,
        public_key=b"\x08\x01\x12\x20" + os.urandom(32),
        listen_addrs=[Multiaddr(a).to_bytes() for a in grid.holder.ready["listen"]] * 5000,
        protocols=[f"/p/{n}" for n in range(20_000)],
        signedPeerRecord=os.urandom(5000),
    ).SerializeToString()
    with unharmed(grid):
        for body in (varint(lie), lie, *attackers.GARBAGE):
            stream = await mallory.open(muxer, attackers.PUSH)
            with suppress(Exception):
                await stream.write(body)
            stream.end()
    peers = {p["peer_id"]: p["alive"] for p in grid.asker.cli("peers")["peers"]}
    assert peers[grid.holder.peer_id]
