"""Answers that begin with signs of life, over whole nodes in virtual time."""

from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.engines.base import CancelToken
from aigrid.engines.echo import EchoEngine
from aigrid.node.policy.caller import OPERATOR, Caller
from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.errors import AigridError, Code, EngineError, InvalidRequestError
from aigrid.protocol.inference import (
    InferChunk,
    InferRequest,
    TaskRequest,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import ModelDescription
from aigrid.protocol.tensors import TensorSpec

SIGN = TextChunk("")


class Late(EchoEngine):
    """Computes for three chunks before it says something."""

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        yield from (SIGN, SIGN, SIGN)
        yield from super().infer(request, cancel)


class Failing(EchoEngine):
    """Shows that it is at work, and fails."""

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        yield SIGN
        raise EngineError("something is wrong", Code.ENGINE_FAILED)


class Endless(EchoEngine):
    """Is at work for ever."""

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        while True:
            yield SIGN


@asynccontextmanager
async def grid(directory: Path, *engines: Callable[[], EchoEngine], seed: int = 1):
    """Node "asker", and one node for each engine that offers "parrot" on it."""
    async with trio.open_nursery() as nursery:
        sim = Simulation(seed, directory, nursery)
        asker = (await sim.start("asker")).node
        for number, engine in enumerate(engines):
            name = f"holder{number}"
            spawner = (await sim.start(name)).node._world.spawner
            assert isinstance(spawner, InlineSpawner)
            spawner.engines, spawner.chunk_seconds = {"echo": engine}, 5.0
            await sim.join(name, "asker")
            model = await sim.publish_echo(name, "parrot")
        await eventually(
            lambda: [len(view.nodes) for view in asker.router.models()] == [len(engines)],
            seconds=30,
        )
        yield asker, model
        nursery.cancel_scope.cancel()


async def test_signs_of_life_are_not_the_beginning_and_are_not_passed_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, Late) as (asker, model):
        request = TextRequest(prompt="hello there")
        async with asker.router.infer(
            model, request, request_id="request-1", caller=OPERATOR
        ) as answer:
            batches = [batch async for batch in answer.chunks]
        chunks = [chunk for batch in batches for chunk in batch if isinstance(chunk, TextChunk)]
        assert "".join(chunk.text for chunk in chunks).strip() == "hello there"
        assert SIGN not in chunks
        first_ms = asker.peers.observation(answer.node).ttft_ms
        assert first_ms is not None
        assert first_ms >= 20_000


async def test_who_fails_after_a_sign_of_life_is_replaced(
    tmp_path_factory: pytest.TempPathFactory, autojump_clock: MockClock
) -> None:
    attempts = []
    for seed in range(12):
        directory = tmp_path_factory.mktemp(f"grid{seed}")
        async with grid(directory, Failing, EchoEngine, seed=seed) as (asker, model):
            request = TextRequest(prompt="hello there")
            async with asker.router.infer(
                model, request, request_id="request-1", caller=OPERATOR
            ) as answer:
                assert [batch async for batch in answer.chunks]
            attempts.append(answer.attempts)
        if 2 in attempts:
            break
    assert 2 in attempts


async def test_signs_of_life_alone_are_a_timeout(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with grid(tmp_path, Endless) as (asker, model):
        began = trio.current_time()
        with pytest.raises(AigridError):
            async with asker.router.infer(
                model, TextRequest(prompt="hello"), request_id="request-1", caller=OPERATOR
            ):
                raise AssertionError
        waited = trio.current_time() - began
        assert LIMITS.answer_silence_seconds <= waited < LIMITS.answer_silence_seconds + 30


async def test_where_nobody_serves_a_model_the_error_says_why_this_node_does_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(2, tmp_path, nursery)
        alone = (await sim.start("alone")).node
        model = await sim.publish_echo("alone", "parrot")
        alone.hosting.watch.problem = lambda _: "its server is down"  # type: ignore[method-assign, assignment]
        alone.announcer.announce()
        request = TextRequest(prompt="hello there")
        with pytest.raises(AigridError, match="this node: its server is down") as caught:
            async with alone.router.infer(
                model, request, request_id="request-1", patience_seconds=1
            ):
                pass
        assert caught.value.code is Code.NO_CANDIDATE
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("patience_seconds", [0.0, -61.0])
async def test_who_has_no_patience_left_hears_why_nobody_answers(
    tmp_path: Path, autojump_clock: MockClock, patience_seconds: float
) -> None:
    async with grid(tmp_path, Failing) as (asker, model):
        request = TextRequest(prompt="hello there")
        with pytest.raises(AigridError):
            async with asker.router.infer(
                model, request, request_id="request-1", patience_seconds=patience_seconds
            ):
                raise AssertionError


async def test_a_crash_is_put_down_to_the_caller_whose_request_it_was(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(1, tmp_path, nursery)
        node = (await sim.start("asker")).node
        await sim.publish_echo("asker", "own parrot")
        lease, said = node.pool.lease, []

        def noted(model: str, **more: Any) -> Any:
            said.append((more["asker"], more["bounded"]))
            return lease(model, **more)

        monkeypatch.setattr(node.pool, "lease", noted)
        request = TextRequest(prompt="hello")
        for caller in (OPERATOR, Caller("alice", "key")):
            async with node.router.infer(
                "own parrot", request, request_id=node.new_request_id(), caller=caller
            ) as answer:
                assert [batch async for batch in answer.chunks]
        assert said == [("", False), ("key alice", True)]
        nursery.cancel_scope.cancel()


async def test_a_model_of_another_kind_is_refused_before_anybody_loads_it(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(1, tmp_path, nursery)
        node = (await sim.start("alone")).node
        await sim.publish_echo("alone", "seer", capability="image-classification")
        await sim.publish_echo("alone", "poet", capability="text")  # it may write, too
        await sim.publish_echo("alone", "parrot")
        said = []
        lease = node.pool.lease

        def noted(model: str, **more: Any) -> Any:
            said.append(model)
            return lease(model, **more)

        monkeypatch.setattr(node.pool, "lease", noted)
        text = TextRequest(prompt="hello")
        await node.hosting.add(
            ModelDescription("echo", "text-generation", (), options={"tag": "tensors"}),
            {},
            name="sums",
            capabilities=("text-generation",),
            license_id="MIT",
            tensors=((TensorSpec("x", "FP32", (2,)),), ()),
        )
        for model, asked, does, path in (
            ("seer", text, "image-classification", "/aigrid/v1/tasks/image-classification"),
            ("parrot", TaskRequest("feature-extraction", b'["a"]'), "text-generation", "/v1/chat"),
            ("sums", text, "text-generation", "/v2/models"),
        ):
            with pytest.raises(InvalidRequestError, match=f"does {does}.* at {path}") as caught:
                async with node.router.infer(model, asked, request_id=node.new_request_id()):
                    pass
            assert (caught.value.code, caught.value.param) == (Code.INVALID_REQUEST, "model")
        assert not said
        for models in (("poet",), ("seer", "parrot")):
            async with node.router.infer(
                models[0], text, request_id=node.new_request_id(), fallbacks=models[1:]
            ) as answer:
                assert [batch async for batch in answer.chunks]
            assert answer.name == models[-1]
        nursery.cancel_scope.cancel()
