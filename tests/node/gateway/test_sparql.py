"""SPARQL 1.1 Protocol over the gateway."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio
from tests.node.gateway.double import NOW_MS, ScriptedMesh, authenticator, tokens

from aigrid.metagraph.query import AnswerFormat, check_query, formats_of
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.gateway import Gateway
from aigrid.node.gateway.sparql import accepted
from aigrid.node.querying import QueryAnswer
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS

ASK = "ASK { ?s ?p 'ü+&' }"
FORM = {"content-type": "application/x-www-form-urlencoded"}
QUERY = {"content-type": "application/sparql-query"}


class Asked:
    """Remembers what was asked, and answers with the name of the format."""

    def __init__(self, problem: AigridError | None = None) -> None:
        self.texts: list[str] = []
        self._problem = problem

    async def query(self, text: str, accepted: Sequence[AnswerFormat]) -> QueryAnswer:
        form = check_query(text)
        if self._problem is not None:
            raise self._problem
        self.texts.append(text)
        fitting = formats_of(form)
        chosen = next((wanted for wanted in accepted if wanted in fitting), fitting[0])
        return QueryAnswer(form, chosen, chosen.name.encode())


async def send(
    method: str, *, asked: Asked | None = None, target: str = "/sparql", **sent: Any
) -> httpx.Response:
    core = GatewayCore(ScriptedMesh(), status=dict, now_ms=lambda: NOW_MS, token=tokens())
    served = Gateway(core, "127.0.0.1", 0, auth=authenticator(), queries=asked or Asked())
    async with trio.open_nursery() as nursery:
        address = await nursery.start(served.run)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.request(method, f"http://{address}{target}", **sent)
        nursery.cancel_scope.cancel()
    return answer


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, json.loads(answer.content)["error"]["code"]


@pytest.mark.parametrize(
    ("method", "sent"),
    [
        ("GET", {"params": {"query": ASK}}),
        ("POST", {"data": {"query": ASK}}),
        ("POST", {"content": ASK.encode(), "headers": QUERY}),
        (
            "POST",
            {"content": ASK.encode(), "headers": {"content-type": "Application/SPARQL-Query; x=y"}},
        ),
    ],
)
async def test_the_three_ways_to_ask(method, sent):
    asked = Asked()
    answer = await send(method, asked=asked, **sent)
    assert (answer.status_code, answer.content) == (200, b"JSON")
    assert answer.headers["content-type"] == "application/sparql-results+json"
    assert asked.texts == [ASK]


@pytest.mark.parametrize(
    ("header", "query", "media_type"),
    [
        ("", "SELECT * {}", "application/sparql-results+json"),
        ("*/*", "SELECT * {}", "application/sparql-results+json"),
        ("text/csv", "SELECT * {}", "text/csv"),
        ("text/csv;q=0.5, text/tab-separated-values", "SELECT * {}", "text/tab-separated-values"),
        ("application/sparql-results+xml", "ASK {}", "application/sparql-results+xml"),
        ("text/html, application/xml;q=0.9, */*;q=0.8", "ASK {}", "application/sparql-results+xml"),
        ("text/csv", "ASK {}", "application/sparql-results+json"),
        ("*/*", "DESCRIBE <x:y>", "text/turtle"),
        ("application/n-quads", "DESCRIBE <x:y>", "application/n-quads"),
        ("application/ld+json", "CONSTRUCT WHERE {}", "application/ld+json"),
        ("application/json", "CONSTRUCT WHERE {}", "application/ld+json"),
        ("application/json", "SELECT * {}", "application/sparql-results+json"),
        (
            "text/csv;q=0, text/tab-separated-values;q=x",
            "SELECT * {}",
            "application/sparql-results+json",
        ),
    ],
)
async def test_the_answer_is_in_the_format_asked_for(header, query, media_type):
    answer = await send("GET", params={"query": query}, headers={"accept": header})
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["vary"] == "accept"


@pytest.mark.parametrize(
    ("method", "sent", "expected"),
    [
        ("GET", {}, (400, "query_malformed")),
        ("GET", {"params": {"query": ["ASK {}", "ASK {}"]}}, (400, "query_malformed")),
        ("GET", {"target": "/sparql?query=%ff"}, (400, "query_malformed")),
        ("GET", {"params": {"query": "nonsense"}}, (400, "query_malformed")),
        ("GET", {"params": {"query": ASK, "default-graph-uri": "x:y"}}, (400, "query_refused")),
        ("POST", {"data": {"query": ASK, "named-graph-uri": "x:y"}}, (400, "query_refused")),
        ("POST", {"data": {"update": "DROP ALL"}}, (400, "query_refused")),
        ("POST", {"data": {"query": "DROP ALL"}}, (400, "query_refused")),
        (
            "POST",
            {"content": b"DROP ALL", "headers": {"content-type": "application/sparql-update"}},
            (400, "query_refused"),
        ),
        (
            "POST",
            {
                "content": b"ASK {}",
                "headers": QUERY,
                "target": f"/sparql?using-graph-uri={quote('x:y')}",
            },
            (400, "query_refused"),
        ),
        ("POST", {"content": b"ASK {}"}, (415, "unsupported_media_type")),
        ("POST", {"json": {"query": ASK}}, (415, "unsupported_media_type")),
        (
            "POST",
            {"content": b"ASK {}", "headers": {**QUERY, "content-encoding": "gzip"}},
            (415, "unsupported_media_type"),
        ),
        ("POST", {"content": b"\xff", "headers": QUERY}, (400, "query_malformed")),
        ("POST", {"content": b"a=1&" * 20, "headers": FORM}, (400, "query_malformed")),
        ("POST", {"content": b"#" * 10_000_000, "headers": QUERY}, (413, "body_too_large")),
        (
            "POST",
            {"content": b"#" * (LIMITS.query_max_bytes + 1), "headers": QUERY},
            (400, "query_refused"),
        ),
        ("PUT", {"content": b"ASK {}", "headers": QUERY}, (405, "method_not_allowed")),
        (
            "GET",
            {"params": {"query": ASK}, "headers": {"origin": "http://evil.example"}},
            (403, "origin_not_allowed"),
        ),
        (
            "POST",
            {"data": {"query": ASK}, "headers": {"host": "evil.example"}},
            (403, "host_not_allowed"),
        ),
    ],
)
async def test_what_is_not_answered_says_why(method, sent, expected):
    asked = Asked()
    assert code(await send(method, asked=asked, **sent)) == expected
    assert asked.texts == []


async def test_what_came_of_it_has_its_status():
    problem = AigridError("too long", Code.QUERY_TOO_EXPENSIVE)
    answer = await send("GET", asked=Asked(problem), params={"query": ASK})
    assert code(answer) == (503, "query_too_expensive")


async def test_a_form_may_escape_a_query_of_full_length():
    text = "ASK {} #" + "ü" * ((LIMITS.query_max_bytes - 8) // 2)
    asked = Asked()
    answer = await send("POST", asked=asked, data={"query": text})
    assert answer.status_code == 200
    assert asked.texts == [text]


def test_an_accept_header_may_be_anything():
    assert accepted(";;q=,,,*;q=1;") == ()
    assert accepted("TEXT/CSV ; q=0.2 , text/turtle;charset=utf-8;q=0.3") == (
        AnswerFormat.TURTLE,
        AnswerFormat.CSV,
    )


async def test_who_posts_another_type_is_told_those_of_this_path():
    answer = await send("POST", asked=Asked(), json={"query": ASK})
    message = answer.json()["error"]["message"]
    assert "application/sparql-query" in message
    assert "application/json" not in message
