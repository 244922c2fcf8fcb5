"""Servers that join a grid as one node: real processes on both sides, and servers gone wrong."""

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from scripts.nodes import NodeFailedError, NodeProcess, stop_all, wait_for
from scripts.offers import offers
from sklearn.linear_model import LogisticRegression
from tests.engines.tasks.models import IRIS, KINDS, iris
from tests.engines.upstream.mlserver import MlServer
from tests.engines.upstream.servers import Server, running
from tests.faults.conftest import ProcessGrid

pytestmark = pytest.mark.process
PATIENCE_SECONDS = 90


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGrid]:
    """A grid of two: the first node stands in front of servers, the second asks."""
    made = ProcessGrid(tmp_path_factory.mktemp("pair"))
    try:
        for name in ("front", "asker"):
            made.add(name)
        made.join(made.nodes[1])
        yield made
    finally:
        stop_all(made.nodes)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now; taken again by the server a moment later."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def listed(node: NodeProcess, name: str) -> bool:
    return any(model["name"] == name for model in offers(node))


def until_listed(node: NodeProcess, name: str) -> None:
    wait_for(lambda: listed(node, name), timeout_seconds=PATIENCE_SECONDS, what=f"offers of {name}")


def until_gone(node: NodeProcess, name: str) -> None:
    wait_for(
        lambda: not listed(node, name), timeout_seconds=PATIENCE_SECONDS, what=f"no offer of {name}"
    )


def ask(node: NodeProcess, model: str, text: str) -> openai.types.chat.ChatCompletion:
    client = openai.OpenAI(base_url=f"{node.gateway}/v1", api_key="none", max_retries=0)
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], temperature=0
    )


def test_another_nodes_gateway_joins_as_a_server(pair, tmp_path):
    front, asker = pair.nodes
    (port,) = free_ports(1)
    back = NodeProcess(tmp_path / "back", "--gateway", f"127.0.0.1:{port}")
    try:
        back.start()
        back.cli("models", "fetch", "echo")
        address = f"openai+{back.gateway}/v1"
        with pytest.raises(NodeFailedError, match="--upstream-model: echo") as refused:
            front.cli("publish", address)
        assert (refused.value.status, refused.value.code) == (2, "usage")
        front.cli("publish", address, "--upstream-model", "echo", "--name", "parrot")
        until_listed(asker, "parrot")

        answer = ask(asker, "parrot", "one two three")
        assert answer.choices[0].message.content == "one two three"
        said: Any = answer.to_dict()
        assert said["usage"]["completion_tokens"] == 3
        (segment,) = said["aigrid"]["segments"]
        assert (segment["node"], segment["tokens"]) == (front.peer_id, 3)

        back.stop()
        until_gone(asker, "parrot")
        with pytest.raises(openai.InternalServerError) as failed:
            ask(asker, "parrot", "anybody?")
        assert failed.value.code == "no_candidate"
        back.start()
        until_listed(asker, "parrot")
        assert ask(asker, "parrot", "hello again").choices[0].message.content == "hello again"
    finally:
        back.stop()
        front.cli("withdraw", "parrot")


def test_mlserver_joins_as_a_server(pair, tmp_path):
    front, asker = pair.nodes
    x, y = iris()
    model = LogisticRegression(max_iter=1000).fit(x, y)
    ports = free_ports(3)
    server = MlServer(tmp_path, (ports[0], ports[1], ports[2]))
    np.savez(tmp_path / "iris" / "weights.npz", w=model.coef_, b=model.intercept_)
    mapping = {
        "table": {"features": [{"name": name} for name in IRIS]},
        "output": {"tensor": "probabilities", "labels": list(KINDS)},
    }
    (tmp_path / "mapping.json").write_text(json.dumps(mapping))
    try:
        server.start()
        wait_for(
            lambda: answers(f"{server.url}/v2/health/ready") or not server.alive,
            timeout_seconds=PATIENCE_SECONDS,
            what="MLServer",
        )
        assert server.alive, server.said()
        address = f"oip+{server.url}"
        with pytest.raises(NodeFailedError, match="--upstream-model: iris"):
            front.cli("publish", address)
        front.cli(
            *("publish", address, "--upstream-model", "iris"),
            *("--capability", "tabular-classification"),
            *("--task-mapping", str(tmp_path / "mapping.json")),
        )
        until_listed(asker, "iris")
        rows = [dict(zip(IRIS, map(float, row), strict=True)) for row in x[::10]]
        found = httpx.post(
            f"{asker.gateway}/aigrid/v1/tasks/tabular-classification",
            json={"model": "iris", "input": rows},
        ).json()
        expected = model.predict_proba(x[::10])
        assert [row["label"] for row in found["output"]] == [KINDS[n] for n in expected.argmax(1)]
        scores = [row["score"] for row in found["output"]]
        np.testing.assert_allclose(scores, expected.max(1), atol=1e-5)
        assert found["aigrid"]["segments"][0]["node"] == front.peer_id

        server.stop()
        until_gone(asker, "iris")
        server.start()
        until_listed(asker, "iris")
    finally:
        server.stop()
        if listed(front, "iris"):
            front.cli("withdraw", "iris")


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as found:
        yield found


def test_a_server_that_lists_its_models_and_generates_nothing_is_withdrawn(pair, server, tmp_path):
    front, asker = pair.nodes
    key = tmp_path / "key"
    key.write_text("c4n4ry-k3y\n")
    address = f"openai+{server.root}"
    published = front.cli("publish", address, "--upstream-model", "parrot", "--key-file", str(key))
    until_listed(asker, "parrot")
    assert ask(asker, "parrot", "count").choices[0].message.content == "One two three four"
    assert {headers["Authorization"] for _, headers, _ in server.said} == {"Bearer c4n4ry-k3y"}
    calls_tools(asker, server)

    server.mode = "fails"  # GET /v1/models goes on as before
    with pytest.raises(openai.InternalServerError):
        ask(asker, "parrot", "count")
    until_gone(asker, "parrot")
    server.mode = "good"
    until_listed(asker, "parrot")

    port = str(server.server_address[1])
    keepers = [p for p in held(front.data_dir) if b"c4n4ry-k3y" in p.read_bytes()]
    (keeper,) = keepers
    assert keeper.parent.name == published["model"]
    assert stat.S_IMODE(keeper.stat().st_mode) == 0o600
    logs = [*front.data_dir.parent.glob("front.std*"), *(front.data_dir / "logs").glob("*")]
    assert not any(port in path.read_text(errors="replace") for path in logs)
    assert not any(b"c4n4ry" in command for command in commands())
    exported = front.cli("export")
    assert port not in json.dumps(exported)
    front.cli("withdraw", "parrot")
    assert not keeper.exists()


def calls_tools(asker: NodeProcess, server: Server) -> None:
    """Through the gateway of another node, plain, streamed, and several at once."""
    client = openai.OpenAI(base_url=f"{asker.gateway}/v1", api_key="none", max_retries=0)
    tools: Any = [{"type": "function", "function": {"name": "weather", "strict": True}}]
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "here?"}, image]}]
    answer = client.chat.completions.create(
        model="parrot", messages=asked, tools=tools, n=2, seed=7, extra_body={"min_p": 0.1}
    )
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert (call.id, call.function.name) == ("call_1", "weather")
        assert call.function.arguments == '{"city":"Rome"}'
    posted = server.asked("/v1/chat/completions")[-2:]
    assert {body["seed"] for body in posted} == {7, 8}
    for body in posted:
        assert (body["messages"], body["tools"], body["min_p"]) == (asked, tools, 0.1)
    with client.chat.completions.stream(model="parrot", messages=asked, tools=tools) as stream:
        (choice,) = stream.get_final_completion().choices
    (call,) = choice.message.tool_calls or []
    assert (call.id, call.function.arguments) == ("call_1", '{"city":"Rome"}')
    flat: Any = [{"type": "function", "name": "weather", "strict": True, "parameters": None}]
    with client.responses.stream(model="parrot", input="here?", tools=flat) as events:
        (item,) = events.get_final_response().output
    assert item.type == "function_call"
    assert (item.call_id, item.name, item.arguments) == ("call_1", "weather", '{"city":"Rome"}')
    assert server.asked("/v1/chat/completions")[-1]["tools"] == tools
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="parrot", messages=asked, tools=tools, functions=[{"name": "f"}]
        )
    assert refused.value.param == "functions"


def held(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def commands() -> list[bytes]:
    """The command lines of every process, where the system shows them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found
