"""A member that offers models it does not have, against a real node that asks it for them."""

from collections.abc import Callable

import httpx
import pytest
import trio
from scripts.nodes import wait_for
from scripts.offers import offers_in
from tests.faults import attackers
from tests.faults.attackers import Attacker, publish
from tests.faults.conftest import MODEL, ProcessGrid
from tests.faults.test_hostile_member import manifest, member, now_ms, unharmed
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.muxer import Muxer
from aigrid.protocol.framing import FrameKind
from aigrid.protocol.framing import encode as frame
from aigrid.protocol.inference import Finish, InferChunk, Tensor, TensorChunk, TextChunk
from aigrid.protocol.kinds import AvailabilityBody, Kind, Offer
from aigrid.protocol.messages import Chunks, Infer, Pong, Records, encode
from aigrid.protocol.record import build

pytestmark = pytest.mark.process
END = frame(FrameKind.END)
HI, OVER = TextChunk("hi", (1,)), Finish("stop", 1, 1)


def data(*chunks: InferChunk) -> bytes:
    return frame(FrameKind.DATA, encode(Chunks(chunks)))


def saying(*parts: bytes) -> attackers.Evil:
    async def evil(stream: MuxedStream, _request: Infer) -> None:
        for part in parts:
            await stream.write(part)

    return evil


async def dying(stream: MuxedStream, _request: Infer) -> None:
    await stream.write(data(HI))
    stream.abandon()


async def endless(stream: MuxedStream, _request: Infer) -> None:
    while True:
        await stream.write(data(TextChunk("la " * 50, tuple(range(50)))))


async def endless_text(stream: MuxedStream, _request: Infer) -> None:
    while True:
        await stream.write(data(TextChunk("la " * 20_000)))


def told(code: str, message: bytes) -> bytes:
    body = b"\x82\xa4code" + attackers.msgpack_text(code) + b"\xa7message" + message
    return frame(FrameKind.ERROR, body)


BEFORE = {  # the answer began: nobody but this member could be asked
    "garbage": saying(b"\xff" * 100),
    "no message": saying(frame(FrameKind.DATA, b"\xc1")),
    "2 GiB": saying((1 << 31).to_bytes(4, "big") + b"\x03"),
    "a 2 GiB string": saying(frame(FrameKind.DATA, b"\x82\xa4type\xdb\x7f\xff\xff\xff")),
    "nothing in it": saying(data(), END),
    "another kind": saying(data(TensorChunk({"x": Tensor("float32", (1,), b"1234")})), END),
    "another message": saying(frame(FrameKind.DATA, encode(Pong(1))), END),
    "after the end": saying(data(OVER, HI), END),
    "a request": saying(frame(FrameKind.REQUEST, b"x")),
    "credit not owed": saying(frame(FrameKind.CREDIT, b"\xff\xff\xff\xff")),
    "an unknown code": saying(told("no_such_code", b"\xa5\x1b[2Jx")),
    "an error without text": saying(told("timeout", b"\xc0")),
    "only an end": saying(END),
}
TYPED = {"protocol_violation", "frame_too_large", "no_candidate", "internal"}
WITHIN = {
    "dies": (dying, "connection_lost"),
    "ends too early": (saying(data(HI), END), "connection_lost"),
    "turns to tensors": (saying(data(HI), data(TensorChunk({})), END), "protocol_violation"),
    "more tokens than asked for": (endless, "protocol_violation"),
    "text without tokens": (endless_text, "protocol_violation"),
}


async def claim(
    mallory: Attacker, muxer: Muxer, model: str, manifest_id: str, *more: bytes
) -> None:
    """Say that we have the model, warm and quick."""
    began = now_ms()
    offers = AvailabilityBody(mallory.identity.did, (Offer(model, manifest_id, "warm", 9, 1),))
    record = build(
        Kind.AVAILABILITY,
        offers,
        mallory.identity,
        valid_from_ms=began,
        valid_until_ms=began + 290_000,
    )
    await publish(mallory, muxer, encode(Records((*more, record.raw))))


async def baits(
    nursery: trio.Nursery, grid: ProcessGrid, evils: dict[str, attackers.Evil]
) -> list[tuple[str, Attacker]]:
    """One member for each, that offers a model which does not exist under the name of the evil."""
    made = []
    for name, evil in evils.items():
        mallory, muxer = await member(nursery, grid)
        mallory.evil = evil
        record, model = manifest(mallory.identity, name, now_ms())
        await claim(mallory, muxer, model, record.content_id, record.raw)
        made.append((name, mallory))

    def listed() -> bool:
        body = httpx.get(f"{grid.asker.gateway}/v1/models").json()
        return set(evils) <= {one["id"] for one in body["data"]}

    await eventually(listed)
    return made


async def eventually(probe: Callable[[], bool]) -> None:
    await trio.to_thread.run_sync(
        lambda: wait_for(probe, timeout_seconds=PATIENCE_SECONDS, what="the offers")
    )


async def ask(
    grid: ProcessGrid, model: str, *, stream: bool = False, patience: str = "0"
) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
        "stream": stream,
    }
    headers = {"x-aigrid-patience": patience}  # with "0" nobody else is sought
    async with httpx.AsyncClient(timeout=15, headers=headers) as client:
        return await client.post(f"{grid.asker.gateway}/v1/chat/completions", json=body)


async def test_an_answer_that_is_none_is_a_typed_error_at_once(grid, nursery):
    with unharmed(grid):
        for what, mallory in await baits(nursery, grid, BEFORE):
            answer = await ask(grid, what)
            assert mallory.infers, what
            assert answer.status_code >= 500, what
            assert answer.json()["error"]["code"] in TYPED, what
            assert "\x1b" not in answer.text


async def test_an_answer_that_goes_wrong_ends_in_a_typed_error(grid, nursery):
    with unharmed(grid):
        for what, _ in await baits(nursery, grid, {w: evil for w, (evil, _) in WITHIN.items()}):
            answer = await ask(grid, what)
            assert answer.status_code in {502, 503}, what
            assert answer.json()["error"]["code"] == WITHIN[what][1], what


async def test_a_stream_that_goes_wrong_ends_in_an_event_that_says_so(grid, nursery):
    """Other members: who has failed twice, also at going on, is left alone for a while."""
    evils = {f"streamed: {what}": evil for what, (evil, _) in WITHIN.items()}
    with unharmed(grid):
        for what, _ in await baits(nursery, grid, evils):
            streamed = await ask(grid, what, stream=True)
            assert WITHIN[what.removeprefix("streamed: ")][1] in streamed.text, what
            assert "[DONE]" not in streamed.text, what


async def test_the_next_candidate_answers_where_the_first_only_claims_to(grid, nursery):
    """Two liars say that they are warm; the honest holder has just been started."""
    await trio.to_thread.run_sync(grid.holder.restart)
    candidates = grid.holder.cli("find", "text-generation")["candidates"]
    (found,) = [c for c in candidates if c["node"] == grid.holder.peer_id]
    own = grid.holder.cli("record", "show", found["record"])["credentialSubject"]["offers"][0]
    liars = []
    for evil in (BEFORE["garbage"], BEFORE["another kind"]):
        mallory, muxer = await member(nursery, grid)
        mallory.evil = evil
        await claim(mallory, muxer, own["model"], own["manifest"])
        liars.append(mallory)

    def three() -> bool:
        models = httpx.get(f"{grid.asker.gateway}/aigrid/v1/status").json()["models"]
        return sum(one["model"] == own["model"] for one in offers_in(models)) == 3

    await eventually(three)
    answer = await ask(grid, MODEL, patience="10")  # for the honest one to load it
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-aigrid-node"] == grid.holder.peer_id
    assert [len(liar.infers) for liar in liars] == [1, 1]
