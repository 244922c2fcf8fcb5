"""A hostile member at both ends of a typed query, against real nodes that serve other members."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import trio
from tests.faults.attackers import Attacker
from tests.faults.conftest import ProcessGrid
from tests.faults.test_hostile_member import now_ms, say, unharmed

from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.protocol.framing import Frame, FrameKind
from aigrid.protocol.framing import encode as frame
from aigrid.protocol.kinds import Kind, ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Find, Pushed, Records, decode_rpc_request, encode
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import build

pytestmark = pytest.mark.process
WANTED = "nobody-has-this"
Lie = Callable[["Liar"], AsyncIterator[bytes]]


class Liar(Attacker):
    """Answers `Find` with what `lie` yields."""

    lie: Lie
    asked = 0

    async def _answer(self, stream: MuxedStream, one: Frame) -> None:
        if one.kind is FrameKind.REQUEST and isinstance(decode_rpc_request(one.body), Find):
            self.asked += 1
            async for body in self.lie(self):
                await stream.write(frame(FrameKind.DATA, body))
            await stream.write(frame(FrameKind.END))
            return
        await super()._answer(stream, one)

    def manifest(self, n: int) -> bytes:
        """Signed by a member, under the name that is wanted, and with no offer behind it."""
        about = ModelDescription(format="echo", task="t", files=(), options={"n": n})
        body = ModelBody(
            id=MODEL_URN + model_id(about), name=WANTED, capabilities=("text",), model=about
        )
        at_ms = now_ms()
        return build(
            Kind.MODEL, body, self.identity, valid_from_ms=at_ms, valid_until_ms=at_ms + 60_000
        ).raw


async def dripping(liar: Liar) -> AsyncIterator[bytes]:
    for n in range(1000):
        yield encode(Records((liar.manifest(n),)))
        await trio.sleep(0.5)


async def flooding(liar: Liar) -> AsyncIterator[bytes]:
    body = encode(Records((bytes(LIMITS.record_max_bytes),) * 8))
    for _ in range(1000):
        yield body


async def tampered(liar: Liar) -> AsyncIterator[bytes]:
    yield encode(Records((liar.manifest(0).replace(WANTED.encode(), WANTED.upper().encode()),)))


async def off_topic(_liar: Liar) -> AsyncIterator[bytes]:
    yield encode(Pushed(3))


@pytest.mark.parametrize("lie", [dripping, flooding, tampered, off_topic])
async def test_what_a_liar_answers_leads_nowhere_and_harms_nobody(
    grid: ProcessGrid, nursery: trio.Nursery, lie: Lie
) -> None:
    liar = Liar(nursery)
    liar.lie = lie
    await liar.become_member(grid.authority)
    await liar.meet(grid.asker)
    body = {"model": WANTED, "messages": [{"role": "user", "content": "hello"}]}
    with unharmed(grid):
        async with httpx.AsyncClient(timeout=30) as client:
            with trio.fail_after(60):
                while not liar.asked:  # what nobody offered is not asked for again at once
                    answer = await client.post(
                        f"{grid.asker.gateway}/v1/chat/completions", json=body
                    )
                    assert (answer.status_code, answer.json()["error"]["code"]) == (
                        404,
                        "model_not_found",
                    )
    assert WANTED not in str(grid.asker.cli("models"))


async def test_a_flood_of_queries_is_answered_within_its_rate(
    grid: ProcessGrid, nursery: trio.Nursery
) -> None:
    mallory = Attacker(nursery)
    await mallory.become_member(grid.authority)
    muxer = await mallory.meet(grid.asker)
    query = frame(FrameKind.REQUEST, encode(Find("capability", "text", LIMITS.find_records_max)))
    with unharmed(grid):
        codes = [await say(mallory, muxer, query) for _ in range(3 * LIMITS.finds_burst)]
        too_much = b"\x84\xa4type\xa4find\xa2by\xa5model\xa4name\xa1x\xa5limit\xcd\xff\xff"
        assert await say(mallory, muxer, frame(FrameKind.REQUEST, too_much)) == "protocol_violation"
    assert "rate_limited" in codes
