"""The document that the gateway serves: true of its routes, and of what it answers."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from scripts.fuzz_gateway import fuzz
from tests.node.gateway.double import (
    NAME,
    NOW_MS,
    ScriptedMesh,
    authenticator,
    outcomes_over,
    tokens,
)
from tests.node.gateway.open_inference.test_endpoints import Shelf
from tests.node.gateway.test_sparql import Asked

from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.gateway import Gateway
from aigrid.node.gateway.openai.answers import error_body
from aigrid.node.gateway.openapi import OPERATIONS, document
from aigrid.node.mesh.routing.answer import Answer
from aigrid.protocol.inference import Finish, InferRequest, TaskChunk, TaskRequest

EXAMPLES = 12


class Mesh(ScriptedMesh):
    """Answers tasks with vectors, one for each text."""

    def infer(
        self, model: str, request: InferRequest, **more: Any
    ) -> AbstractAsyncContextManager[Answer]:
        if isinstance(request, TaskRequest):
            given = msgspec.json.decode(request.input)
            count = len(given) if isinstance(given, list) else 1
            script = (TaskChunk(msgspec.json.encode([[0.5]] * count)), Finish("stop", 1, 0))
            return ScriptedMesh((script,)).infer(model, request, **more)
        return super().infer(model, request, **more)


@asynccontextmanager
async def everything() -> AsyncIterator[Gateway]:
    """A gateway with all its routes."""
    mesh = Mesh()
    core = GatewayCore(mesh, status=mesh.status, now_ms=lambda: NOW_MS, token=tokens())
    served = Gateway(
        core,
        "127.0.0.1",
        0,
        auth=authenticator(),
        queries=Asked(),
        repository=Shelf(),
        outcomes=outcomes_over(core, mesh),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(served.run)
        yield served
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_every_route_is_documented_and_nothing_else() -> None:
    async with everything() as served:
        documented = {(one.method, one.path) for one in OPERATIONS}
        assert served._served == documented
    assert len(documented) == len(OPERATIONS)


@pytest.mark.trio
async def test_schemathesis_finds_nothing_undocumented_and_no_fault() -> None:
    async with everything() as served:
        address = f"http://{served.address}"
        found = await trio.to_thread.run_sync(partial(fuzz, address, model=NAME, examples=EXAMPLES))
    assert not found.wrong, "\n\n".join(f"{at}: {what}" for at, what in found.wrong.items())
    assert max(found.statuses) < 500
    # Had nothing been answered, little would have been compared.
    assert found.answered >= {
        *("POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses"),
        *("POST /v1/embeddings", "POST /api/chat", "POST /api/generate", "POST /api/embed"),
        *("GET /v2/models/{model}", "POST /v2/repository/index"),
    }, (sorted(found.answered), found.statuses)


def test_answers_of_models_have_a_schema_with_types() -> None:
    told = document(
        {(one.method, one.path) for one in OPERATIONS}, lambda _: error_body, OPERATIONS
    )
    schemas = told["components"]["schemas"]
    assert {one.answer for one in OPERATIONS if one.answer} <= schemas.keys()
    for path in ("chat/completions", "completions", "responses", "embeddings"):
        content = told["paths"][f"/v1/{path}"]["post"]["responses"]["200"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert schemas[name]["properties"]["usage"] == {"$ref": f"#/components/schemas/{name}Usage"}
        assert {"model", "usage", "aigrid"} <= set(schemas[name]["required"])
