"""Tensors through another node, and the pool driven from outside: real nodes in virtual time."""

import struct
from pathlib import Path

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.gateway.call import TaskCall
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.policy.caller import LOOPBACK
from aigrid.node.policy.metering import Visit
from aigrid.node.repository_setup import PoolRepository, manifest_of
from aigrid.protocol.errors import Code, InvalidRequestError, UsageError
from aigrid.protocol.inference import ChatMessage, Finish, Tensor, TensorRequest, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import tensors_of
from aigrid.protocol.model import ModelDescription
from aigrid.protocol.tensors import TensorSpec

X = TensorSpec("x", "FP32", (-1, 2))
REQUEST = TensorRequest({"x": Tensor("float32", (1, 2), struct.pack("<2f", 1, 2))})


def states(repository: PoolRepository) -> dict[str, tuple[str, str]]:
    return {one.name: (one.state, one.reason) for one in repository.index()}


async def test_tensors_go_to_another_node_and_come_back_as_its_manifest_says(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        simulation = Simulation(1, tmp_path, nursery)
        asked = (await simulation.start("asked")).node
        holder = (await simulation.start("holder")).node
        await simulation.join("holder", "asked")
        description = ModelDescription("echo", "reinforcement-learning", ())
        published = await holder.hosting.add(
            description,
            {},
            name="org/echo:1",
            capabilities=("reinforcement-learning",),
            license_id="",
            tensors=((X,), ()),
        )
        await eventually(asked.router.models, seconds=60)
        told = manifest_of(asked, published.model)
        assert told is not None
        assert tensors_of(told) == ((X,), ())
        assert manifest_of(asked, "bafynone") is None
        core = GatewayCore(
            asked.router, status=dict, now_ms=simulation.now_ms, token=asked.new_request_id
        )
        call = TaskCall(("org/echo:1",), REQUEST)
        found = await core.run_task(call, request_id="request-1", visit=Visit(LOOPBACK))
        assert found.tensors == REQUEST.inputs
        assert found.answer.node == holder.identity.peer_id
        count = (LIMITS.tensor_max_bytes - 4096) // 8
        large = TensorRequest({"x": Tensor("float32", (count, 2), bytes(8 * count))})
        call = TaskCall(("org/echo:1",), large)
        found = await core.run_task(call, request_id="request-2", visit=Visit(LOOPBACK))
        assert found.tensors == large.inputs
        nursery.cancel_scope.cancel()


async def load_within(scope: trio.CancelScope, repository: PoolRepository, model: str) -> None:
    with scope:
        await repository.load(model)


async def test_a_model_is_loaded_until_it_is_unloaded_and_what_runs_is_finished(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        simulation = Simulation(2, tmp_path, nursery)
        node = (await simulation.start("alone")).node
        await simulation.publish_echo("alone", "slow", delay_ms=1)
        repository = PoolRepository(node)
        assert states(repository) == {"slow": ("UNAVAILABLE", "unloaded")}
        async with trio.open_nursery() as callers:
            leaving = trio.CancelScope()
            callers.start_soon(load_within, leaving, repository, "slow")
            callers.start_soon(repository.load, "slow")
            await trio.lowlevel.checkpoint()
            leaving.cancel()
        with trio.CancelScope() as gone:
            gone.cancel()
            await repository.load("slow")
        assert states(repository)["slow"][0] == "READY"
        await trio.sleep(10_000)
        assert states(repository)["slow"][0] == "READY"

        begun, go_on, finished = trio.Event(), trio.Event(), trio.Event()

        async def use() -> None:
            request = TextRequest(messages=(ChatMessage("user", "one two three"),))
            async with node.router.infer("slow", request, request_id="request-2") as answer:
                begun.set()
                await go_on.wait()
                async for batch in answer.chunks:
                    if isinstance(batch[-1], Finish):
                        break
            finished.set()

        unloaded = trio.Event()

        async def unload() -> None:
            await repository.unload("slow")
            unloaded.set()

        nursery.start_soon(use)
        await begun.wait()
        nursery.start_soon(unload)
        await trio.sleep(1)
        assert not unloaded.is_set()
        go_on.set()
        await unloaded.wait()
        await finished.wait()
        assert states(repository) == {"slow": ("UNAVAILABLE", "unloaded")}
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_loaded_or_unloaded_says_why(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        simulation = Simulation(3, tmp_path, nursery)
        node = (await simulation.start("alone")).node
        pinned = await simulation.publish_echo("alone", "pinned")
        repository = PoolRepository(node)
        for call in (repository.load, repository.unload):
            with pytest.raises(InvalidRequestError) as unknown:
                await call("nothing")
            assert unknown.value.code is Code.MODEL_NOT_FOUND
        node.pins.pin(pinned)
        with pytest.raises(UsageError, match="unpin"):
            await repository.unload("pinned")
        nursery.cancel_scope.cancel()
