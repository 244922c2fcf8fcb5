"""Outcomes over real nodes in virtual time: each mode, with candidates that are dead or slow."""

import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.test_liars import spawner_of
from trio.testing import MockClock

from aigrid.engines.base import CancelToken, Probe
from aigrid.engines.echo import EchoEngine
from aigrid.engines.text_generate import TAKES
from aigrid.node.commands.outcomes import Run, run
from aigrid.node.gateway.capabilities.grid import Known
from aigrid.node.gateway.capabilities.outcomes import Outcomes
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.told import OutcomeError
from aigrid.node.outcome.request import decode
from aigrid.node.outcome_setup import contracts_of
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import AigridError, Code, UsageError
from aigrid.protocol.inference import (
    InferChunk,
    InferRequest,
    TextChunk,
    TokenLogprob,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import Served

pytestmark = pytest.mark.trio
SLOW_MS = 5000.0
HOLDERS = ("first", "second", "third")


class Asker:
    """A node's outcomes, asked as the gateway asks."""

    def __init__(self, sim: Simulation, name: str) -> None:
        node = sim.nodes[name].node
        self._core = GatewayCore(
            node.router, status=dict, now_ms=node.now_ms, token=node.new_request_id
        )
        contracts = contracts_of(node)
        self.known = Known(node.router)
        self._outcomes = Outcomes(self._core, contracts, self.known)

    async def ask(self, text: str = "one two", **body: Any) -> dict[str, Any]:
        whole = {"input": {"messages": [{"role": "user", "content": text}]}, **body}
        with self._core.request(None) as request_id:
            self._core.course(request_id).begin()
            found = await self._outcomes.ask(
                "text-generation",
                decode(msgspec.json.encode(whole)),
                request_id=request_id,
                visit=Visit(OPERATOR),
            )
        return dict(json.loads(msgspec.json.encode(found)))


class Doubtful(EchoEngine):
    """Says of each word that it is likely, and no more than that."""

    def probe(self) -> Probe:
        return replace(super().probe(), takes=TAKES)

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        for chunk in super().answer(request, cancel):
            if isinstance(chunk, TextChunk):
                logprobs = tuple(TokenLogprob(n, "", math.log(0.6)) for n in chunk.token_ids)
                yield TextChunk(chunk.text, chunk.token_ids, logprobs)
            else:
                yield chunk


class Wrong(Doubtful):
    """Says something else."""

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        for chunk in super().answer(request, cancel):
            if isinstance(chunk, TextChunk):
                yield TextChunk(chunk.text.upper(), chunk.token_ids, chunk.logprobs)
            else:
                yield chunk


class Backwards(Doubtful):
    """Says what nobody else says."""

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        for chunk in super().answer(request, cancel):
            if isinstance(chunk, TextChunk):
                yield TextChunk(chunk.text[::-1], chunk.token_ids, chunk.logprobs)
            else:
                yield chunk


@asynccontextmanager
async def grid(
    directory: Path, *, engines: Mapping[str, Any] | None = None, **delays_ms: float
) -> AsyncIterator[tuple[Simulation, Asker]]:
    """`asker` holds nothing; each of the others its own model, as slow as is said."""
    async with trio.open_nursery() as nursery:
        sim = Simulation(8, directory, nursery)
        for name in ("asker", *HOLDERS):
            await sim.start(name, engines=engines)
        for name in HOLDERS:
            await sim.join(name, "asker")
            await sim.publish_echo(name, f"of-{name}", delay_ms=delays_ms.get(name, 10.0))
        node = sim.nodes["asker"].node
        await eventually(lambda: len(node.router.models()) == len(HOLDERS), seconds=60)
        yield sim, Asker(sim, "asker")
        nursery.cancel_scope.cancel()


async def test_any_candidate_answers_and_all_are_explained(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path) as (sim, asker):
        found = await asker.ask(explain=True, seed=3)
        again = await asker.ask(explain=True, seed=3)
        peers = {sim.nodes[name].node.identity.peer_id for name in HOLDERS}
    assert found["output"] == {"text": "one two"}
    told = found["aigrid"]
    assert told["mode"] == "fallback"
    assert len(told["receipts"]) == len(told["segments"]) == 1
    explained = told["explain"]
    assert sorted(one["node"] for one in explained) == sorted(peers)
    assert all(one["record"] and one["why"] for one in explained)
    first = min(explained, key=lambda one: one["place"])
    assert first["node"] == told["node"]
    assert set(first["parts"]) == {
        *("quality", "success", "speed", "warmth", "load", "locality"),
    }
    assert {one["node"] for one in again["aigrid"]["explain"]} == {one["node"] for one in explained}


async def test_a_dead_candidate_costs_nothing_in_any_mode(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    modes: tuple[Any, ...] = ("fallback", "race", {"name": "vote", "of": 2})
    for mode in modes:
        directory = tmp_path / str(hash(str(mode)))
        directory.mkdir()
        async with grid(directory) as (sim, asker):
            await asker.ask()
            sim.kill("second")
            found = await asker.ask(mode=mode)
            assert found["output"] == {"text": "one two"}


async def test_a_race_does_not_wait_for_a_slow_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, first=SLOW_MS, second=SLOW_MS) as (_, asker):
        start = trio.current_time()
        found = await asker.ask(mode={"name": "race", "after_ms": 100, "of": 3})
        assert trio.current_time() - start < SLOW_MS / 1000
    assert found["output"] == {"text": "one two"}
    assert 1 <= found["aigrid"]["asked"] <= len(HOLDERS)


async def test_a_race_learns_when_an_answer_is_late(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Of a node that was always quick, a slow answer is not waited for a whole second."""
    async with grid(tmp_path) as (sim, asker):
        mode = {"name": "race", "of": 3}
        asked = []
        for _ in range(2 * LIMITS.pace_answers_min):
            quick = await asker.ask(mode=mode, seed=3)
            asked.append(quick["aigrid"]["asked"])
        assert asked[: LIMITS.pace_answers_min] == [1] * LIMITS.pace_answers_min
        assert sum(count > 1 for count in asked) <= LIMITS.pace_answers_min / 5
        first = next(
            sim_node.node
            for sim_node in sim.nodes.values()
            if sim_node.node.identity.peer_id == quick["aigrid"]["node"]
        )
        for worker in spawner_of(first).spawned:
            worker.chunk_seconds = SLOW_MS / 1000
        start = trio.current_time()
        found = await asker.ask(mode=mode, seed=3)
        assert trio.current_time() - start < 1
    assert found["aigrid"]["asked"] > 1
    assert found["aigrid"]["node"] != quick["aigrid"]["node"]


async def test_how_long_another_hung_before_it_is_not_put_down_to_who_answered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path) as (sim, asker):
        await asker.ask(mode={"name": "vote", "of": 3, "agree": 3})  # so that all are loaded
        first = (await asker.ask(seed=3))["aigrid"]["node"]
        paces = asker.known.paces
        sim.network.freeze(first)
        before = {key: list(window) for key, window in paces._windows.items()}
        start = trio.current_time()
        told = (await asker.ask(seed=3))["aigrid"]
        took_seconds = trio.current_time() - start
    assert told["node"] != first
    noted = [
        seconds
        for key, window in paces._windows.items()
        for seconds in list(window)[len(before.get(key, [])) :]
    ]
    assert noted
    assert max(noted) < 0.5 < took_seconds
    assert len(told["segments"]) == 1


async def test_a_text_that_is_sure_enough_ends_a_cascade_and_another_does_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, engines={"echo": Doubtful}) as (_, asker):
        sure = await asker.ask(mode={"name": "cascade", "confidence": 0.5})
        unsure = await asker.ask(mode={"name": "cascade", "confidence": 0.9})
    assert [one["confidence"] for one in sure["aigrid"]["steps"]] == pytest.approx([0.6])
    assert [one["confidence"] for one in unsure["aigrid"]["steps"]] == pytest.approx([0.6] * 3)


async def test_a_vote_says_who_agreed_and_pays_each(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path) as (_, asker):
        found = await asker.ask(mode={"name": "vote", "of": 3, "agree": 3})
    told = found["aigrid"]
    assert (told["agreed"], told["needed"], told["dissenting"]) == (3, 3, [])
    assert len(told["receipts"]) == 3
    assert len({one["node"] for one in told["segments"]}) == 3


async def test_those_who_voted_in_vain_are_paid_and_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, engines={"echo": Doubtful}) as (sim, asker):
        await asker.ask(mode={"name": "vote", "of": 3, "agree": 3})  # so that all are loaded
        for worker in spawner_of(sim.nodes["second"].node).spawned:
            worker._loaded.__class__ = Backwards
        with pytest.raises(OutcomeError) as refused:
            await asker.ask(mode={"name": "vote", "of": 3, "agree": 3})
    assert refused.value.code is Code.NO_AGREEMENT
    assert len({one.node for one in refused.value.segments}) == 3
    assert all(one.receipted for one in refused.value.segments)


async def test_no_cascade_where_nobody_says_how_sure_it_is(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path) as (_, asker):
        with pytest.raises(AigridError) as refused:
            await asker.ask(mode="cascade")
    assert refused.value.code is Code.UNSUPPORTED_PARAMETER


async def test_a_pipeline_feeds_one_answer_into_the_next_question(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    said = {"$from": "first", "path": "/text"}
    then = {
        "name": "then",
        "capability": "text-generation",
        "input": {"messages": [{"role": "user", "content": said}]},
        "mode": "race",
    }
    async with grid(tmp_path) as (_, asker):
        found = await asker.ask("three four", mode={"name": "pipeline", "steps": [then]})
        nowhere = {**then, "capability": "fill-mask", "input": said}
        with pytest.raises(AigridError) as refused:
            await asker.ask(mode={"name": "pipeline", "steps": [nowhere]})
    assert found["output"] == {"text": "three four"}
    assert list(found["aigrid"]["steps"]) == ["first", "then"]
    assert len(found["aigrid"]["receipts"]) == 2
    assert "'then'" in refused.value.message


async def _silent(_: object) -> None:
    """Nothing is told meanwhile."""


async def test_what_engines_take_one_after_the_other_is_no_overhead(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    said = {"$from": "first", "path": "/text"}
    then: dict[str, Any] = {"name": "then", "capability": "text-generation"}
    then["input"] = {"messages": [{"role": "user", "content": said}]}
    async with grid(tmp_path, first=2000.0, second=2000.0, third=2000.0) as (sim, asker):
        start = trio.current_time()
        both = await asker.ask(mode={"name": "pipeline", "steps": [then]})
        assert trio.current_time() - start > 8
        asked = Run("text-generation", text="one two")
        run_here = await run(sim.nodes["asker"].node, asked, _silent)
    for found, attempts in ((both, 2), (run_here, 1)):
        assert found["aigrid"]["attempts"] == attempts
        assert found["aigrid"]["overhead_ms"] < 500


async def test_where_nobody_fits_a_vote_says_what_would(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path) as (_, asker):
        with pytest.raises(AigridError) as refused:
            await asker.ask(mode="vote", constraints={"region": "mars"})
    assert refused.value.code is Code.NO_CANDIDATE
    assert "mars" in refused.value.message


MODES: dict[str, Any] = {
    "fallback": "fallback",
    "race": {"name": "race", "after_ms": 100, "of": 3},
    "vote": {"name": "vote", "of": 3, "agree": 2},
    "cascade": {"name": "cascade", "confidence": 0.5},
    "pipeline": {
        "name": "pipeline",
        "steps": [
            {
                "name": "then",
                "capability": "text-generation",
                "input": {
                    "messages": [{"role": "user", "content": {"$from": "first", "path": "/text"}}]
                },
            }
        ],
    },
}


async def test_a_step_is_named_once_in_what_is_wrong_with_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    then = {"name": "then", "capability": "text-generation"}
    then["input"] = {"$from": "first", "path": "/nowhere"}  # type: ignore[assignment]
    async with grid(tmp_path) as (_, asker):
        with pytest.raises(AigridError) as refused:
            await asker.ask(mode={"name": "pipeline", "steps": [then]})
    assert refused.value.message.count("Step 'then'") == 1


async def test_a_later_step_that_cannot_work_is_an_error_of_whoever_runs_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    then = {"name": "then", "capability": "text-classification", "parameters": {"top_k": 10**21}}
    mode = json.dumps({"name": "pipeline", "steps": [then]})
    async with grid(tmp_path) as (sim, _):
        asked = Run("text-generation", text="hi", mode=mode)
        with pytest.raises(UsageError, match="Step 'then': 'top_k' must fit into 64 bits"):
            await run(sim.nodes["asker"].node, asked, _silent)


@pytest.mark.parametrize("fault", ["dead", "slow", "wrong"])
@pytest.mark.parametrize("mode", MODES)
async def test_no_mode_fails_for_one_that_does(
    tmp_path: Path, autojump_clock: MockClock, mode: str, fault: str
) -> None:
    delays_ms = {"second": SLOW_MS} if fault == "slow" else {}
    async with grid(tmp_path, engines={"echo": Doubtful}, **delays_ms) as (sim, asker):
        await asker.ask(mode=MODES["vote"])  # so that all of them are loaded
        bad = sim.nodes["second"].node
        if fault == "dead":
            sim.kill("second")
        elif fault == "wrong":
            for worker in spawner_of(bad).spawned:
                worker._loaded.__class__ = Wrong
        start = trio.current_time()
        found = await asker.ask(mode=MODES[mode])
        took_seconds = trio.current_time() - start
    right = found["output"] == {"text": "one two"}
    assert right or (fault == "wrong" and mode != "vote")  # the others ask nobody else about it
    assert found["aigrid"]["receipts"]
    if mode in {"race", "vote"}:
        assert took_seconds < SLOW_MS / 1000
    if mode == "vote" and fault == "wrong":
        dissenting = found["aigrid"]["dissenting"]
        assert [one["node"] for one in dissenting] in ([], [bad.identity.peer_id])


async def test_constraints_that_nobody_meets_are_named(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path) as (_, asker):
        with pytest.raises(AigridError) as refused:
            await asker.ask(constraints={"license": "MIT"})
    assert refused.value.code is Code.NO_CANDIDATE
    assert "ask for license Apache-2.0" in refused.value.message


async def test_a_parameter_that_a_manifest_states_chooses_and_is_not_sent(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    plain = (Served("text-generation", {"style": ("plain",), "max_tokens": ("9",)}),)
    async with grid(tmp_path) as (sim, asker):
        with pytest.raises(AigridError) as refused:
            await asker.ask(parameters={"style": "plain"})
        assert refused.value.code is Code.UNSUPPORTED_PARAMETER
        model = await sim.publish_echo("second", "stated", serves=plain)
        router = sim.nodes["asker"].node.router
        await eventually(lambda: len(router.models()) == len(HOLDERS) + 1, seconds=60)
        chosen = await asker.ask(parameters={"style": "plain"}, explain=True)
        with pytest.raises(AigridError) as nobody:
            await asker.ask(parameters={"style": "ornate"})
        # What engines know is nobody's to take away.
        sent = await asker.ask("one two three", parameters={"max_tokens": 2})
    assert chosen["aigrid"]["model"] == model
    assert nobody.value.code is Code.NO_CANDIDATE
    assert sent["output"] == {"text": "one two"}
