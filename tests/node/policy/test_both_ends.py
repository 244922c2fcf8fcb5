"""A segment at both of its ends: what one signs, the other checks, and both keep."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.node.policy.receipt_world import (
    ASKER,
    GRANT,
    MANIFEST,
    MODEL,
    NOW,
    REQUEST,
    SALT,
    SERVER,
    Clock,
    receipt,
)

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.store import Store
from aigrid.node.mesh.routing.remote_answer import RemoteAnswer
from aigrid.node.mesh.routing.segment import AskedSegment
from aigrid.node.policy.admission import Admitted
from aigrid.node.policy.budgets import Charge
from aigrid.node.policy.presenting import Presented
from aigrid.node.policy.receipt_queries import Filters, newest
from aigrid.node.policy.receipt_rows import Row
from aigrid.node.policy.receipting import Segment
from aigrid.node.policy.receipts import Receipts
from aigrid.protocol import presentation
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.inference import Finish, TextChunk, TextRequest
from aigrid.protocol.messages import Chunks, Infer, Receipted, encode
from aigrid.protocol.policy import Decision
from aigrid.protocol.presentation import Binding
from aigrid.protocol.receipt import prefix_hash, request_hash

BATCHES: tuple[tuple[Any, ...], ...] = (
    (TextChunk("canary", (1,)),),
    (TextChunk(""),),  # a sign of life
    (TextChunk("-ans", (2, 3)), TextChunk("wer", (4,))),
    (Finish("stop", 7, 4),),
)
CANDIDATE = Candidate(
    model=MODEL,
    name="m",
    capabilities=("text-generation",),
    manifest=MANIFEST,
    record=MANIFEST,
    node=SERVER.peer_id,
    signer=SERVER.did,
    state="warm",
    slots=1,
    latency_ms=0,
    valid_until_ms=NOW + 1000,
    context_tokens=0,
)


class World:
    """A node that serves and one that asks, each with its own clock and its own receipts."""

    def __init__(self, request: TextRequest = REQUEST, keys: tuple[str, ...] = ()) -> None:
        self.asker_clock, self.server_clock = Clock(), Clock()
        self.server_clock.now_ms += 60_000
        self.asked = Receipts(Store().database, own_did=ASKER.did, now_ms=self.asker_clock)
        self.served = Receipts(Store().database, own_did=SERVER.did, now_ms=self.server_clock)
        self.bodies: list[bytes | Exception] = []
        binding = Binding(
            "invoke", MODEL, MANIFEST, request_hash(SALT, request), prefix_hash(SALT, request)
        )
        raw = presentation.present(
            ASKER, (), binding, audience=SERVER.did, nonce="n" * 22, now_ms=NOW
        )
        shown = presentation.verify(raw)
        self.presented = Presented(
            raw=raw,
            salt=SALT,
            audience=SERVER.did,
            binding=binding,
            digest=shown.digest,
            credentials=(GRANT,),
            issuers=frozenset(),
            made_ms=NOW,
        )
        database = self.served.database
        self.segment = Segment(
            SERVER,
            Infer("request-1", MODEL, MANIFEST, request, SALT, raw),
            Admitted(
                shown,
                Decision(None, (), relied_on=(GRANT,)),
                MANIFEST,
                self.server_clock(),
                Charge(database, keys, 0),
            ),
            peer=ASKER.did,
            keep=self._keep,
            now_ms=self.server_clock,
        )

    def _keep(self, record: Any, salt: bytes, peer: str) -> None:
        self.served.served(record, salt, peer=peer)

    def serve(self, *batches: tuple[Any, ...]) -> None:
        for batch in batches:
            self.server_clock.now_ms += 500
            self.asker_clock.now_ms += 500
            self.segment.add(batch)
            self.bodies.append(encode(Chunks(batch)))

    def send_receipt(self) -> None:
        assert self.segment.receipt is not None
        self.bodies.append(encode(Receipted(self.segment.receipt.raw)))

    async def _said(self) -> AsyncIterator[bytes]:
        for body in self.bodies:
            if isinstance(body, Exception):
                raise body
            yield body

    def answer(self) -> AskedSegment:
        remote = RemoteAnswer(self._said(), REQUEST, peer=SERVER.peer_id, failed=lambda **_: None)
        return AskedSegment(
            remote,
            CANDIDATE,
            self.presented,
            self.asked,
            request_id="request-1",
            actor="alice",
            now_ms=self.asker_clock,
        )

    async def take(self) -> AskedSegment:
        answer = self.answer()
        await answer.first()
        async for _ in answer:
            pass
        return answer


async def kept(receipts: Receipts) -> list[Row]:
    return (await newest(receipts.database, Filters(), limit=10))[0]


async def test_both_ends_keep_the_same_receipt_whatever_their_clocks_say() -> None:
    world = World()
    world.serve(*BATCHES)
    world.send_receipt()
    answer = await world.take()
    (asked,), (served,) = await kept(world.asked), await kept(world.served)
    assert (asked.state, asked.code, asked.because) == ("receipted", "", "")
    assert (asked.id, asked.raw) == (served.id, served.raw)
    assert (asked.actor, served.actor) == ("alice", ASKER.did)
    assert (asked.prompt_tokens, asked.completion_tokens) == (7, 4)
    (segment,) = answer.segments
    assert (segment.receipt, segment.receipted, segment.tokens) == (asked.id, True, 4)


@pytest.mark.parametrize(
    ("continued", "max_tokens", "charged"),
    [(0, 4, 7 + 4), (1000, 4, 1000 + 7 + 4), (1000, None, 1000 + 7 + 4), (1000, 0, 7 + 4)],
)
async def test_what_an_answer_goes_on_from_is_charged_like_a_prompt(
    continued: int, max_tokens: int | None, charged: int
) -> None:
    """Or a prompt that is sent as the beginning of an answer would cost nothing."""
    request = TextRequest(prompt="x", max_tokens=max_tokens, continued_ids=tuple(range(continued)))
    world = World(request, ("key",))
    database = world.served.database
    database.execute("INSERT INTO budgets VALUES ('key', 0, 1, 0)", ())
    world.serve(*BATCHES)
    assert database.row("SELECT tokens FROM budgets", ()) == (charged,)
    assert world.segment.receipt is not None
    assert b'"promptTokens":7' in world.segment.receipt.raw


async def test_a_segment_that_failed_is_receipted_as_that() -> None:
    world = World()
    world.serve(*BATCHES[:3])
    world.segment.end("failed")
    world.send_receipt()
    world.bodies.append(RemoteError("it failed", Code.ENGINE_FAILED))
    with pytest.raises(AigridError):
        await world.take()
    (asked,) = await kept(world.asked)
    assert (asked.state, asked.because, asked.completion_tokens) == ("receipted", "", 4)
    assert b'"reason":"failed"' in (asked.raw or b"")


def nothing(_world: World) -> None:
    pass


def lost(world: World) -> None:
    world.bodies[2:] = [RemoteError("it is gone", Code.CONNECTION_LOST)]


def garbage(world: World) -> None:
    world.bodies.append(encode(Receipted(b"{}")))


def another(world: World) -> None:
    world.bodies.append(encode(Receipted(receipt().raw)))


def more_chunks(world: World) -> None:
    world.bodies.append(encode(Chunks(BATCHES[0])))


def swapped(world: World) -> None:
    """The receipt is of what was computed, and something else was sent."""
    world.bodies[0] = encode(Chunks((TextChunk("another", (9,)),)))
    world.send_receipt()


@pytest.mark.parametrize(
    ("change", "state", "code"),
    [
        (nothing, "unreceipted", "unreceipted"),
        (lost, "unreceipted", "connection_lost"),
        (more_chunks, "unreceipted", "unreceipted"),
        (garbage, "disputed", "unsigned"),
        (another, "disputed", "receipt_mismatch"),
        (swapped, "disputed", "receipt_mismatch"),
    ],
)
async def test_a_segment_whose_receipt_is_not_good_is_kept_as_that(
    change: Callable[[World], None], state: str, code: str
) -> None:
    world = World()
    world.serve(*BATCHES)
    change(world)
    answer = world.answer()
    await answer.first()
    try:
        async for _ in answer:
            pass
    except AigridError:
        assert change is lost
    (asked,) = await kept(world.asked)
    assert (asked.state, asked.code) == (state, code)
    assert [(s.receipt, s.receipted) for s in answer.segments] in ([], [(asked.id, False)])


async def test_whoever_leaves_has_no_receipt_and_the_server_has_one() -> None:
    world = World()
    world.serve(*BATCHES[:2])
    answer = world.answer()
    await answer.first()
    await anext(answer)
    answer.left()
    answer.left()
    world.segment.end("cancelled")
    (asked,), (served,) = await kept(world.asked), await kept(world.served)
    assert (asked.state, asked.code, asked.completion_tokens) == ("unreceipted", "cancelled", 1)
    assert (served.state, served.completion_tokens) == ("receipted", 1)
