"""Answers to SELECT and ASK as text. Sources: SPARQL 1.1 Query Results JSON, XML, CSV and TSV.

Rows are written one by one, so that an answer that grows too large is given up while it grows.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import msgspec
from pyoxigraph import BlankNode, Literal, NamedNode, Triple

from aigrid.metagraph.query import AnswerFormat

Row = Sequence[Any]  # a term or None for each variable
_STRING = "http://www.w3.org/2001/XMLSchema#string"
_XML_HEAD = '<?xml version="1.0"?>\n<sparql xmlns="http://www.w3.org/2005/sparql-results#">'


class TooLargeError(Exception):
    """The answer has more rows or bytes than allowed."""


class Bounded:
    """Collects pieces of at most `bytes_max` bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._pieces: list[bytes] = []
        self._left = bytes_max

    def add(self, text: str) -> None:
        piece = text.encode("utf-8")
        self._left -= len(piece)
        if self._left < 0:
            raise TooLargeError("the answer has too many bytes")
        self._pieces.append(piece)

    def whole(self) -> bytes:
        return b"".join(self._pieces)


def capped(items: Iterable[Any], most: int) -> Iterable[Any]:
    """The items, as long as there are no more than `most`. Raises TooLargeError."""
    for count, item in enumerate(items):
        if count >= most:
            raise TooLargeError(f"the answer has more than {most} rows")
        yield item


def truth(value: bool, answer_format: AnswerFormat) -> bytes:  # noqa: FBT001 - what is written
    """The answer to ASK."""
    word = "true" if value else "false"
    if answer_format is AnswerFormat.XML:
        return f"{_XML_HEAD}<head/><boolean>{word}</boolean></sparql>\n".encode()
    return f'{{"head":{{}},"boolean":{word}}}\n'.encode()


def rows(
    names: Sequence[str], found: Iterable[Row], answer_format: AnswerFormat, out: Bounded
) -> None:
    """The answer to SELECT."""
    _WRITERS[answer_format](names, found, out)


def _json(names: Sequence[str], found: Iterable[Row], out: Bounded) -> None:
    out.add(f'{{"head":{{"vars":{_dumps(names)}}},"results":{{"bindings":[')
    comma = ""
    for row in found:
        bound = {n: _json_term(v) for n, v in zip(names, row, strict=True) if v is not None}
        out.add(comma + _dumps(bound))
        comma = ","
    out.add("]}}\n")


def _json_term(term: Any) -> dict[str, Any]:
    match term:
        case NamedNode():
            return {"type": "uri", "value": term.value}
        case BlankNode():
            return {"type": "bnode", "value": term.value}
        case Triple():
            parts = (term.subject, term.predicate, term.object)
            names = ("subject", "predicate", "object")
            return {
                "type": "triple",
                "value": {n: _json_term(part) for n, part in zip(names, parts, strict=True)},
            }
    said = {"type": "literal", "value": term.value}
    if term.language:
        said["xml:lang"] = term.language
    elif term.datatype.value != _STRING:
        said["datatype"] = term.datatype.value
    return said


def _dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode("utf-8")


def _xml(names: Sequence[str], found: Iterable[Row], out: Bounded) -> None:
    head = "".join(f"<variable name={quoteattr(name)}/>" for name in names)
    out.add(f"{_XML_HEAD}<head>{head}</head><results>\n")
    for row in found:
        bound = "".join(
            f"<binding name={quoteattr(name)}>{_xml_term(value)}</binding>"
            for name, value in zip(names, row, strict=True)
            if value is not None
        )
        out.add(f"<result>{bound}</result>\n")
    out.add("</results></sparql>\n")


def _xml_term(term: Any) -> str:
    match term:
        case NamedNode():
            return f"<uri>{_xml_text(term.value)}</uri>"
        case BlankNode():
            return f"<bnode>{_xml_text(term.value)}</bnode>"
        case Triple():
            return (
                f"<triple><subject>{_xml_term(term.subject)}</subject>"
                f"<predicate>{_xml_term(term.predicate)}</predicate>"
                f"<object>{_xml_term(term.object)}</object></triple>"
            )
    said = ""
    if term.language:
        said = f" xml:lang={quoteattr(term.language)}"
    elif term.datatype.value != _STRING:
        said = f" datatype={quoteattr(term.datatype.value)}"
    return f"<literal{said}>{_xml_text(term.value)}</literal>"


def _xml_text(text: str) -> str:
    """Text for XML 1.0, which has no way to write most control characters."""
    kept = "".join(c if c in "\t\n\r" or c >= " " else "\ufffd" for c in text)
    return escape(kept, {"\r": "&#13;"})


def _csv(names: Sequence[str], found: Iterable[Row], out: Bounded) -> None:
    out.add(",".join(map(_csv_field, names)) + "\r\n")
    for row in found:
        out.add(",".join(_csv_field(_csv_term(value)) for value in row) + "\r\n")


def _csv_term(term: Any) -> str:
    if term is None:
        return ""
    return term.value if isinstance(term, NamedNode | Literal) else str(term)


def _csv_field(text: str) -> str:
    if any(c in text for c in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _tsv(names: Sequence[str], found: Iterable[Row], out: Bounded) -> None:
    out.add("\t".join(f"?{name}" for name in names) + "\n")
    for row in found:
        cells = ("" if value is None else str(value).replace("\t", "\\t") for value in row)
        out.add("\t".join(cells) + "\n")


_WRITERS: dict[AnswerFormat, Callable[[Sequence[str], Iterable[Row], Bounded], None]] = {
    AnswerFormat.JSON: _json,
    AnswerFormat.XML: _xml,
    AnswerFormat.CSV: _csv,
    AnswerFormat.TSV: _tsv,
}
