"""The vocabularies that records use, and what a field of a record can become in RDF."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

AIG: Final = "https://w3id.org/aigrid/ns#"
CAPABILITY: Final = "https://w3id.org/aigrid/capability/"

CRED: Final = "https://www.w3.org/2018/credentials#"
DCAT: Final = "http://www.w3.org/ns/dcat#"
DCT: Final = "http://purl.org/dc/terms/"
FAIR4ML: Final = "https://w3id.org/fair4ml#"
ODRL: Final = "http://www.w3.org/ns/odrl/2/"
PROV: Final = "http://www.w3.org/ns/prov#"
RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SCHEMA: Final = "https://schema.org/"
SEC: Final = "https://w3id.org/security#"
SKOS: Final = "http://www.w3.org/2004/02/skos/core#"
STATUS: Final = "https://www.w3.org/ns/credentials/status#"
XSD: Final = "http://www.w3.org/2001/XMLSchema#"

PREFIXES: Final[Mapping[str, str]] = {
    "aig": AIG,
    "cap": CAPABILITY,
    "cred": CRED,
    "dcat": DCAT,
    "dct": DCT,
    "fair4ml": FAIR4ML,
    "odrl": ODRL,
    "prov": PROV,
    "rdf": RDF,
    "schema": SCHEMA,
    "sec": SEC,
    "skos": SKOS,
    "status": STATUS,
    "xsd": XSD,
}


class Form(Enum):
    """How a JSON value becomes objects of triples."""

    TEXT = "a string"
    NUMBER = "an integer"
    TRUTH = "a boolean"
    REFERENCE = "a string that is an IRI, or one once `prefix` stands before it"
    LABELS = "strings by language"
    JSON = "any JSON, as one rdf:JSON literal"
    NODE = "an object: a node of its own"
    OPTIONS = "an object of scalars with free names: a node for each member"
    CHOICES = "an object of arrays of strings that ascend, likewise"


@dataclass(frozen=True, slots=True)
class Term:
    """What stands for a field.

    Attributes:
        iri: the property.
        prefix: see `Form.REFERENCE`; a value with a colon in it is an IRI already.
        many: the field is an array.
        fields: of the node, for `Form.NODE`.
        words: values that stand for an IRI of their own, for `Form.REFERENCE`.
        datatype: of the literal, for `Form.TEXT`.
        elsewhere: the context of verifiable credentials defines the name, and protects it.
    """

    iri: str
    form: Form = Form.TEXT
    prefix: str = ""
    many: bool = False
    fields: Mapping[str, "Term"] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    datatype: str = XSD + "string"
    elsewhere: bool = False


def number(iri: str) -> Term:
    """An integer."""
    return Term(iri, Form.NUMBER)


def numbers(iri: str) -> Term:
    """An array of integers."""
    return Term(iri, Form.NUMBER, many=True)


def node(iri: str, fields: Mapping[str, Term]) -> Term:
    """An object."""
    return Term(iri, Form.NODE, fields=fields)


def nodes(iri: str, fields: Mapping[str, Term]) -> Term:
    """An array of objects."""
    return Term(iri, Form.NODE, many=True, fields=fields)
