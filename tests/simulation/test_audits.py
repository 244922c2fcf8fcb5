"""One node in ten cheats: what audits make of it, over whole nodes in virtual time."""

import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.engines.base import CancelToken
from aigrid.engines.echo import EchoEngine, token_id
from aigrid.metagraph.selection import ANYTHING, STRATEGIES, Criteria, Filters
from aigrid.node.app import Node
from aigrid.node.auditing.sampling import is_known
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.settings.trust import TrustConfig
from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.inference import (
    ChatMessage,
    InferChunk,
    InferRequest,
    TextChunk,
    TextRequest,
    TokenLogprob,
)
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
TEXT = "text-generation"
WORDS = " ".join(f"word{n}" for n in range(40))
HOLDERS, REQUESTS, CLIENTS = 10, 500, 10
# A cheat, by the share of tokens that it says otherwise than the model: noise is
# `LIMITS.audit_token_noise`, and `scripts/bench/audit_tokens.py` measures what real ones do.
WEAKER = 0.65


def cheat_of(share: float) -> type[EchoEngine]:
    """An engine that says a share of its words otherwise, always the same ones."""

    class Cheat(EchoEngine):
        def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
            for chunk in super().answer(request, cancel):
                yield said(chunk) if isinstance(chunk, TextChunk) else chunk

    def other(word: str) -> str:
        changed = zlib.crc32(word.strip().encode()) % 100 < 100 * share
        return word.upper() if changed else word

    def said(chunk: TextChunk) -> TextChunk:
        if chunk.logprobs:
            checked = tuple(
                TokenLogprob(one.token_id, "", 0.0, ((token_id(other(text)), text, 0.0),))
                for one in chunk.logprobs
                for _, text, _ in one.top
            )
            return TextChunk("", (), checked)
        return TextChunk(other(chunk.text), (token_id(other(chunk.text)),))

    return Cheat


@pytest.fixture
async def sim(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        yield Simulation(23, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(sim: Simulation, share: float, audit: float) -> tuple[Node, list[str]]:
    """The node that asks, and the PeerIds of those that cheat: one in ten."""
    asker = (await sim.start("asker", trust=TrustConfig(audit=audit))).node
    cheats = []
    for number in range(HOLDERS):
        name = f"holder{number}"
        node = (await sim.start(name)).node
        if number % 10 == 0:
            spawner = node._world.spawner
            assert isinstance(spawner, InlineSpawner)
            spawner.engines = {"echo": cheat_of(share)}
            cheats.append(node.identity.peer_id)
        await sim.join(name, "asker")
        model = await sim.publish_echo(name, "parrot", delay_ms=10, slots=2)
        async with node.pool.lease(model):
            pass
    await eventually(
        lambda: [len(view.nodes) for view in asker.router.models()] == [HOLDERS], seconds=60
    )
    await trio.sleep(5)
    return asker, cheats


async def ask(node: Node, number: int) -> str:
    """The PeerId of who answered; by name and by capability in turn."""
    request = TextRequest(messages=(ChatMessage("user", f"{WORDS} {number}"),))
    by_name = number % 2 == 0
    criteria = Criteria(Filters(capability=TEXT), STRATEGIES["balanced"])
    async with node.audited.infer(
        "parrot" if by_name else "",
        request,
        request_id=node.new_request_id(),
        caller=OPERATOR,
        capability="" if by_name else TEXT,
        criteria=ANYTHING if by_name else criteria,
    ) as answer:
        async for _ in answer.chunks:
            pass
        return answer.node


async def served(node: Node) -> list[str]:
    """Who answered which request; as many at once as there are clients."""
    found: list[str] = []
    waiting = iter(range(REQUESTS))

    async def client() -> None:
        for number in waiting:
            peer = await ask(node, number)
            found.append(peer)

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(client)
    await trio.sleep(30)
    return found


async def test_who_cheats_is_soon_asked_no_more_and_nobody_else_is_blamed(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, cheats = await grid(sim, WEAKER, LIMITS.audit_share)
    found = await served(asker)
    late = sum(peer in cheats for peer in found[REQUESTS // 2 :]) / (REQUESTS / 2)
    assert sum(peer in cheats for peer in found) / REQUESTS < 0.05
    assert late < 0.01
    ledger, now_ms = asker.learning.ledger, asker.now_ms()
    blamed = {peer for peer in ledger.peers() if ledger.audits(peer, now_ms)[1]}
    assert blamed == set(cheats)
    assert not any(is_known(asker.learning.standing(cheat)) for cheat in cheats)
    assert asker.auditor.results["wrong"]


async def test_without_audits_they_answer_their_share(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, cheats = await grid(sim, WEAKER, 0.0)
    found = await served(asker)
    assert 0.05 < sum(peer in cheats for peer in found) / REQUESTS < 0.2
    assert not asker.auditor.results
