"""`query` and `export` as the control socket serves them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tests.metagraph.world import (
    ANN,
    MINUTE_MS,
    NOW,
    OWN,
    manifest,
    node_record,
    with_members,
    withdrawal,
)

from aigrid.metagraph.query import check_query
from aigrid.node.commands.commands import NodeCommands
from aigrid.node.querying import QueryAnswer
from aigrid.protocol.errors import InvalidRequestError, UsageError
from aigrid.protocol.kinds import Kind


class Queries:
    async def query(self, text: str, accepted: Any) -> QueryAnswer:
        from aigrid.metagraph.query import formats_of

        form = check_query(text)
        fitting = formats_of(form)
        chosen = next((wanted for wanted in accepted if wanted in fitting), fitting[0])
        return QueryAnswer(form, chosen, text.encode())


async def ignore(_event: dict[str, Any]) -> None:
    pass


def commands(graph: Any = None) -> NodeCommands:
    node: Any = SimpleNamespace(graph=graph, querying=Queries(), now_ms=lambda: NOW)
    return NodeCommands(node)


@pytest.mark.parametrize(
    ("query", "name", "media_type"),
    [
        ("ASK {}", "", "application/sparql-results+json"),
        ("ASK {}", "xml", "application/sparql-results+xml"),
        ("SELECT * {}", "tsv", "text/tab-separated-values"),
        ("DESCRIBE <x:y>", "json", "application/ld+json"),
        ("DESCRIBE <x:y>", "nquads", "application/n-quads"),
    ],
)
async def test_a_query_is_answered_in_the_named_format(query, name, media_type):
    answer = await commands().call("query", {"query": query, "format": name}, ignore)
    assert answer == {"media_type": media_type, "text": query}


@pytest.mark.parametrize(
    ("query", "name"), [("ASK {}", "csv"), ("SELECT * {}", "turtle"), ("ASK {}", "x")]
)
async def test_a_format_that_does_not_fit_is_an_error(query, name):
    with pytest.raises(UsageError):
        await commands().call("query", {"query": query, "format": name}, ignore)


async def test_everything_that_is_believed_is_exported():
    graph = with_members(ANN)
    about = manifest(ANN)
    for record in (
        node_record(ANN),
        about,
        withdrawal(Kind.MODEL, about.subject, ANN, NOW + 1, 100 * MINUTE_MS),
    ):
        graph.ingest(record.raw, now_ms=NOW, received_from=None)
    said: list[Any] = []

    async def emit(event: dict[str, Any]) -> None:
        said.extend(event["records"])

    assert await commands(graph).call("export", {}, emit) == {"records": 2}
    assert {content_id for content_id, _ in said} == {r.content_id for r in graph.live_records(NOW)}
    assert all(json.loads(raw)["proof"] for _, raw in said)


def publisher() -> tuple[NodeCommands, Any]:
    graph = with_members()
    node: Any = SimpleNamespace(graph=graph, identity=OWN, now_ms=lambda: NOW)
    return NodeCommands(node), graph


NEW = {"name": "legal", "broader": ["summarization"], "labels": {"en": "Legal"}}


async def test_a_capability_is_published_and_withdrawn():
    node, graph = publisher()
    iri = f"{OWN.did}#legal"
    answer = await node.call("capability_publish", {**NEW, "input_schema": {"a": 1}}, ignore)
    assert answer["capability"] == iri
    assert graph.index.concepts.known(iri, NOW)
    below = {"name": "court", "broader": [iri], "labels": {"de": "Gericht"}}
    await node.call("capability_publish", below, ignore)
    assert graph.index.concepts.known(f"{OWN.did}#court", NOW)
    assert (await node.call("capability_withdraw", {"name": iri}, ignore))["capability"] == iri
    assert not graph.index.concepts.known(f"{OWN.did}#court", NOW)
    with pytest.raises(InvalidRequestError):
        await node.call("capability_withdraw", {"name": "legal"}, ignore)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Le gal"},
        {"name": ""},
        {"broader": ["unheard-of"]},
        {"broader": []},
        {"labels": {}},
        {"labels": {"en": "\x1b"}},
        {"labels": {"klingon": "Legal"}},
        {"name": "\udcff"},
        {"labels": {"en": "\udcff"}},
    ],
)
async def test_what_is_no_capability_is_a_usage_error(change):
    node, _ = publisher()
    with pytest.raises(UsageError):
        await node.call("capability_publish", {**NEW, **change}, ignore)


async def test_the_language_of_a_label_may_be_written_as_usual():
    node, graph = publisher()
    await node.call("capability_publish", {**NEW, "labels": {"pt-BR": "Direito"}}, ignore)
    (record,) = (r for r in graph.live_records(NOW) if r.kind is Kind.CAPABILITY)
    assert record.body.labels == {"pt-br": "Direito"}


async def test_a_name_that_is_none_is_answered_with_what_a_name_is():
    node, _ = publisher()
    with pytest.raises(UsageError, match=r"Le_gal.*legal-summarization"):
        await node.call("capability_publish", {**NEW, "name": "Le_gal"}, ignore)


async def test_a_capability_of_anothers_does_not_stand_for_ones_own_of_that_name():
    node, graph = publisher()
    await node.call("capability_publish", NEW, ignore)
    for name in (f"{ANN.did}#legal", "x#legal"):
        with pytest.raises(UsageError):
            await node.call("capability_withdraw", {"name": name}, ignore)
    assert graph.index.concepts.known(f"{OWN.did}#legal", NOW)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("query", {"query": "ASK {} #\udcff"}),
        ("record_show", {"id": "\udcff"}),
        ("capability_withdraw", {"name": "\udcff"}),
    ],
)
async def test_what_is_no_text_is_a_usage_error(method, params):
    node, _ = publisher()
    with pytest.raises(UsageError):
        await node.call(method, params, ignore)
