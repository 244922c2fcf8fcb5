"""Clients with a key, over TLS, as `docs/clients.md` says that each sends it."""

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
import trio
import tritonclient.http as triton
from tests.node.gateway.double import HELLO, NAME, NOW_MS, ScriptedMesh, gateway, open_access
from tests.node.gateway.http.test_tls import made, trusting
from tests.node.gateway.open_inference.test_endpoints import TENSORS, Shelf
from tritonclient.utils import InferenceServerException

from aigrid.node.policy.limits import ActorLimits

CLIENTS = Path(__file__).parents[2] / "docs" / "clients.md"
HI: Any = [{"role": "user", "content": "hi"}]
WRONG = "aigrid-" + "x" * 43


def by_openai(address: str, key: str, context: ssl.SSLContext) -> str | None:
    http_client = openai.DefaultHttpxClient(verify=context)
    with openai.OpenAI(
        base_url=f"https://{address}/v1", api_key=key, http_client=http_client
    ) as client:
        return client.chat.completions.create(model=NAME, messages=HI).choices[0].message.content


def by_ollama(address: str, key: str, context: ssl.SSLContext) -> str | None:
    headers = {"Authorization": f"Bearer {key}"}
    client = ollama.Client(host=f"https://{address}", headers=headers, verify=context)
    return client.chat(model=NAME, messages=HI).message.content


def by_triton(address: str, key: str, context: ssl.SSLContext) -> str:
    client = triton.InferenceServerClient(
        address, ssl=True, ssl_context_factory=lambda **_: context
    )
    try:
        headers = {"Authorization": f"Bearer {key}"}
        return str(client.get_model_metadata(NAME, headers=headers)["name"])
    finally:
        client.close()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("ask", "answer", "refused"),
    [
        (by_openai, "Hello wörld", openai.AuthenticationError),
        (by_ollama, "Hello wörld", ollama.ResponseError),
        (by_triton, NAME, InferenceServerException),
    ],
)
async def test_a_key_lets_a_client_in_over_tls(
    ask: Callable[..., str], answer: str, refused: type[Exception], tmp_path: Path
) -> None:
    access = open_access()
    _, key = access.keys.create("alice", ActorLimits(), now_ms=NOW_MS)
    served = gateway(
        ScriptedMesh(HELLO),
        tls=made(tmp_path),
        access=access,
        keyless=False,
        manifest=lambda _: TENSORS,
        repository=Shelf(),
    )
    async with served as (_, address):
        with trio.fail_after(20):
            asked = partial(ask, address, context=trusting(tmp_path))
            assert await trio.to_thread.run_sync(partial(asked, key=key)) == answer
            with pytest.raises(refused, match="key is not valid"):
                await trio.to_thread.run_sync(partial(asked, key=WRONG))


def test_the_docs_say_how() -> None:
    text = CLIENTS.read_text()
    assert 'headers={"Authorization": "Bearer aigrid-..."}' in text
    assert 'api_key="aigrid-..."' in text
