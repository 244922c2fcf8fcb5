"""Errors as each dialect's clients read them."""

import json
from typing import Any

import httpx
import pytest
import trio
from tests.node.gateway.double import NAME, ScriptedMesh, gateway
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.more import not_taken

pytestmark = pytest.mark.trio
CHAT: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
GENERATE = {"model": NAME, "prompt": "hi"}
RESPONSE = {"model": NAME, "input": "hi"}


CALLED = [
    ("/api/chat", CHAT, "response_format", "format"),
    ("/api/chat", CHAT, "reasoning_effort", "think"),
    ("/api/chat", CHAT, "repetition_penalty", "options.repeat_penalty"),
    ("/api/chat", CHAT, "top_k", "options.top_k"),
    ("/api/chat", CHAT, "tools", "tools"),
    ("/api/chat", CHAT, "logprobs", "logprobs"),
    ("/api/chat", CHAT, "messages.content", "messages.images"),
    ("/api/chat", CHAT, "messages.tool_calls", "messages.tool_calls"),
    ("/api/generate", GENERATE, "messages.content", "images"),
    ("/api/generate", GENERATE, "suffix", "suffix"),
    ("/v1/responses", RESPONSE, "response_format", "text.format"),
    ("/v1/responses", RESPONSE, "reasoning_effort", "reasoning.effort"),
    ("/v1/responses", RESPONSE, "messages.content", "input"),
    ("/v1/responses", RESPONSE, "logprobs", "include"),
    ("/v1/responses", RESPONSE, "tools", "tools"),
    ("/v1/chat/completions", CHAT, "response_format", "response_format"),
]


async def test_what_nobody_takes_is_called_what_the_client_called_it() -> None:
    mesh = ScriptedMesh()
    async with gateway(mesh) as (_, address), httpx.AsyncClient() as http:
        for path, body, name, called in CALLED:
            mesh.before_first = not_taken([name], "any node")
            with trio.fail_after(PATIENCE_SECONDS):
                answer = await http.post(f"http://{address}{path}", json=body)
            said = json.loads(answer.text)["error"]
            message = said if isinstance(said, str) else said["message"]
            assert answer.status_code == 400
            assert f"Not taken by any node: `{called}`." in message
            if not isinstance(said, str):
                assert said["param"] == called


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("/v1/embeddings", {"model": NAME, "input": 5}, "", "input"),
    ("/aigrid/v1/tasks/fill-mask", {"input": "x", "parameters": 5}, "", "parameters"),
    ("/aigrid/v1/tasks/fill-mask", {}, "", "input"),
    (
        "/aigrid/v1/tasks/fill-mask",
        {"input": "x", "parameters": {"top_k": 2**70}},
        "",
        "parameters.top_k",
    ),
    ("/v1/chat/completions", CHAT, "abc", "x-aigrid-patience"),
    ("/v1/chat/completions", {**CHAT, "top_p": 0}, "", "top_p"),
    ("/v1/responses", {**RESPONSE, "include": ["bogus"]}, "", "include"),
]


async def test_what_is_wrong_is_named_with_a_next_step() -> None:
    mesh = ScriptedMesh()
    async with gateway(mesh) as (_, address), httpx.AsyncClient() as http:
        for path, body, patience, param in WRONG:
            headers = {"x-aigrid-patience": patience} if patience else {}
            answer = await http.post(f"http://{address}{path}", json=body, headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, param)
            assert error["message"].endswith("Correct the named field.")
        text = await http.post(
            f"http://{address}/aigrid/v1/tasks/text-generation", json={"input": "x"}
        )
        odd = await http.post(f"http://{address}/api/chat", json={"model": 5})
    assert text.status_code == 400
    assert "/v1/chat/completions" in text.json()["error"]["message"]
    assert odd.json()["error"].endswith("Correct the named field.")
    assert not mesh.asked


async def test_an_engine_names_what_it_does_not_take_in_its_message() -> None:
    error = EngineError("no parameter `dimensions` here", Code.UNSUPPORTED_PARAMETER)
    mesh = ScriptedMesh(before_first=error)
    async with gateway(mesh) as (_, address), httpx.AsyncClient() as http:
        body = {"model": NAME, "input": "x", "dimensions": 5}
        answer = await http.post(f"http://{address}/v1/embeddings", json=body)
    assert answer.json()["error"]["param"] == "dimensions"
