"""Commands about the metagraph as RDF: query, export."""

import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aigrid.node.cli.session import Json, print_json, printable, session
from aigrid.protocol.errors import Code, LocalError, UsageError
from aigrid.protocol.limits import LIMITS

if TYPE_CHECKING:
    from pyoxigraph import Quad


class QueryFormat(StrEnum):
    """How to print an answer."""

    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    XML = "xml"
    TURTLE = "turtle"
    NQUADS = "nquads"
    JSONLD = "jsonld"


class ExportFormat(StrEnum):
    """How to print what is known."""

    NQUADS = "nquads"
    TURTLE = "turtle"
    JSONLD = "jsonld"


def query(
    ctx: typer.Context,
    sparql: Annotated[str, typer.Argument(metavar="SPARQL", help="The query; - for stdin.")],
    format_: Annotated[
        QueryFormat | None,
        typer.Option("--format", help="Default: json, and turtle for CONSTRUCT and DESCRIBE."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Ask what the grid knows, in SPARQL."""
    if sparql == "-":
        sparql = sys.stdin.read(LIMITS.query_max_bytes + 1)
    if not sparql.strip():
        raise UsageError("the query is empty: give `aigrid query` a SPARQL query")
    wanted = QueryFormat.JSON if as_json and format_ is None else format_
    params = {"query": sparql, "format": "" if wanted is None else wanted.value}
    _write(session(ctx).call("query", params)["text"])


def export(
    ctx: typer.Context,
    format_: Annotated[
        ExportFormat,
        typer.Option("--format", help="turtle has no graphs, so it does not say who said what."),
    ] = ExportFormat.NQUADS,
    *,
    as_json: Json = False,
) -> None:
    """Print every record this node believes, as RDF.

    With --json, how many there are.
    """
    from aigrid.metagraph.mapping import to_quads

    gathered: list[Quad] = []

    def on_event(event: dict[str, Any]) -> None:
        quads = [
            quad
            for content_id, raw in event["records"]
            for quad in to_quads(raw.encode("utf-8"), content_id)
        ]
        if as_json:
            return
        if format_ is ExportFormat.JSONLD:
            gathered.extend(quads)  # one document
        else:
            _write(_serialized(quads, format_))

    body = session(ctx).call("export", {}, on_event)
    if as_json:
        print_json(body)
    elif format_ is ExportFormat.JSONLD:
        _write(_serialized(gathered, format_))


def _serialized(quads: "Iterable[Quad]", export_format: ExportFormat) -> str:
    from pyoxigraph import RdfFormat, serialize

    from aigrid.metagraph.terms import RECORD_URN

    if export_format is ExportFormat.TURTLE:
        triples = (
            quad.triple
            for quad in quads
            if (graph := str(quad.graph_name)).startswith(f"<{RECORD_URN}") and "#" not in graph
        )
        text = serialize(triples, format=RdfFormat.TURTLE)
    else:
        as_jsonld = export_format is ExportFormat.JSONLD
        text = serialize(quads, format=RdfFormat.JSON_LD if as_jsonld else RdfFormat.N_QUADS)
    return "" if text is None else text.decode("utf-8")


def _write(text: str) -> None:
    """Print as it is into a file or pipe; a terminal gets no control characters."""
    try:
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        if not text.endswith("\n"):
            sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        problem = f"cannot write the answer: {error.strerror}; write it somewhere else"
        raise LocalError(problem, Code.ENVIRONMENT) from None
