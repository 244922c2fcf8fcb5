"""Answers that break off are continued elsewhere, and the client does not see it: whole nodes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import trio
from tests.engines.speller import SpellingEngine, spell, text_of
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.metagraph.selection import Reason
from aigrid.node.app import Node
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.mesh.routing.candidates import Sought
from aigrid.node.mesh.routing.summoning import Place, Summon, Unmet, nobody_comes
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.receipt_proof import kept_hashes, proved
from aigrid.node.policy.receipt_queries import Filters, newest
from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.inference import Finish, InferChunk, TextChunk, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.policy import OperatorPolicy
from aigrid.protocol.receipt import seeded

PROMPT = "ab € ba€€ stays"
PLAIN = TextRequest(prompt=PROMPT, temperature=0.0)
STOPPED = TextRequest(prompt=PROMPT, temperature=0.0, stop=("€ stops", "ays"))


@dataclass
class World:
    """Node "asker", and nodes that hold "parrot", each on an engine of its own."""

    sim: Simulation
    asker: Node
    model: str
    engines: dict[str, SpellingEngine]  # by PeerId
    names: dict[str, str]

    def break_off(self, *breaks: int, code: Code = Code.ENGINE_CRASHED) -> None:
        """Whoever answers next breaks off after so many chunks, and so does who goes on."""
        queue = [(after, code) for after in breaks]
        for engine in self.engines.values():
            engine.breaks = queue


@asynccontextmanager
async def world(
    directory: Path, *holders: str, seconds_per_chunk: float = 0.05
) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        sim = Simulation(11, directory, nursery)
        made = World(sim, (await sim.start("asker")).node, "", {}, {})
        for name in holders:
            node = sim.nodes[name].node if name == "asker" else (await sim.start(name)).node
            if name != "asker":
                await sim.join(name, "asker")
            engine = SpellingEngine()
            spawner = spawner_of(node)
            spawner.engines, spawner.chunk_seconds = (
                {"echo": partial(_itself, engine)},
                seconds_per_chunk,
            )
            made.model = await sim.publish_echo(name, "parrot")
            made.engines[node.identity.peer_id] = engine
            made.names[node.identity.peer_id] = name
        await eventually(
            lambda: [len(v.nodes) for v in made.asker.router.models()] == [len(holders)], seconds=30
        )
        for name in holders:  # warm, each of them: a request would go to one that is
            async with sim.nodes[name].node.pool.lease(made.model):
                pass
        await trio.sleep(2)
        yield made
        nursery.cancel_scope.cancel()


def spawner_of(node: Node) -> InlineSpawner:
    spawner = node._world.spawner
    assert isinstance(spawner, InlineSpawner)
    return spawner


def _itself(engine: SpellingEngine) -> SpellingEngine:
    return engine


async def ask(
    asker: Node, request: TextRequest = PLAIN, ended: list[Segment] | None = None
) -> tuple[Answer, list[InferChunk]]:
    async with asker.router.infer(
        "parrot", request, request_id="request-1", caller=OPERATOR, ended=ended
    ) as answer:
        chunks = [chunk async for batch in answer.chunks for chunk in batch]
    return answer, chunks


def same(chunks: list[InferChunk], whole: list[InferChunk]) -> bool:
    """Whether the client got the same text, tokens and end."""

    def ids(of: list[InferChunk]) -> list[int]:
        return [token for chunk in of if isinstance(chunk, TextChunk) for token in chunk.token_ids]

    return (text_of(chunks), ids(chunks), chunks[-1]) == (text_of(whole), ids(whole), whole[-1])


@pytest.mark.parametrize("request_", [PLAIN, STOPPED])
async def test_every_cut_is_mended(
    tmp_path: Path, autojump_clock: MockClock, request_: TextRequest
) -> None:
    whole = list(spell(request_, PROMPT.encode()))
    tokens = sum(len(chunk.token_ids) for chunk in whole if isinstance(chunk, TextChunk))
    async with world(tmp_path, "a", "b") as made:
        for after in range(1, len(whole)):
            made.break_off(after)
            answer, chunks = await ask(made.asker, request_)
            assert same(chunks, whole), after
            first, second = answer.segments
            assert {first.node, second.node} == made.engines.keys()
            assert first.tokens + second.tokens == tokens
            assert first.receipted
            assert second.receipted
            assert answer.attempts == 2
            for peer in made.engines:  # or the nodes would be left alone for a while
                made.asker.peers.seen(peer).failures_in_row = 0


async def test_an_answer_that_breaks_off_again_and_again_is_mended_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    whole = list(spell(PLAIN, PROMPT.encode()))
    async with world(tmp_path, "a", "b", "c") as made:
        made.break_off(3, 4, 1, 5, code=Code.SHUTTING_DOWN)
        answer, chunks = await ask(made.asker)
        assert same(chunks, whole)
        assert [segment.tokens for segment in answer.segments] == [3, 4, 1, 5, len(whole) - 14]
        assert answer.attempts == 5


async def test_a_node_that_breaks_every_answer_off_is_left_alone_for_a_while(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It begins each at once, and so it looks quick."""
    async with world(tmp_path, "a", "b") as made:
        breaker = next(iter(made.engines))
        peer = made.asker.peers.seen(breaker)
        for _ in range(2):
            made.engines[breaker].breaks = [(1, Code.SHUTTING_DOWN)]
            peer.failed_seconds = -1e6  # or the other would be asked first
            for other in made.engines.keys() - {breaker}:
                made.asker.peers.seen(other).failed(trio.current_time())
            answer, _ = await ask(made.asker)
            assert answer.node == breaker
            assert len(answer.segments) == 2
        ranking = made.asker.router._candidates.ranked_here(Sought(("parrot",)))
        assert [(one.candidate.node, one.reason) for one in ranking.dropped] == [
            (breaker, Reason.COOLING)
        ]


async def test_a_node_that_dies_is_replaced_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a", "b") as made:
        whole = list(spell(PLAIN, PROMPT.encode()))
        chunks: list[InferChunk] = []
        async with made.asker.router.infer("parrot", PLAIN, request_id="request-1") as answer:
            async for batch in answer.chunks:
                chunks += batch
                if len(chunks) == 5:
                    made.sim.kill(made.names[answer.node])
                    broke_seconds = trio.current_time()
                if len(chunks) == 6:
                    assert trio.current_time() - broke_seconds < 1
        assert same(chunks, whole)
        first, second = answer.segments
        assert first.tokens + second.tokens == len(whole) - 1
        assert (first.receipted, second.receipted) == (False, True)
        rows = (await newest(made.asker.policy.receipts.database, Filters(), limit=2))[0]
        assert {row.state: row.code for row in rows} == {
            "unreceipted": "connection_lost",
            "receipted": "",
        }


async def test_a_node_that_freezes_in_the_middle_is_replaced_within_5_seconds(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a", "b") as made:
        chunks: list[InferChunk] = []
        longest = 0.0
        async with made.asker.router.infer("parrot", PLAIN, request_id="request-1") as answer:
            since = trio.current_time()
            async for batch in answer.chunks:
                longest = max(longest, trio.current_time() - since)
                since = trio.current_time()
                chunks += batch
                if len(chunks) == 5:
                    made.sim.network.freeze(answer.node)
        assert same(chunks, list(spell(PLAIN, PROMPT.encode())))
        assert longest < 5.5


async def test_draws_go_on_as_if_nothing_had_happened(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """No seed was given: the one that was chosen follows from the salt."""
    request = TextRequest(prompt=PROMPT, temperature=1.0, max_tokens=14)
    async with world(tmp_path, "a", "b") as made:
        made.break_off(7)
        _, chunks = await ask(made.asker, request)
        rows = (await newest(made.asker.policy.receipts.database, Filters(), limit=2))[0]
        (salt,) = {row.salt for row in rows}
        proofs = [proved(kept_hashes(row), salt, request) for row in rows]
        assert [proof["request"] for proof in proofs] == [True, True]
        assert sorted(proof["prefix"] for proof in proofs) == [False, True]  # one goes on
        sent = seeded(request, salt)
        assert isinstance(sent, TextRequest)
        assert sent.seed is not None
        assert same(chunks, list(spell(sent, PROMPT.encode())))


async def test_the_only_holder_goes_on_with_a_new_worker(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a") as made:
        made.break_off(4)
        answer, chunks = await ask(made.asker)
        assert same(chunks, list(spell(PLAIN, PROMPT.encode())))
        assert len(answer.segments) == 2


@pytest.mark.parametrize("own", [True, False])
async def test_this_node_goes_on_for_others_and_others_for_this_node(
    tmp_path: Path, autojump_clock: MockClock, *, own: bool
) -> None:
    async with world(tmp_path, "asker", "b") as made:
        made.break_off(4)
        asker = made.asker if own else made.sim.nodes["b"].node
        answer, chunks = await ask(asker)
        assert same(chunks, list(spell(PLAIN, PROMPT.encode())))
        assert answer.node == asker.identity.peer_id
        assert {segment.node for segment in answer.segments} == made.engines.keys()


async def test_without_a_second_holder_it_ends_in_an_error(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a") as made:
        made.asker.router._summon = nobody_comes  # or it would wait for somebody to load it
        async with made.asker.router.infer("parrot", PLAIN, request_id="request-1") as answer:
            await anext(answer.chunks)
            made.sim.kill("a")
            for _ in range(2):  # nothing comes after it
                began = trio.current_time()
                with pytest.raises(RemoteError) as caught:
                    async for _ in answer.chunks:
                        pass
                assert caught.value.code is Code.CONNECTION_LOST
                assert trio.current_time() - began <= LIMITS.continuation_return_seconds + 0.1
        (segment,) = answer.segments
        assert (segment.tokens, segment.receipted) == (1, False)


async def test_the_only_holder_goes_on_when_its_connection_broke(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a") as made:
        chunks: list[InferChunk] = []
        async with made.asker.router.infer("parrot", PLAIN, request_id="request-1") as answer:
            chunks += await anext(answer.chunks)
            await made.asker.transport.disconnect(answer.node)
            chunks += [chunk async for batch in answer.chunks for chunk in batch]
        assert same(chunks, list(spell(PLAIN, PROMPT.encode())))
        assert [segment.node for segment in answer.segments] == [answer.node] * 2


async def test_somebody_who_is_summoned_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path, "a") as made:
        asked: list[Unmet] = []

        class Summoned(Summon):
            async def __call__(self, unmet: Unmet, place: Place, *, deadline: float) -> bool:
                asked.append(unmet)
                assert deadline > trio.current_time()
                await made.sim.publish_echo("asker", "parrot")
                return True

        made.asker.router._summon = Summoned()
        spawner_of(made.asker).engines = {"echo": SpellingEngine}
        chunks: list[InferChunk] = []
        async with made.asker.router.infer("parrot", PLAIN, request_id="request-1") as answer:
            chunks += await anext(answer.chunks)
            made.sim.kill("a")
            chunks += [chunk async for batch in answer.chunks for chunk in batch]
        assert same(chunks, list(spell(PLAIN, PROMPT.encode())))
        assert asked == [Unmet(made.model, "", "parrot", "nobody offers")]


async def test_a_holder_that_may_not_serve_does_not_go_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a", "b") as made:
        made.break_off(4)
        async with made.asker.router.infer("parrot", PLAIN, request_id="request-1") as answer:
            await anext(answer.chunks)
            for name in {"a", "b"} - {made.names[answer.node]}:
                decider = made.sim.nodes[name].node.policy.decider
                decider.own = replace(decider.own, operator=OperatorPolicy(serves=frozenset()))
            async for _ in answer.chunks:  # so the one whose engine died does, anew
                pass
        assert {segment.node for segment in answer.segments} == {answer.node}


async def test_a_request_that_kills_engines_does_not_go_on_killing_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a", "b", "c", "d") as made:
        made.break_off(*[2] * 9)
        with pytest.raises(AigridError) as caught:
            await ask(made.asker)
        assert caught.value.code is Code.ENGINE_CRASHED
        killed = 9 - len(next(iter(made.engines.values())).breaks)
        assert killed == LIMITS.continued_crashes_max + 1


async def test_an_answer_that_a_node_gives_up_is_continued(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a", "b") as made:
        made.break_off(3, code=Code.CANCELLED)
        answer, chunks = await ask(made.asker)
        assert same(chunks, list(spell(PLAIN, PROMPT.encode())))
        assert answer.segments[0].tokens == 3


async def test_a_warm_node_that_does_not_go_on_is_given_up_soon(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It answers pings, so only its silence tells."""
    async with world(tmp_path, "a", "b", "c") as made:
        made.break_off(3)
        async with made.asker.router.infer("parrot", PLAIN, request_id="request-1") as answer:
            chunks = [*await anext(answer.chunks)]
            others = [n for p, n in made.names.items() if p != answer.node]
            silent = made.sim.nodes[others[0]].node
            for name in others:
                for worker in spawner_of(made.sim.nodes[name].node).spawned:
                    worker.chunk_seconds = 3600 if name == others[0] else 0.05
            # Whoever is drawn first: the silent one is, for it seems to be less busy.
            made.asker.peers.seen(made.sim.nodes[others[1]].node.identity.peer_id).heard(1)
            began = trio.current_time()
            chunks += [chunk async for batch in answer.chunks for chunk in batch]
        assert same(chunks, list(spell(PLAIN, PROMPT.encode())))
        assert LIMITS.continuation_silence_seconds < trio.current_time() - began < 10
        assert silent.identity.peer_id in [segment.node for segment in answer.segments]


@pytest.mark.parametrize("code", [Code.INVALID_REQUEST, Code.NOT_SERVED])
async def test_what_is_not_the_nodes_doing_ends_the_answer(
    tmp_path: Path, autojump_clock: MockClock, code: Code
) -> None:
    async with world(tmp_path, "a", "b") as made:
        made.break_off(3, code=code)
        with pytest.raises(AigridError) as caught:
            await ask(made.asker)
        assert caught.value.code is code


async def test_leaving_a_continued_answer_cancels_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a", "b") as made:
        made.break_off(3)
        async with made.asker.router.infer("parrot", PLAIN, request_id="request-1") as answer:
            got: list[InferChunk] = []
            while len(got) < 5:
                got += await anext(answer.chunks)
        assert [segment.tokens for segment in answer.segments] == [3, 2]
        holders = [made.sim.nodes[name].node for name in ("a", "b")]
        await eventually(lambda: not any(node.serving.running for node in holders), seconds=3)
        assert not isinstance(got[-1], Finish)
