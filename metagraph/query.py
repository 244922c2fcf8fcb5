"""What may be asked in SPARQL: checked on the tokens of a query, before anything evaluates it.

This is the friendly half. That a query which slips through reaches neither network nor files is
seen to by the process that evaluates it (`dataset_worker.py`).
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.limits import LIMITS

_TOKEN = re.compile(
    r"""
      (?P<skip> \s+ | \#[^\n\r]* )
    | (?P<iri> <[^<>"{}|^`\\\x00-\x20]*> )
    | (?P<string> \"{3} (?: [^"\\] | \\. | "(?!"") )* \"{3}
        | '{3} (?: [^'\\] | \\. | '(?!'') )* '{3}
        | " (?: [^"\\\n\r] | \\. )* " | ' (?: [^'\\\n\r] | \\. )* ' )
    | (?P<variable> [?$] \w+ )
    | (?P<name> [^\W\d] [\w.-]*+ ) (?P<local> : (?: [\w.:%-] | \\. )*+ )?
    | (?P<local_only> : (?: [\w.:%-] | \\. )*+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_PARTS = re.compile(r"[.-]")
_UPDATES = frozenset(
    {"INSERT", "DELETE", "LOAD", "CLEAR", "CREATE", "DROP", "COPY", "MOVE", "ADD", "WITH"}
)


class QueryForm(StrEnum):
    """The four ways to ask."""

    SELECT = "SELECT"
    ASK = "ASK"
    CONSTRUCT = "CONSTRUCT"
    DESCRIBE = "DESCRIBE"


class AnswerFormat(StrEnum):
    """How an answer is written; the value is the media type."""

    JSON = "application/sparql-results+json"
    XML = "application/sparql-results+xml"
    CSV = "text/csv"
    TSV = "text/tab-separated-values"
    TURTLE = "text/turtle"
    NQUADS = "application/n-quads"
    JSONLD = "application/ld+json"


ROWS: Final = (AnswerFormat.JSON, AnswerFormat.XML, AnswerFormat.CSV, AnswerFormat.TSV)
TRUTH: Final = (AnswerFormat.JSON, AnswerFormat.XML)
TRIPLES: Final = (AnswerFormat.TURTLE, AnswerFormat.NQUADS, AnswerFormat.JSONLD)


def formats_of(form: QueryForm) -> tuple[AnswerFormat, ...]:
    """The formats in which an answer to such a query can be had, the usual one first."""
    if form is QueryForm.SELECT:
        return ROWS
    return TRUTH if form is QueryForm.ASK else TRIPLES


def check_query(text: str) -> QueryForm:
    """How a query asks.

    Raises:
        InvalidRequestError: `query_refused` for one that is too long, is an update, or reaches
            beyond this node's data; `query_malformed` for one without a form.
    """
    size = len(text.encode("utf-8", "replace"))
    if size > LIMITS.query_max_bytes:
        raise _refused(f"The query is {size} bytes long; {LIMITS.query_max_bytes} are allowed.")
    form: QueryForm | None = None
    for name, prefixes in _names(text):
        # Parsers find the keyword in `SERVICE:x`, `SERVICESILENT` and `1e5SERVICE`, too.
        if "SERVICE" in name:
            raise _refused("A query may not ask other services (SERVICE).")
        if prefixes:
            continue
        words = _PARTS.split(name)
        if "FROM" in words:
            raise _refused("A query may not name its own data (FROM).")
        if form is None and words[0] in _UPDATES:
            raise _refused(f"The data cannot be changed by a query ({words[0]}).")
        if form is None and words[0] in QueryForm.__members__:
            form = QueryForm(words[0])
    if form is None:
        raise InvalidRequestError(
            "The query has none of SELECT, ASK, CONSTRUCT and DESCRIBE.",
            Code.QUERY_MALFORMED,
            param="query",
        )
    return form


def _names(text: str) -> Iterator[tuple[str, bool]]:
    """Names that are neither in a string, an IRI nor a comment, and whether each is a prefix."""
    for match in _TOKEN.finditer(text):
        if match["name"] is not None:
            yield match["name"].upper(), match["local"] is not None
        elif match["other"] is not None and match["other"] in "\"'":
            # Not gone on with: looking for the end of each of many open strings takes for ever.
            raise InvalidRequestError(
                f"A string that begins at character {match.start() + 1} does not end.",
                Code.QUERY_MALFORMED,
                param="query",
            )


def _refused(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, Code.QUERY_REFUSED, param="query")
