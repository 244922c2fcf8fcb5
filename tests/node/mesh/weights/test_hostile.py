"""Holders and fetchers that are members and do not keep to anything, on whole nodes."""

import hashlib
from contextlib import suppress

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import content, files_of, heavy_grid, knows, publish_heavy

from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.chunks import Part
from aigrid.protocol.errors import AigridError, Code, LocalError, RemoteError
from aigrid.protocol.limits import LIMITS, MIB
from aigrid.protocol.messages import Piece, Pong, Weights, decode_rpc_answer, encode

DATA = {"weights.bin": content(5 * MIB + 17)}
PIECE = LIMITS.weights_piece_bytes


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(22, tmp_path, nursery)
        nursery.cancel_scope.cancel()


# --- holders


def chunks_of(message):
    raw = DATA["weights.bin"]
    start = message.part.first * MIB
    return raw[start : start + message.part.count * MIB]


async def send_all(send, data):
    for at in range(0, len(data), PIECE):
        await send(encode(Piece(data[at : at + PIECE])))


async def flips_a_bit(message, send):
    data = bytearray(chunks_of(message))
    data[len(data) // 2] ^= 1
    await send_all(send, bytes(data))


async def sends_too_much(message, send):
    await send_all(send, chunks_of(message) + b"x")


async def sends_too_little(message, send):
    await send_all(send, chunks_of(message)[:-1])


async def never_ends(message, send):
    while True:
        await send(encode(Piece(bytes(PIECE))))


async def sends_crumbs(message, send):
    for byte in chunks_of(message):
        await send(encode(Piece(bytes([byte]))))


async def sends_nothing_for_ever(message, send):
    while True:
        await send(encode(Piece(b"")))


async def drips(message, send):
    for at in range(0, len(chunks_of(message)), 4096):
        await send(encode(Piece(chunks_of(message)[at : at + 4096])))
        await trio.sleep(LIMITS.fetch_silence_seconds / 2)


async def falls_silent(message, send):
    await send(encode(Piece(b"x")))
    await trio.sleep_forever()


async def says_something_else(message, send):
    await send(encode(Pong(1)))


async def says_no_message(message, send):
    await send(b"\xff\xff")


async def fails(message, send):
    raise ValueError("a bug of theirs")


FAULTY = [
    flips_a_bit,
    sends_too_much,
    sends_too_little,
    never_ends,
    sends_crumbs,
    sends_nothing_for_ever,
    says_something_else,
    says_no_message,
    fails,
]


def turn_evil(node, behaviour, *, lists=False):
    honest = node.weights.giving.serve

    async def serve(peer_id, message, send):
        if message.part.count or lists:
            await behaviour(message, send)
        else:
            await honest(peer_id, message, send)

    node.weights.giving.serve = serve


async def two_holders(sim):
    """`evil` and `good` hold the model; `b` wants it."""
    evil, good, b = await heavy_grid(sim, "evil", "good", "b")
    model = await publish_heavy(sim, "evil", DATA)
    await good.weights.fetch(model, await knows(good, model))
    manifest = await knows(b, model, holders=2)
    return evil, good, b, model, manifest


@pytest.mark.parametrize("behaviour", FAULTY)
async def test_a_faulty_holder_is_dropped_and_counted_and_nothing_of_it_is_kept(
    sim, autojump_clock, behaviour
):
    evil, good, b, model, manifest = await two_holders(sim)
    turn_evil(evil, behaviour)
    good.weights.giving._config = WeightsConfig(upload_bytes_per_second=MIB)
    await b.weights.fetch(model, manifest)
    assert files_of(sim, "b", model) == DATA
    assert b.peers.observation(evil.identity.peer_id).failures_in_row > 0
    assert b.peers.observation(good.identity.peer_id).failures_in_row == 0


@pytest.mark.parametrize("behaviour", [drips, falls_silent])
async def test_a_slow_holder_holds_nothing_up(sim, autojump_clock, behaviour):
    evil, _, b, model, manifest = await two_holders(sim)
    turn_evil(evil, behaviour)
    began = trio.current_time()
    await b.weights.fetch(model, manifest)
    assert files_of(sim, "b", model) == DATA
    assert trio.current_time() - began < LIMITS.fetch_silence_seconds


async def wrong_list(message, send):
    await send_all(send, hashlib.sha256(b"wrong").digest() * 6)


@pytest.mark.parametrize("behaviour", [wrong_list, never_ends, falls_silent, sends_too_little])
async def test_a_wrong_chunk_list_is_refused(sim, autojump_clock, behaviour):
    evil, _, b, model, manifest = await two_holders(sim)
    turn_evil(evil, behaviour, lists=True)
    await b.weights.fetch(model, manifest)
    assert files_of(sim, "b", model) == DATA


async def test_a_holder_without_a_free_slot_is_asked_again_for_a_chunk_list(sim, autojump_clock):
    holder, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", DATA)
    honest = holder.weights.giving.serve
    refused: list[Weights] = []

    async def serve(peer_id, message, send):
        if len(refused) < 3:
            refused.append(message)
            raise LocalError("no slot", Code.BUSY, retry_after_seconds=60)
        await honest(peer_id, message, send)

    vars(holder.weights.giving)["serve"] = serve
    await b.weights.fetch(model, await knows(b, model))
    assert files_of(sim, "b", model) == DATA
    assert [message.part.count for message in refused] == [0, 0, 0]


@pytest.mark.parametrize("code", [Code.BUSY, Code.SHUTTING_DOWN, Code.TIMEOUT])
async def test_a_holder_that_always_puts_off_is_given_up(sim, autojump_clock, code):
    holder, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", DATA)
    asked = 0

    async def serve(peer_id, message, send):
        nonlocal asked
        asked += 1
        if asked > 100:  # it would go on like that for ever
            await trio.sleep_forever()
        raise LocalError("not now", code, retry_after_seconds=60)

    vars(holder.weights.giving)["serve"] = serve
    manifest = await knows(b, model)
    with pytest.raises(AigridError) as caught, trio.fail_after(3600):
        await b.weights.fetch(model, manifest)
    assert caught.value.code is Code.NO_CANDIDATE
    assert asked <= 2 * LIMITS.fetch_busy_max


async def test_where_all_holders_are_faulty_the_reason_is_told(sim, autojump_clock):
    evil, good, b, model, manifest = await two_holders(sim)
    for node in (evil, good):
        turn_evil(node, flips_a_bit)
    with pytest.raises(AigridError) as caught:
        await b.weights.fetch(model, manifest)
    assert caught.value.code is Code.NO_CANDIDATE
    assert "a wrong chunk" in caught.value.message
    assert b.models.list() == {}


async def test_a_holder_that_dies_is_left_and_another_that_comes_later_is_used(sim, autojump_clock):
    slow = WeightsConfig(upload_bytes_per_second=MIB)
    _, c, b = await heavy_grid(sim, "a", "c", "b", weights=slow)
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    await c.weights.fetch(model, await knows(c, model))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.weights.fetch, model, manifest)
        await trio.sleep(2)
        sim.kill("a")
    assert files_of(sim, "b", model) == DATA


# --- fetchers


async def asked(node, holder, message):
    """What a holder answers, in bytes; raises what it says."""
    got = 0
    async with node.rpc.call(
        holder.identity.peer_id, encode(message), silence_seconds=60
    ) as bodies:
        async for body in bodies:
            answer = decode_rpc_answer(body)
            assert isinstance(answer, Piece)
            got += len(answer.data)
    return got


@pytest.fixture
async def pair(sim, autojump_clock):
    """A holder, somebody who asks it, and what to ask."""
    holder, asker = await heavy_grid(sim, "holder", "asker")
    model = await publish_heavy(sim, "holder", DATA)
    return holder, asker, await knows(asker, model)


def message_for(asker, holder, by, part, *, presented=None, **more):
    shown = asker.policy.presenter.present_fetch(by, presented or part, holder.identity.did)
    said = {
        "model": by.subject.rpartition(":")[2],
        "manifest": by.content_id,
        "part": part,
        "salt": shown.salt,
        "presentation": shown.raw,
        **more,
    }
    return Weights(**said)


PART = Part("weights.bin", 0, 1)


async def code_of(awaitable):
    with pytest.raises(RemoteError) as caught:
        await awaitable
    return caught.value.code


async def test_what_is_asked_honestly_is_answered_exactly(pair, autojump_clock):
    holder, asker, manifest = pair
    parts = {PART: MIB, Part("weights.bin", 5, 1): 17, Part("weights.bin"): 6 * 32}
    for part, size in parts.items():
        assert await asked(asker, holder, message_for(asker, holder, manifest, part)) == size


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"presentation": b""}, Code.UNPRESENTED),
        ({"presentation": b"{}"}, Code.PRESENTATION_INVALID),
        ({"presented": Part("weights.bin", 1, 1)}, Code.BODY_MISMATCH),
        ({"presented": Part("weights.bin")}, Code.BODY_MISMATCH),
        ({"salt": bytes(16)}, Code.BODY_MISMATCH),
        (
            {"manifest": "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"},
            Code.WRONG_MANIFEST,
        ),
        (
            {"model": "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"},
            Code.NO_CANDIDATE,
        ),
    ],
)
async def test_what_is_not_presented_for_exactly_this_is_refused(
    pair, autojump_clock, change, code
):
    holder, asker, manifest = pair
    message = message_for(asker, holder, manifest, PART, **change)
    assert await code_of(asked(asker, holder, message)) is code
    assert holder.weights.giving.given_bytes == 0


@pytest.mark.parametrize(
    "part",
    [
        Part("weights.bin", 6, 1),
        Part("weights.bin", 5, 64),
        Part("other.bin", 0, 1),
        Part("passwd"),
    ],
)
async def test_what_there_is_none_of_is_refused(pair, autojump_clock, part):
    holder, asker, manifest = pair
    message = message_for(asker, holder, manifest, part)
    assert await code_of(asked(asker, holder, message)) is Code.INVALID_REQUEST


@pytest.mark.parametrize("part", [Part("../key", 0, 1), Part("weights.bin", 0, 65), Part("", 0, 1)])
async def test_what_nobody_may_ask_for_is_no_message(pair, autojump_clock, part):
    holder, asker, manifest = pair
    message = message_for(asker, holder, manifest, part, presented=PART)
    assert await code_of(asked(asker, holder, message)) is Code.PROTOCOL_VIOLATION


async def test_a_presentation_serves_once(pair, autojump_clock):
    holder, asker, manifest = pair
    message = message_for(asker, holder, manifest, PART)
    assert await asked(asker, holder, message) == MIB
    assert await code_of(asked(asker, holder, message)) is Code.REPLAYED


async def test_who_never_reads_is_left_and_holds_no_slot(pair, autojump_clock):
    holder, asker, manifest = pair
    giving = holder.weights.giving
    part = Part("weights.bin", 0, 5)
    async with trio.open_nursery() as nursery:

        async def ask_and_wait():
            message = encode(message_for(asker, holder, manifest, part))
            call = asker.rpc.call(holder.identity.peer_id, message, silence_seconds=60)
            async with call as bodies:
                await anext(bodies)
                await trio.sleep_forever()

        for _ in range(LIMITS.uploads_per_peer_max):
            nursery.start_soon(ask_and_wait)
        await trio.sleep(5)
        assert giving.giving.total() == LIMITS.uploads_per_peer_max
        message = message_for(asker, holder, manifest, PART)
        assert await code_of(asked(asker, holder, message)) is Code.BUSY
        await eventually(lambda: not giving.giving, seconds=2 * LIMITS.upload_piece_seconds)
        assert await asked(asker, holder, message_for(asker, holder, manifest, PART)) == MIB
        nursery.cancel_scope.cancel()


async def test_who_hangs_up_frees_the_slot(pair, autojump_clock):
    holder, asker, manifest = pair
    for _ in range(20):
        message = encode(message_for(asker, holder, manifest, Part("weights.bin", 0, 5)))
        call = asker.rpc.call(holder.identity.peer_id, message, silence_seconds=60)
        with suppress(RemoteError):
            async with call as bodies:
                await anext(bodies)
        await trio.sleep(0.2)
    assert holder.weights.giving.giving.total() <= 1
