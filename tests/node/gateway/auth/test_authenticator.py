"""Who gets past the boundary, by which credential, and as whom."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
import trio
import trio.testing
from tests.node.gateway.double import (
    MODEL,
    NAME,
    NOW_MS,
    ScriptedMesh,
    gateway,
    open_access,
    text,
    view,
)
from tests.patience import PATIENCE_SECONDS

from aigrid.node.gateway.gateway import Gateway
from aigrid.node.gateway.http.request import Request
from aigrid.node.policy.access import Access
from aigrid.node.policy.caller import LOOPBACK, Caller
from aigrid.node.policy.limits import ActorLimits
from aigrid.protocol.errors import Code, NoCandidateError, RemoteError
from aigrid.protocol.inference import Finish, TaskChunk
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
HI: Any = CHAT["messages"]
GOOD = "aigrid-" + "A" * 43


@asynccontextmanager
async def client(
    mesh: ScriptedMesh | None = None, access: Access | None = None, *, keyless: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(mesh or ScriptedMesh(), access=access, keyless=keyless) as (_, address):
        async with httpx.AsyncClient(base_url=f"http://{address}") as made:
            with trio.fail_after(PATIENCE_SECONDS):
                yield made


def keyed(limits: ActorLimits | None = None, **more: Any) -> tuple[Access, dict[str, str]]:
    access = open_access()
    _, key = access.keys.create("alice", limits or ActorLimits(), now_ms=NOW_MS, **more)
    return access, {"authorization": f"Bearer {key}"}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_every_route_but_health_denies_by_default() -> None:
    async with gateway(ScriptedMesh(), keyless=False) as (served, address):
        async with httpx.AsyncClient(base_url=f"http://{address}") as asked:
            paths = [*_paths(served), "/", "/nothing/here", "/healthz/", "/HEALTHZ"]
            assert {"/v1/models", "/aigrid/v1/status", "/v1/embeddings"} <= set(paths)
            for path in paths:
                for method in ("GET", "POST"):
                    answer = await asked.request(method, path)
                    expected = 401 if path != "/healthz" else 200 if method == "GET" else 405
                    assert answer.status_code == expected, (method, path)
                    if expected == 401:
                        assert answer.headers["www-authenticate"] == 'Bearer realm="aigrid"'
            assert served.counters()["unauthenticated"] > 0


def _paths(served: Gateway) -> list[str]:
    router: Any = served._app()._app
    return [
        route.path.replace("{task:path}", "t").replace("{model:path}", "m")
        for route in router.routes
    ]


@pytest.mark.parametrize("keyless", [True, False])
async def test_a_key_of_ours_that_does_not_hold_is_refused_everywhere(keyless: bool) -> None:
    mesh = ScriptedMesh()
    access, good = keyed()
    _, expired = access.keys.create("late", ActorLimits(), expires_ms=NOW_MS - 1, now_ms=NOW_MS - 9)
    revoked_actor, revoked = access.keys.create("gone", ActorLimits(), now_ms=NOW_MS)
    access.keys.revoke(revoked_actor.id)
    async with client(mesh, access, keyless=keyless) as asked:
        for headers in (
            {"authorization": f"Bearer {GOOD}"},
            {"authorization": f"bearer   {GOOD}"},
            {"authorization": "Bearer aigrid-"},
            {"authorization": f"Bearer {revoked}"},
            {"x-api-key": GOOD},
            {"x-api-key": f"Bearer {GOOD}"},
            {"authorization": GOOD},
            {"authorization": f"Bearer\t{GOOD}"},
            {"authorization": f"Token {GOOD}"},
            {"authorization": f"Bearer unused, Bearer {GOOD}"},
            {"x-api-key": GOOD, **good},
            {"x-api-key": expired, **good},
        ):
            answer = await asked.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert refusal(answer) == (401, "unauthenticated")
            assert GOOD not in answer.text
    assert not mesh.asked


async def test_without_keyless_only_a_key_opens() -> None:
    access, good = keyed()
    mesh = ScriptedMesh()
    async with client(mesh, access) as asked:
        for headers in ({}, {"authorization": "Bearer unused"}, {"authorization": "Basic YTpi"}):
            answer = await asked.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert refusal(answer) == (401, "unauthenticated")
        for headers in (good, {"x-api-key": good["authorization"].split()[1]}):
            answer = await asked.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert answer.status_code == 200
    assert mesh.callers == [Caller("alice", "key")] * 2


@pytest.mark.parametrize("value", ["Bearer unused", "Bearer sk-x", "Basic YTpi", "Bearer", ""])
async def test_keyless_passes_over_what_is_no_key_of_ours(value: str) -> None:
    mesh = ScriptedMesh()
    async with client(mesh, keyless=True) as asked:
        headers = {"authorization": value, "x-api-key": "unused"}
        answer = await asked.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200
    assert mesh.callers == [LOOPBACK]


async def test_purpose_and_licences_reach_the_mesh() -> None:
    mesh = ScriptedMesh()
    access, good = keyed()
    wishes = {
        "x-aigrid-purpose": "research-2",
        "x-aigrid-accept-license": "Apache-2.0, llama3.1,MIT",
    }
    async with client(mesh, access) as asked:
        await asked.post("/v1/chat/completions", json=CHAT, headers={**good, **wishes})
        for name, value in (
            ("x-aigrid-purpose", "Research!"),
            ("x-aigrid-purpose", "x" * 65),
            ("x-aigrid-purpose", "a--b"),
            ("x-aigrid-purpose", "-a"),
            ("x-aigrid-accept-license", "-MIT"),
            ("x-aigrid-accept-license", "a b"),
            ("x-aigrid-accept-license", ",".join(f"l{n}" for n in range(17))),
        ):
            answer = await asked.get("/v1/models", headers={**good, name: value})
            assert refusal(answer) == (400, "invalid_request")
    accepts = ("Apache-2.0", "llama3.1", "MIT")
    assert mesh.callers == [Caller("alice", "key", purpose="research-2", accepts=accepts)]


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_a_proxy_on_this_machine_lets_nobody_in_without_a_key(name: str) -> None:
    access, good = keyed()
    async with client(None, access, keyless=True) as asked:
        assert (await asked.get("/v1/models")).status_code == 200
        for value in ("203.0.113.7", "127.0.0.1", ""):
            answer = await asked.get("/v1/models", headers={name: value})
            assert refusal(answer) == (401, "unauthenticated")
            answer = await asked.get("/v1/models", headers={name: value, **good})
            assert answer.status_code == 200


async def test_revocation_stops_the_next_request() -> None:
    access, good = keyed()
    async with client(None, access) as asked:
        assert (await asked.get("/v1/models", headers=good)).status_code == 200
        access.keys.revoke("alice")
        assert (await asked.get("/v1/models", headers=good)).status_code == 401


async def test_the_openai_sdk_reads_the_refusals_as_its_own() -> None:
    access, good = keyed(ActorLimits(requests_per_minute=2, models=(NAME,)))
    key = good["authorization"].split()[1]
    async with gateway(ScriptedMesh(), access=access, keyless=False) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            base: Any = {"base_url": f"http://{address}/v1", "max_retries": 0}
            async with openai.AsyncOpenAI(api_key="unused", **base) as wrong:
                with pytest.raises(openai.AuthenticationError) as refused:
                    await wrong.models.list()
                assert refused.value.code == "unauthenticated"
            async with openai.AsyncOpenAI(api_key=key, **base) as right:
                answer = await right.chat.completions.create(model=NAME, messages=HI)
                assert answer.choices[0].message.content == "Hello wörld"
                with pytest.raises(openai.PermissionDeniedError):
                    await right.chat.completions.create(model="other", messages=HI)
                with pytest.raises(openai.RateLimitError) as limited:
                    await right.chat.completions.create(model=NAME, messages=HI)
                assert limited.value.code == "rate_limited"
                headers = limited.value.response.headers
                assert 0 < int(headers["retry-after"]) <= 30
                assert "x-should-retry" not in headers


async def test_tokens_are_charged_and_a_spent_day_is_over() -> None:
    access, good = keyed(ActorLimits(tokens_per_day=15))
    actor = access.keys.all()[0]
    async with client(None, access) as asked:
        for used in (10, 20):
            answer = await asked.post("/v1/chat/completions", json=CHAT, headers=good)
            assert answer.status_code == 200
            assert access.meter.day_tokens(actor) == used
        answer = await asked.post("/v1/chat/completions", json=CHAT, headers=good)
        assert refusal(answer) == (429, "over_budget")
        assert int(answer.headers["retry-after"]) > 60
        assert answer.headers["x-should-retry"] == "false"
        assert (await asked.get("/v1/models", headers=good)).status_code == 200


async def test_what_breaks_off_is_charged_as_far_as_it_came() -> None:
    access, good = keyed()
    chat = {**CHAT, "messages": [{"role": "user", "content": "x" * 40}]}
    actor = access.keys.all()[0]
    mesh = ScriptedMesh((text("a", "b"), RemoteError("Gone.", Code.CONNECTION_LOST)))
    async with client(mesh, access) as asked:
        answer = await asked.post("/v1/chat/completions", json=chat, headers=good)
        assert refusal(answer) == (502, "connection_lost")
    assert access.keys.usage(actor).day_tokens == 2 + 10  # the prompt is estimated


async def test_hanging_up_before_the_first_word_is_not_free() -> None:
    access, good = keyed()
    actor = access.keys.all()[0]
    chat = {**CHAT, "messages": [{"role": "user", "content": "x" * 400}]}
    mesh = ScriptedMesh(before_first=float("inf"))
    async with client(mesh, access) as asked:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: asked.post("/v1/chat/completions", json=chat, headers=good))
            await mesh.entered.wait()
            nursery.cancel_scope.cancel()
        await mesh.left.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert access.keys.usage(actor).day_tokens == 100


async def test_a_refusal_costs_nothing() -> None:
    access, good = keyed()
    mesh = ScriptedMesh(before_first=NoCandidateError("Nobody."))
    async with client(mesh, access) as asked:
        answer = await asked.post("/v1/chat/completions", json=CHAT, headers=good)
        assert refusal(answer) == (503, "no_candidate")
    assert access.meter.day_tokens(access.keys.all()[0]) == 0


async def test_tasks_are_charged_and_held_to_what_is_listed() -> None:
    access, good = keyed(ActorLimits(capabilities=("feature-extraction",), models=(MODEL,)))
    script = ((TaskChunk(b"[[1.0]]"), Finish("stop", 5, 0)),)
    async with client(ScriptedMesh(script, views=(view(), view("bafy2", "two"))), access) as asked:
        body = {"model": NAME, "input": ["x"]}
        assert (await asked.post("/v1/embeddings", json=body, headers=good)).status_code == 200
        assert access.meter.day_tokens(access.keys.all()[0]) == 5
        for path, wrong in (
            ("/v1/embeddings", {**body, "model": "two"}),
            ("/v1/embeddings", {**body, "model": "bafy2"}),
            ("/aigrid/v1/tasks/feature-extraction", {"input": ["x"]}),
            ("/aigrid/v1/tasks/fill-mask", body),
            ("/v1/chat/completions", CHAT),
        ):
            answer = await asked.post(path, json=wrong, headers=good)
            assert refusal(answer) == (403, "denied"), path


async def test_a_model_that_takes_an_allowed_name_is_not_allowed_by_its_id() -> None:
    access, good = keyed(ActorLimits(models=(NAME, "bafy3")))
    views = (view(), view("bafy2", NAME), view("bafy3", NAME))
    mesh = ScriptedMesh(views=views)
    async with client(mesh, access) as asked:
        for model, status in ((NAME, 200), (MODEL, 403), ("bafy2", 403), ("bafy3", 200)):
            answer = await asked.post(
                "/v1/chat/completions", json={**CHAT, "model": model}, headers=good
            )
            assert answer.status_code == status, model
        mesh.views = views[:1]
        answer = await asked.post(
            "/v1/chat/completions", json={**CHAT, "model": MODEL}, headers=good
        )
        assert answer.status_code == 200


async def test_a_stream_over_its_limits_is_a_status_and_no_event() -> None:
    access, good = keyed(ActorLimits(models=("other",)))
    async with client(None, access) as asked:
        body = {**CHAT, "stream": True}
        answer = await asked.post("/v1/chat/completions", json=body, headers=good)
        assert refusal(answer) == (403, "denied")


async def test_concurrency_is_limited_for_each_caller_alone() -> None:
    access, good = keyed(ActorLimits(concurrency=1))
    mesh = ScriptedMesh(before_first=float("inf"))
    async with client(mesh, access, keyless=True) as asked:
        async with trio.open_nursery() as nursery:
            post = lambda: asked.post("/v1/chat/completions", json=CHAT, headers=good)  # noqa: E731
            nursery.start_soon(post)
            await mesh.entered.wait()
            answer = await asked.get("/v1/models", headers=good)
            assert refusal(answer) == (429, "rate_limited")
            assert (await asked.get("/v1/models")).status_code == 200
            nursery.cancel_scope.cancel()
        await mesh.left.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await asked.get("/v1/models", headers=good)).status_code == 200


async def test_who_guesses_waits_and_who_has_a_key_does_not(autojump_clock: object) -> None:
    from tests.node.gateway.double import authenticator

    access, good = keyed()
    auth = authenticator(access, keyless=False)
    nobody: Any = None
    wrong, right = (
        Request(nobody, b"GET", b"/", [(b"authorization", value.encode())])
        for value in ("Bearer aigrid-wrong", good["authorization"])
    )
    waited: list[float] = []

    async def guess() -> None:
        began = trio.current_time()
        with pytest.raises(Exception, match="not valid"):
            await auth.authenticate(wrong)
        waited.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(400):
            nursery.start_soon(guess)
        await trio.lowlevel.checkpoint()
        began = trio.current_time()
        assert (await auth.authenticate(right)).caller == Caller("alice", "key")
        assert trio.current_time() == began
    held, burst = LIMITS.auth_failures_held_max, LIMITS.auth_failures_burst
    assert auth.refused == 400
    later = sorted(wait for wait in waited if wait > 0.001)
    assert len(later) == held - burst or len(later) == held
    assert waited.count(0) >= 400 - held - burst
    per_second = LIMITS.auth_failures_per_second
    assert later[-1] == pytest.approx(len(later) / per_second, rel=0.1)
    apart = [b - a for a, b in pairwise(later)]
    assert min(apart) == pytest.approx(1 / per_second)


async def test_no_key_is_in_an_answer_or_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    access, good = keyed(ActorLimits(requests_per_minute=1))
    key = good["authorization"].split()[1]
    async with client(None, access) as asked:
        said = [
            await asked.get("/v1/models", headers=good),
            await asked.get("/v1/models", headers=good),
            await asked.get("/v1/models", headers={"x-api-key": key + "x"}),
            await asked.post("/v1/chat/completions", content=b"{", headers=good),
        ]
    out = "".join(capfd.readouterr())
    assert key not in out + "".join(answer.text + str(answer.headers) for answer in said)
    assert json.loads(said[1].text)["error"]["type"] == "rate_limit_error"
