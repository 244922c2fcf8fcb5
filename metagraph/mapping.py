"""Records as quads, and back, losing nothing.

A record's triples stand in the named graph `urn:aigrid:record:` + content id. Nothing is a blank
node: what JSON nests has the IRI of the graph, `#` and its path, such as `#offers-0`. What JSON
says and RDF does not (the order of strings in an array, repetition, emptiness) stands in a graph
`...#form` beside it, and only where it is needed. Who signed, when, and until when, is said of
each record's graph in the graph `aig:provenance`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from pyoxigraph import Literal, NamedNode, Quad

from aigrid.metagraph import terms
from aigrid.metagraph.terms import FREELY_NAMED, TERMS, WITHDRAWN, Form, Term, graph_iri
from aigrid.protocol.canonical import canonical
from aigrid.protocol.kinds import Kind
from aigrid.protocol.record import CONTEXTS

Object = NamedNode | Literal
_STATUS_NAME = "credentialStatus"
_KINDS = {terms.kind_iri(kind): kind for kind in Kind}
_Properties = dict[str, dict[str, list[Any]]]  # subject -> predicate -> objects

_TYPE = NamedNode(terms.RDF + "type")
_VALUE = NamedNode(terms.RDF + "value")
_CREDENTIAL = NamedNode(terms.CRED + "VerifiableCredential")
_ISSUER = NamedNode(terms.CRED + "issuer")
_VALID_FROM = NamedNode(terms.CRED + "validFrom")
_VALID_UNTIL = NamedNode(terms.CRED + "validUntil")
_SUBJECT = NamedNode(terms.CRED + "credentialSubject")
_PROOF = NamedNode(terms.SEC + "proof")
_STATUS = NamedNode(terms.CRED + "credentialStatus")
_EMPTY = NamedNode(terms.EMPTY)
_OPTION_NAME, _OPTION_VALUE = NamedNode(terms.OPTION_NAME), NamedNode(terms.OPTION_VALUE)
_PROVENANCE = NamedNode(terms.PROVENANCE)
_ATTRIBUTED = NamedNode(terms.PROV + "wasAttributedTo")
_GENERATED = NamedNode(terms.PROV + "generatedAtTime")
_INVALIDATED = NamedNode(terms.PROV + "invalidatedAtTime")
_IDENTIFIER = NamedNode(terms.DCT + "identifier")
_JSON = NamedNode(terms.RDF + "JSON")
_DATE_TIME = NamedNode(terms.XSD + "dateTime")
_INTEGER = NamedNode(terms.XSD + "integer")
_DOUBLE = NamedNode(terms.XSD + "double")
_BOOLEAN = NamedNode(terms.XSD + "boolean")
_STRING = terms.XSD + "string"


class MappingError(ValueError):
    """Quads that are not those of one record."""


def form_graph(content_id: str) -> str:
    """Where what RDF cannot say of a record stands."""
    return graph_iri(content_id) + "#form"


def to_quads(raw: bytes, content_id: str) -> list[Quad]:
    """The quads of a verified record, given as its canonical bytes."""
    return list(_Writer(content_id).record(json.loads(raw)))


def provenance_quads(content_id: str, document: Mapping[str, Any]) -> Iterator[Quad]:
    """Issuer, issue time, expiry and content id, said of the record's graph."""
    graph = NamedNode(graph_iri(content_id))
    said: tuple[tuple[NamedNode, Object], ...] = (
        (_ATTRIBUTED, NamedNode(document["issuer"])),
        (_GENERATED, Literal(document["validFrom"], datatype=_DATE_TIME)),
        (_INVALIDATED, Literal(document["validUntil"], datatype=_DATE_TIME)),
        (_IDENTIFIER, Literal(content_id)),
    )
    for predicate, value in said:
        yield Quad(graph, predicate, value, _PROVENANCE)


def from_quads(quads: Iterable[Quad]) -> bytes:
    """The canonical bytes of the one record whose quads these are, in any order.

    Raises:
        MappingError: when they are not.
    """
    try:
        return canonical(_Reader(quads).record())
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise MappingError(f"not the quads of one record: {error}") from error


class _Writer:
    def __init__(self, content_id: str) -> None:
        self._id = content_id
        self._root = graph_iri(content_id)
        self._graph = NamedNode(self._root)
        self._form = NamedNode(form_graph(content_id))

    def record(self, document: dict[str, Any]) -> Iterator[Quad]:
        kind = Kind(document["type"][1])
        body = document["credentialSubject"]
        subject = NamedNode(body["id"])
        envelope: tuple[tuple[NamedNode, Object], ...] = (
            (_TYPE, _CREDENTIAL),
            (_TYPE, NamedNode(terms.kind_iri(kind))),
            (_ISSUER, NamedNode(document["issuer"])),
            (_VALID_FROM, Literal(document["validFrom"], datatype=_DATE_TIME)),
            (_VALID_UNTIL, Literal(document["validUntil"], datatype=_DATE_TIME)),
            (_SUBJECT, subject),
            (_PROOF, _json(document["proof"])),
        )
        for predicate, value in envelope:
            yield self._quad(self._graph, predicate, value)
        if _STATUS_NAME in document:
            entry = Term(_STATUS.value, Form.NODE, fields=terms.ENTRY)
            status = document[_STATUS_NAME]
            yield from self._item(self._graph, _STATUS, _STATUS_NAME, entry, status)
        fields = WITHDRAWN if "withdrawn" in body else TERMS[kind]
        yield from self._members(subject, "", body, fields)
        yield from provenance_quads(self._id, document)

    def _quad(self, subject: NamedNode, predicate: NamedNode, value: Object) -> Quad:
        return Quad(subject, predicate, value, self._graph)

    def _members(
        self, node: NamedNode, path: str, value: Mapping[str, Any], fields: Mapping[str, Term]
    ) -> Iterator[Quad]:
        for name, term in fields.items():
            if name in value:
                yield from self._field(node, f"{path}{name}", term, value[name])

    def _field(self, node: NamedNode, path: str, term: Term, value: Any) -> Iterator[Quad]:
        predicate = NamedNode(term.iri)
        if term.form in FREELY_NAMED:
            if not value:
                yield Quad(node, _EMPTY, predicate, self._form)
            for index, (name, content) in enumerate(value.items()):
                option = NamedNode(f"{self._root}#{path}-{index}")
                yield self._quad(node, predicate, option)
                yield self._quad(option, _OPTION_NAME, Literal(name))
                for one in content if term.form is Form.CHOICES else (content,):
                    yield self._quad(option, _OPTION_VALUE, _scalar(one))
        elif term.form is Form.LABELS:
            for language, text in value.items():
                yield self._quad(node, predicate, Literal(text, language=language))
        elif not term.many:
            yield from self._item(node, predicate, path, term, value)
        elif not value:
            yield Quad(node, _EMPTY, predicate, self._form)
        else:
            for index, item in enumerate(value):
                yield from self._item(node, predicate, f"{path}-{index}", term, item)
            if term.form is not Form.NODE and not _ascending(value):
                yield from self._order(path, term, value)

    def _item(
        self, node: NamedNode, predicate: NamedNode, path: str, term: Term, value: Any
    ) -> Iterator[Quad]:
        if term.form is Form.NODE:
            inner = NamedNode(f"{self._root}#{path}")
            yield self._quad(node, predicate, inner)
            yield from self._members(inner, f"{path}-", value, term.fields)
        else:
            yield self._quad(node, predicate, _object(term, value))

    def _order(self, path: str, term: Term, values: list[Any]) -> Iterator[Quad]:
        for index, value in enumerate(values):
            cell = NamedNode(f"{self._root}#{path}-{index}")
            yield Quad(cell, _VALUE, _object(term, value), self._form)


class _Reader:
    def __init__(self, quads: Iterable[Quad]) -> None:
        graphs: dict[str, _Properties] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        for subject, predicate, value, graph in quads:
            graphs[_iri(graph)][_iri(subject)][_iri(predicate)].append(value)
        graphs.pop(terms.PROVENANCE, None)
        (self._root,) = (iri for iri in graphs if "#" not in iri)
        self._said = graphs.pop(self._root)
        self._form = graphs.pop(self._root + "#form", {})
        if graphs:
            raise MappingError("quads of more than one record")

    def record(self) -> dict[str, Any]:
        envelope = self._said[self._root]
        types = {_iri(value) for value in envelope[_TYPE.value]} - {_CREDENTIAL.value}
        (kind_iri,) = types
        kind = _KINDS[kind_iri]
        (subject,) = envelope[_SUBJECT.value]
        said = self._said[subject.value]
        fields = WITHDRAWN if terms.AIG + "withdrawn" in said else TERMS[kind]
        found = {
            "@context": CONTEXTS,
            "type": ["VerifiableCredential", kind.value],
            "issuer": _only(envelope[_ISSUER.value]).value,
            "validFrom": _time(_only(envelope[_VALID_FROM.value]).value),
            "validUntil": _time(_only(envelope[_VALID_UNTIL.value]).value),
            "credentialSubject": {"id": subject.value, **self._members(subject.value, "", fields)},
            "proof": json.loads(_only(envelope[_PROOF.value]).value),
        }
        if _STATUS.value in envelope:
            entry = self._members(f"{self._root}#{_STATUS_NAME}", f"{_STATUS_NAME}-", terms.ENTRY)
            found[_STATUS_NAME] = entry
        return found

    def _members(self, node: str, path: str, fields: Mapping[str, Term]) -> dict[str, Any]:
        said = self._said.get(node, {})
        found: dict[str, Any] = {}
        empty = {_iri(value) for value in self._form.get(node, {}).get(_EMPTY.value, ())}
        for name, term in fields.items():
            if term.iri in empty:
                found[name] = {} if term.form in FREELY_NAMED else []
            elif term.iri in said:
                found[name] = self._field(f"{path}{name}", term, said[term.iri])
        return found

    def _field(self, path: str, term: Term, values: list[Any]) -> Any:
        if term.form in FREELY_NAMED:
            options = (self._said[option.value] for option in values)
            return {
                _only(option[_OPTION_NAME.value]).value: _chosen(term, option[_OPTION_VALUE.value])
                for option in options
            }
        if term.form is Form.LABELS:
            return {value.language: value.value for value in values}
        if term.form is Form.NODE:
            if not term.many:
                return self._members(f"{self._root}#{path}", f"{path}-", term.fields)
            return [
                self._members(f"{self._root}#{path}-{index}", f"{path}-{index}-", term.fields)
                for index in range(len(values))
            ]
        if not term.many:
            return _value(term, _only(values))
        return self._ordered(path, term) or sorted(_value(term, value) for value in values)

    def _ordered(self, path: str, term: Term) -> list[Any]:
        values: list[Any] = []
        while (cell := f"{self._root}#{path}-{len(values)}") in self._form:
            values.append(_value(term, _only(self._form[cell][_VALUE.value])))
        return values


def _ascending(values: list[Any]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _object(term: Term, value: Any) -> Object:
    if term.form is Form.REFERENCE:
        iri = term.words.get(value) or (value if ":" in value else term.prefix + value)
        return NamedNode(iri)
    if term.form is Form.JSON:
        return _json(value)
    if term.datatype != _STRING:
        return Literal(value, datatype=NamedNode(term.datatype))
    return _scalar(value)


def _value(term: Term, found: Any) -> Any:
    if term.form is Form.REFERENCE:
        iri = _iri(found)
        words = (word for word, meant in term.words.items() if meant == iri)
        return next(words, iri.removeprefix(term.prefix))
    if term.form is Form.JSON:
        return json.loads(found.value)
    return _time(found.value) if found.datatype == _DATE_TIME else _plain(found)


def _chosen(term: Term, values: list[Any]) -> Any:
    return sorted(map(_plain, values)) if term.form is Form.CHOICES else _plain(_only(values))


def _scalar(value: Any) -> Literal:
    if isinstance(value, bool):
        return Literal("true" if value else "false", datatype=_BOOLEAN)
    if isinstance(value, int):
        return Literal(str(value), datatype=_INTEGER)
    if isinstance(value, float):
        return Literal(repr(value), datatype=_DOUBLE)
    return Literal(value)


def _plain(literal: Any) -> Any:
    kind = literal.datatype
    if kind == _BOOLEAN:
        return literal.value in ("true", "1")
    if kind == _INTEGER:
        return int(literal.value)
    if kind == _DOUBLE:
        return float(literal.value)
    return literal.value


def _json(value: Any) -> Literal:
    return Literal(canonical(value).decode("utf-8"), datatype=_JSON)


def _time(text: str) -> str:
    """A time as records spell it; RDF stores drop a fraction of zero."""
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<3}Z"


def _iri(node: Any) -> str:
    if not isinstance(node, NamedNode):
        raise MappingError("a blank node, or a literal where an IRI belongs")
    return node.value


def _only(values: list[Any]) -> Any:
    (value,) = values
    return value
