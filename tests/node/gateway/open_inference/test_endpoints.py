"""The Open Inference Protocol over the real server, before a scripted mesh."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import trio
import trio.lowlevel
from msgspec import UNSET
from tests.node.gateway.double import MODEL, NAME, NODE, ScriptedMesh, gateway, open_access
from tests.patience import PATIENCE_SECONDS

from aigrid.node.gateway.repository import Held
from aigrid.node.policy.limits import ActorLimits
from aigrid.protocol.errors import Code, EngineError, InvalidRequestError, RemoteError
from aigrid.protocol.inference import (
    Finish,
    TaskChunk,
    TaskRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
)
from aigrid.protocol.mesh_kinds import ModelBody
from aigrid.protocol.model import MODEL_URN, ModelDescription
from aigrid.protocol.tensors import TensorSpec, TensorSpecs

pytestmark = pytest.mark.trio
X, Y = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1, 1))
PAIR = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
SUM = TensorChunk({"y": Tensor("float32", (1, 1), b"\0\0\x40\x40")})
ADDED = ((SUM, Finish("stop")),)


def manifest(
    task: str, inputs: TensorSpecs = (), outputs: TensorSpecs = (), format_: str = "onnx"
) -> ModelBody:
    return ModelBody(
        id=MODEL_URN + MODEL,
        name=NAME,
        capabilities=(task,),
        model=ModelDescription(format_, task, ()),
        inputs=inputs or UNSET,
        outputs=outputs or UNSET,
    )


TENSORS = manifest("reinforcement-learning", (X,), (Y,))


@dataclass
class Shelf:
    """A repository of one model."""

    state: Any = "UNAVAILABLE"
    calls: list[str] = field(default_factory=list)

    def index(self) -> list[Held]:
        return [Held(NAME, MODEL, self.state, "unloaded"), Held("b", "c", "READY")]

    async def load(self, model: str) -> None:
        self.calls.append(f"load {model}")
        if model == "broken":
            raise EngineError("it is too large for this machine", Code.OUT_OF_MEMORY)
        if model == "nowhere":
            raise InvalidRequestError("this node does not hold it", Code.MODEL_NOT_FOUND)
        await trio.lowlevel.checkpoint()
        self.state = "READY"

    async def unload(self, model: str) -> None:
        self.calls.append(f"unload {model}")
        self.state = "UNAVAILABLE"


@asynccontextmanager
async def client(
    mesh: ScriptedMesh | None = None, body: ModelBody | None = TENSORS, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    more.setdefault("repository", Shelf())
    served = gateway(mesh or ScriptedMesh(script=ADDED), manifest=lambda _: body, **more)
    async with served as (_, address), httpx.AsyncClient(base_url=f"http://{address}") as http:
        with trio.fail_after(PATIENCE_SECONDS):
            yield http


def infer(**more: Any) -> bytes:
    return json.dumps({"inputs": [PAIR], **more}).encode()


async def test_the_server_is_alive_and_says_what_it_can():
    async with client(keyless=False) as http:
        assert (await http.get("/v2/health/live")).json() == {"live": True}
        assert (await http.get("/v2/health/ready")).json() == {"ready": True}
        assert (await http.get("/v2")).status_code == 401
    async with client() as http:
        told = (await http.get("/v2")).json()
        assert told["name"] == "aigrid"
        assert "binary_tensor_data" in told["extensions"]


@pytest.mark.parametrize("path", [NAME, MODEL, f"{NAME}/versions/{MODEL}"])
async def test_a_model_declares_its_tensors(path):
    async with client() as http:
        told = (await http.get(f"/v2/models/{path}")).json()
        assert told["versions"] == [MODEL]
        assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        assert told["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]
        assert (await http.get(f"/v2/models/{path}/ready")).json()["ready"] is True
        for wrong in ("/v2/models/none", f"/v2/models/{NAME}/versions/1", "/v2/nothing"):
            refused = await http.get(wrong)
            assert refused.status_code == 404
            assert isinstance(refused.json()["error"], str)


@pytest.mark.parametrize("path", [NAME, f"{NAME}/versions/{MODEL}"])
async def test_tensors_in_json_come_back_in_json(path):
    mesh = ScriptedMesh(script=ADDED)
    async with client(mesh) as http:
        answer = await http.post(f"/v2/models/{path}/infer", content=infer(id="7"))
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["model_name"], told["model_version"], told["id"]) == (
            NAME if "versions" not in path else MODEL,
            MODEL,
            "7",
        )
        (output,) = told["outputs"]
        assert output == {"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}
        assert answer.headers["x-aigrid-node"] == NODE
    given = Tensor("float32", (1, 2), b"\0\0\x80\x3f\0\0\0\x40")
    assert mesh.asked[0][1] == TensorRequest({"x": given})


async def test_large_tensors_are_translated_in_a_thread(monkeypatch):
    in_threads = []
    run_sync = trio.to_thread.run_sync

    async def noted(sync_fn, *args, **more):
        in_threads.append(getattr(sync_fn, "func", sync_fn).__name__)
        return await run_sync(sync_fn, *args, **more)

    rows = 64
    large = Tensor("float32", (rows + 1, 1), bytes(4 * rows + 4))
    mesh = ScriptedMesh(script=((TensorChunk({"y": large}), Finish("stop")),))
    nested = {**PAIR, "shape": [rows, 2], "data": [[1, 2]] * rows}
    monkeypatch.setattr(trio.to_thread, "run_sync", noted)
    async with client(mesh, tensor_inline_max_bytes=4 * rows) as http:
        small = await http.post(f"/v2/models/{NAME}/infer", content=infer())
        assert small.status_code == 200
        answer = await http.post(f"/v2/models/{NAME}/infer", content=infer(inputs=[nested]))
        assert answer.json()["outputs"][0]["data"] == [0.0] * (rows + 1)
    # The first was small itself; its answer was not.
    assert [name for name in in_threads if name in ("decode_infer", "infer_body")] == [
        "infer_body",
        "decode_infer",
        "infer_body",
    ]
    (_, sent) = [request for _, request, _ in mesh.asked if isinstance(request, TensorRequest)]
    assert sent.inputs["x"].data == b"\0\0\x80\x3f\0\0\0\x40" * rows


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (infer(inputs=[]), "x"),
        (infer(inputs=[{**PAIR, "name": "z"}]), "z"),
        (infer(inputs=[{**PAIR, "datatype": "FP64"}]), "FP64"),
        (infer(inputs=[{**PAIR, "shape": [2]}]), "expected FP32 [?, 2]"),
        (infer(inputs=[{**PAIR, "shape": [2, 1]}]), "expected FP32 [?, 2]"),
        (infer(outputs=[{"name": "q"}]), "no output 'q'"),
        (infer(parameters={"beam": 3}), "beam"),
        (infer(parameters={"sequence_id": 3}), "sequence_id"),
        (infer(outputs=[{"name": "y", "parameters": {"classification": 2}}]), "classification"),
        (b"[]", "inputs"),
        (b"{" * 5000, "not a request"),
    ],
)
async def test_what_the_model_does_not_take_is_not_routed(body, param):
    mesh = ScriptedMesh(script=ADDED)
    async with client(mesh) as http:
        answer = await http.post(f"/v2/models/{NAME}/infer", content=body)
        assert answer.status_code == 400
        assert param in answer.json()["error"]
    assert not mesh.asked


async def test_a_form_or_a_compressed_body_is_refused():
    async with client() as http:
        for headers in ({"content-type": "text/plain"}, {"content-encoding": "gzip"}):
            answer = await http.post(f"/v2/models/{NAME}/infer", content=infer(), headers=headers)
            assert answer.status_code == 415


async def test_a_typed_task_takes_its_input_as_json_in_one_text():
    mesh = ScriptedMesh(script=((TaskChunk(b'[{"label":"good"}]'), Finish("stop")),))
    text = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ['"I like it"']}
    async with client(mesh, manifest("text-classification")) as http:
        told = (await http.get(f"/v2/models/{NAME}")).json()
        assert told["inputs"] == [{"name": "input", "datatype": "BYTES", "shape": [1]}]
        body = infer(inputs=[text], parameters={"top_k": 1})
        answer = await http.post(f"/v2/models/{NAME}/infer", content=body)
        (output,) = answer.json()["outputs"]
        assert json.loads(output["data"][0]) == [{"label": "good"}]
        wide = infer(inputs=[text], parameters={"top_k": 2**63})
        refused = await http.post(f"/v2/models/{NAME}/infer", content=wide)
        assert (refused.status_code, len(mesh.asked)) == (400, 1)
        assert "'top_k' must fit into 64 bits" in refused.json()["error"]
        wrong = infer(inputs=[{**text, "data": ["I like it"]}])
        refused = await http.post(f"/v2/models/{NAME}/infer", content=wrong)
        assert refused.status_code == 400
        assert "/aigrid/v1/tasks/text-classification" in refused.json()["error"]
    asked = mesh.asked[0][1]
    assert asked == TaskRequest("text-classification", b'"I like it"', {"top_k": 1})


async def test_a_model_that_writes_text_says_where_to_ask_it():
    async with client(body=manifest("text-generation", format_="gguf")) as http:
        answer = await http.post(f"/v2/models/{NAME}/infer", content=infer())
        assert answer.status_code == 400
        assert "/v1/chat/completions" in answer.json()["error"]
        assert (await http.get(f"/v2/models/{NAME}")).json()["inputs"] == []


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (((TensorChunk({"y": Tensor("float32", (2, 1), b"1234")}), Finish("stop")),), 500),
        (((TensorChunk({"y": Tensor("object", (1,), b"1234")}), Finish("stop")),), 500),
        (((SUM, SUM, Finish("stop")),), 502),
        (((Finish("stop"),),), 500),
        ((RemoteError("gone", Code.CONNECTION_LOST),), 502),
        (((TensorChunk({"y": Tensor("float32", (1,), b"\0\0\xc0\x7f")}), Finish("stop")),), 400),
    ],
)
async def test_an_answer_that_cannot_be_said_is_a_typed_error(script, status):
    async with client(ScriptedMesh(script=script)) as http:
        answer = await http.post(f"/v2/models/{NAME}/infer", content=infer())
        assert answer.status_code == status
        assert isinstance(answer.json()["error"], str)


async def test_the_repository_is_driven_from_outside():
    shelf = Shelf()
    async with client(repository=shelf) as http:
        index = (await http.post("/v2/repository/index")).json()
        assert index[0] == {
            "name": NAME, "version": MODEL, "state": "UNAVAILABLE", "reason": "unloaded",
        }  # fmt: skip
        ready = await http.post("/v2/repository/index", json={"ready": True})
        assert [one["name"] for one in ready.json()] == ["b"]
        assert (await http.post(f"/v2/repository/models/{NAME}/load", json={})).status_code == 200
        assert shelf.state == "READY"
        dependents = {"parameters": {"unload_dependents": False}}
        gone = await http.post(f"/v2/repository/models/{NAME}/unload", json=dependents)
        assert gone.status_code == 200
        assert shelf.calls == [f"load {NAME}", f"unload {NAME}"]
        failed = await http.post("/v2/repository/models/broken/load")
        assert failed.status_code >= 500
        assert "too large" in failed.json()["error"]
        assert (await http.post("/v2/repository/models/nowhere/load")).status_code == 404
        config = {"parameters": {"config": "{}"}}
        assert (
            await http.post(f"/v2/repository/models/{NAME}/load", json=config)
        ).status_code == 400


async def test_only_who_operates_the_node_loads_and_unloads():
    access, shelf = open_access(), Shelf()
    _, user = access.keys.create("user", ActorLimits(), now_ms=0)
    _, operator = access.keys.create("robot", ActorLimits(operates=True), now_ms=0)
    paths = ["index", f"models/{NAME}/load", f"models/{NAME}/unload"]
    async with client(access=access, repository=shelf) as http:
        for path in paths:
            answer = await http.post(f"/v2/repository/{path}", headers={"x-api-key": user})
            assert answer.status_code == 403
            assert "--operates" in answer.json()["error"]
        assert not shelf.calls
        for path in paths:
            answer = await http.post(f"/v2/repository/{path}", headers={"x-api-key": operator})
            assert answer.status_code == 200
