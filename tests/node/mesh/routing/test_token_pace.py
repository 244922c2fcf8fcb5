"""How quick an answer's tokens came: measured only where they were seen to come."""

from collections.abc import AsyncIterator

import pytest
import trio
from tests.metagraph.world import candidate
from trio.testing import MockClock

from aigrid.node.mesh.routing.remote_answer import RemoteAnswer
from aigrid.node.mesh.routing.segment import AskedSegment
from aigrid.node.policy.presenting import Presented
from aigrid.node.policy.receipt_checks import Expected
from aigrid.protocol.errors import Code
from aigrid.protocol.inference import Finish, InferChunk, TextChunk, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Chunks, encode
from aigrid.protocol.presentation import Binding
from aigrid.protocol.record import Record

pytestmark = pytest.mark.trio
ASKED = TextRequest(prompt="x", max_tokens=LIMITS.max_tokens_max)
TEN = TextChunk("x" * 10, tuple(range(10)))
NAMELESS = TextChunk("x" * 10)
Batch = tuple[InferChunk, ...]


class NoBook:
    """Keeps nothing."""

    def received(self, sent: bytes | Record, expected: Expected) -> str:
        return ""

    def unreceipted(self, expected: Expected, reason: Code = Code.UNRECEIPTED) -> str:
        return ""


async def paced(*batches: Batch, seconds: float = 1.0) -> float | None:
    """The pace of an answer of these batches, so many seconds apart."""

    async def bodies() -> AsyncIterator[bytes]:
        for batch in batches:
            await trio.sleep(seconds)
            yield encode(Chunks(batch))

    binding = Binding("invoke", "m", "r", "0" * 64, "")
    segment = AskedSegment(
        RemoteAnswer(bodies(), ASKED, peer="b", failed=lambda **_: None),
        candidate("b"),
        Presented(b"", b"0" * 16, "did:b", binding, "", (), frozenset(), 0),
        NoBook(),
        request_id="request-1",
        actor="did:a",
        now_ms=lambda: 0,
    )
    await segment.first()
    async for _ in segment:
        pass
    assert segment.finished
    return segment.token_ms


async def test_tokens_after_the_first_batch_are_timed(autojump_clock: MockClock) -> None:
    assert await paced((TEN,), (TEN,), (TEN, Finish("stop", 1, 30))) == pytest.approx(100.0)


@pytest.mark.parametrize(
    "batches",
    [
        ((NAMELESS, Finish("stop", 1, 9)),),
        ((TEN, Finish("stop", 1, 10)),),
        ((NAMELESS,), (Finish("stop", 1, LIMITS.max_tokens_max),)),
        ((NAMELESS,), (NAMELESS, Finish("stop", 1, LIMITS.max_tokens_max))),
        ((TEN,), (Finish("stop", 1, LIMITS.max_tokens_max),)),
    ],
)
async def test_what_was_not_seen_to_come_has_no_pace(
    autojump_clock: MockClock, batches: tuple[Batch, ...]
) -> None:
    await trio.sleep(1000)
    assert await paced(*batches) is None


async def test_what_comes_at_one_moment_has_no_pace(autojump_clock: MockClock) -> None:
    assert await paced((TEN,), (TEN, Finish("stop", 1, 20)), seconds=0.0) is None
