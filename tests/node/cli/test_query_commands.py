"""`aigrid query` and `aigrid export`."""

import errno
import io
import json
from collections import defaultdict

import pytest
from pyoxigraph import RdfFormat, parse
from tests.node.cli.conftest import Cli, ScriptedNode
from tests.protocol.strategies import example

from aigrid.metagraph.mapping import from_quads
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.kinds import Kind

RECORDS = [example(kind) for kind in Kind]
QUERY = "SELECT * {}"


def exporting(node: ScriptedNode) -> None:
    pairs = [(record.content_id, record.raw.decode()) for record in RECORDS]
    node.events["export"] = [{"records": pairs[:2]}, {"records": pairs[2:]}]
    node.answers["export"] = {"records": len(pairs)}


def rebuilt(text: str, rdf: RdfFormat) -> set[bytes]:
    """The records in an export."""
    by_record = defaultdict(list)
    for quad in parse(text, format=rdf):
        graph = str(quad.graph_name)
        key = str(quad.subject) if graph.endswith("#provenance>") else graph
        by_record[key.strip("<>").partition("#")[0]].append(quad)
    return {from_quads(quads) for quads in by_record.values()}


@pytest.mark.parametrize(
    ("name", "rdf"), [("nquads", RdfFormat.N_QUADS), ("jsonld", RdfFormat.JSON_LD)]
)
def test_every_record_can_be_rebuilt_from_an_export(cli: Cli, node: ScriptedNode, name, rdf):
    exporting(node)
    done = cli("export", "--format", name)
    assert done.status == 0
    assert rebuilt(done.out, rdf) == {record.raw for record in RECORDS}


def test_turtle_has_what_was_said_and_not_by_whom(cli: Cli, node: ScriptedNode):
    exporting(node)
    triples = list(parse(cli("export", "--format", "turtle").out, format=RdfFormat.TURTLE))
    assert len(triples) > 50
    assert not any("wasAttributedTo" in str(triple) for triple in triples)


def test_an_export_can_be_counted(cli: Cli, node: ScriptedNode):
    exporting(node)
    assert cli("export", "--json").body == {"records": len(RECORDS)}


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ([], ""),
        (["--format", "csv"], "csv"),
        (["--json"], "json"),
        (["--format", "xml", "--json"], "xml"),
    ],
)
def test_an_answer_is_printed_as_it_is(cli: Cli, node: ScriptedNode, arguments, asked):
    node.answers["query"] = {"media_type": "text/csv", "text": "a\r\n1"}
    done = cli("query", QUERY, *arguments)
    assert (done.status, done.out) == (0, "a\r\n1\n")
    assert node.calls == [("query", {"query": QUERY, "format": asked})]


def test_a_query_comes_from_stdin(cli: Cli, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch):
    node.answers["query"] = {"media_type": "", "text": ""}
    monkeypatch.setattr("sys.stdin", io.StringIO(QUERY))
    assert cli("query", "-").status == 0
    assert node.calls[0][1]["query"] == QUERY


def test_a_refusal_is_a_sentence_and_a_status(cli: Cli, node: ScriptedNode):
    node.answers["query"] = AigridError("Too long", Code.QUERY_TOO_EXPENSIVE)
    done = cli("query", QUERY)
    assert done.status == 1
    assert "limit" in done.err.lower()
    assert json.loads(cli("query", QUERY, "--json").out)["error"]["code"] == "query_too_expensive"
    assert cli("query", " ").status == 2


def test_a_full_disk_is_a_sentence_and_no_crash(
    cli: Cli, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch
):
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    node.answers["query"] = {"media_type": "", "text": "a"}
    monkeypatch.setattr("sys.stdout", Full())
    done = cli("query", QUERY)
    assert done.status == 2
    assert "No space left" in done.err
