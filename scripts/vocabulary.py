"""Makes the generated files of metagraph/vocabulary: `--write` or `--check`.

`capabilities.ttl` follows `capabilities.json`; `context.jsonld` and `shapes.ttl` follow the table
in `metagraph/terms.py` and the bodies in `protocol/kinds.py`. Bytes depend on these alone.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from aigrid.metagraph import terms
from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.terms import (
    AIG,
    CAPABILITY,
    FREELY_NAMED,
    PREFIXES,
    SCOPED,
    TERMS,
    WITHDRAWN,
    Form,
    Term,
    kind_iri,
)
from aigrid.protocol.canonical import canonical
from aigrid.protocol.kinds import KINDS, Kind, WithdrawnBody
from aigrid.protocol.limits import LIMITS

FOLDER = Path(__file__).parents[1] / "metagraph" / "vocabulary"
SHACL = "http://www.w3.org/ns/shacl#"
INTEGER_MAX = 2**53 - 1


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def curie(iri: str) -> str:
    for prefix, namespace in PREFIXES.items():
        if iri.startswith(namespace):
            return f"{prefix}:{iri.removeprefix(namespace)}"
    return f"<{iri}>"


def prefixes(*more: str) -> str:
    lines = [f"@prefix {name}: <{iri}> .\n" for name, iri in PREFIXES.items()]
    return "".join([*lines, *more, "\n"])


def json_literal(value: Any) -> str:
    return f"{quoted(canonical(value).decode())}^^rdf:JSON"


def capabilities() -> str:
    """SKOS, a concept for each capability."""
    concepts = default_taxonomy().concepts.values()
    scheme = f"<{CAPABILITY.removesuffix('/')}>"
    top = ", ".join(f"cap:{concept.name}" for concept in concepts if not concept.broader)
    head = (
        f"{scheme} a skos:ConceptScheme ;\n"
        '    dct:title "Capabilities of models on an AIGrid"@en ;\n'
        "    dct:license <https://spdx.org/licenses/Apache-2.0> ;\n"
        f"    skos:hasTopConcept {top} .\n"
    )
    parts = [prefixes(), head]
    for concept in concepts:
        said = [f"skos:inScheme {scheme}", f"skos:prefLabel {quoted(concept.label)}@en"]
        if concept.broader:
            said.append("skos:broader " + ", ".join(f"cap:{name}" for name in concept.broader))
        else:
            said.append(f"skos:topConceptOf {scheme}")
        if concept.tag:
            said.append(f"skos:notation {quoted(concept.name)}")
        if concept.input:
            said.append(f"aig:inputSchema {json_literal(concept.input)}")
        if concept.output:
            said.append(f"aig:outputSchema {json_literal(concept.output)}")
        if concept.parameters:
            said.append(f"aig:parametersSchema {json_literal(concept.parameters)}")
        parts.append(
            f"\ncap:{concept.name} a skos:Concept ;\n    " + " ;\n    ".join(said) + " .\n"
        )
    return "".join(parts)


def context() -> str:
    """The JSON-LD context of https://w3id.org/aigrid/v1, to be used after that of credentials."""
    said: dict[str, Any] = {
        kind.value: scoped(kind) if kind in SCOPED else kind_iri(kind)
        for kind in TERMS
        if kind_iri(kind).startswith(AIG)  # else the context of credentials has it
    }
    said["RequestPresentation"] = terms.PRESENTATION
    request = Term(terms.REQUEST, Form.NODE, fields=terms.BINDING)
    common = (fields for kind, fields in TERMS.items() if kind not in SCOPED)
    for fields in (*common, WITHDRAWN, terms.ENTRY, {"request": request}):
        for name, term in context_fields(fields):
            if said.setdefault(name, term) != term:
                raise SystemExit(f"{name} stands for two things")
    return json.dumps({"@context": {"@version": 1.1, **said}}, indent=1) + "\n"


def scoped(kind: Kind) -> Any:
    """A kind whose fields are defined for it alone.

    The kind is said of the credential, so that the definitions have to reach into its subject.
    They do as long as the name is less than "VerifiableCredential", whose own reach no further.
    """
    assert kind.value < "VerifiableCredential"
    fields = dict(context_fields(TERMS[kind]))
    return {"@id": kind_iri(kind), "@context": {"@propagate": True, **fields}}


def context_fields(fields: Mapping[str, Term]) -> Iterator[tuple[str, Any]]:
    for name, term in fields.items():
        if not term.elsewhere:
            yield name, context_term(name, term)


def context_term(name: str, term: Term) -> Any:
    """The definition of a term.

    Names that a prefix completes are read in a context that has no other terms, lest a capability
    called "license" be taken for the property. The field's own name stays a term there.
    """
    said: dict[str, Any] = {"@id": term.iri}
    if term.many:
        said["@container"] = "@set"
    match term.form:
        case Form.REFERENCE if term.prefix or term.words:
            said["@type"] = "@vocab"
            words = {"@vocab": term.prefix, **term.words} if term.prefix else term.words
            said["@context"] = [None, {**words, name: dict(said)}]
        case Form.REFERENCE:
            said["@type"] = "@id"
        case Form.JSON | Form.OPTIONS | Form.CHOICES:
            said["@type"] = "@json"
        case Form.LABELS:
            said["@container"] = "@language"
        case Form.TEXT if term.datatype != terms.XSD + "string":
            said["@type"] = term.datatype
        case Form.NODE:
            said["@context"] = dict(context_fields(term.fields))
    return term.iri if said == {"@id": term.iri} else said


def shapes() -> str:
    """SHACL: one shape for the credentials of each kind, to be run on one record's graph."""
    parts = [prefixes(f"@prefix sh: <{SHACL}> .\n")]
    for kind, fields in TERMS.items():
        body = node_shape(KINDS[kind].body, fields, "        ")
        withdrawn = node_shape(WithdrawnBody, WITHDRAWN, "        ")
        parts.append(
            f"aig:{kind.value}Shape a sh:NodeShape ;\n"
            f"    sh:targetClass {curie(kind_iri(kind))} ;\n"
            "    sh:nodeKind sh:IRI ;\n"
            "    sh:property [ sh:path cred:issuer ; sh:nodeKind sh:IRI ;"
            ' sh:pattern "^did:key:z" ; sh:minCount 1 ; sh:maxCount 1 ] ;\n'
            + "".join(
                f"    sh:property [ sh:path {path} ; sh:datatype {kind_} ;"
                " sh:minCount 1 ; sh:maxCount 1 ] ;\n"
                for path, kind_ in (
                    ("cred:validFrom", "xsd:dateTime"),
                    ("cred:validUntil", "xsd:dateTime"),
                    ("sec:proof", "rdf:JSON"),
                )
            )
            + status_shape(KINDS[kind].status)
            + "    sh:property [ sh:path cred:credentialSubject ; sh:minCount 1 ; sh:maxCount 1 ;\n"
            f"      sh:or (\n        {body}\n        {withdrawn}\n      ) ] .\n\n"
        )
    return "".join(parts)


def status_shape(rule: str) -> str:
    """Of the `credentialStatus`, which is no struct."""
    if rule == "never":
        return "    sh:property [ sh:path cred:credentialStatus ; sh:maxCount 0 ] ;\n"
    one = "sh:minCount 1 ; sh:maxCount 1"
    most = LIMITS.status_age_max_seconds
    age = f"sh:datatype xsd:integer ; sh:minInclusive 1 ; sh:maxInclusive {most}"
    inner = (
        f"sh:path status:statusListIndex ; sh:datatype xsd:string ; {one}",
        f"sh:path status:statusListCredential ; sh:nodeKind sh:IRI ; {one}",
        f'sh:path status:statusPurpose ; sh:hasValue "revocation" ; {one}',
        f"sh:path aig:maxStatusAge ; {age} ; {one}",
    )
    count = one if rule == "required" else "sh:maxCount 1"
    return (
        f"    sh:property [ sh:path cred:credentialStatus ; {count} ;\n"
        "      sh:class status:BitstringStatusListEntry ;\n      sh:node [ "
        + " ;\n        ".join(f"sh:property [ {said} ]" for said in inner)
        + " ] ] ;\n"
    )


def node_shape(struct: type[msgspec.Struct], fields: Mapping[str, Term], indent: str) -> str:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    said = ["sh:nodeKind sh:IRI"]
    said += [
        property_shape(field, fields[field.encode_name], indent + "  ")
        for field in info.fields
        if field.encode_name != "id"
    ]
    return "[ " + f" ;\n{indent}  ".join(said) + " ]"


def property_shape(field: inspect.Field, term: Term, indent: str) -> str:
    said = [f"sh:path {curie(term.iri)}"]
    kind = field.type
    if isinstance(kind, inspect.VarTupleType):
        if kind.max_length is not None:
            said.append(f"sh:maxCount {kind.max_length}")
        if kind.min_length:
            said.append("sh:minCount 1")
        kind = kind.item_type
    elif term.form is Form.LABELS and isinstance(kind, inspect.DictType):
        said += [f"sh:minCount 1 ; sh:maxCount {kind.max_length}", "sh:uniqueLang true"]
        said.append("sh:datatype rdf:langString")
        kind = kind.value_type
    elif term.form not in FREELY_NAMED:
        said.append("sh:minCount 1 ; sh:maxCount 1" if field.required else "sh:maxCount 1")
    said += value_shape(kind, term, indent)
    return f"sh:property [ {' ; '.join(said)} ]"


def value_shape(kind: inspect.Type, term: Term, indent: str) -> list[str]:
    match term.form:
        case Form.NODE:
            assert isinstance(kind, inspect.StructType)
            return [f"\n{indent}sh:node {node_shape(kind.cls, term.fields, indent)}"]
        case Form.OPTIONS | Form.CHOICES:
            some = "sh:minCount 1 ; sh:nodeKind sh:Literal"
            one = "sh:minCount 1 ; sh:maxCount 1 ; sh:nodeKind sh:Literal"
            values = one if term.form is Form.OPTIONS else some
            return [
                f"sh:property [ sh:path schema:propertyID ; {one} ]",
                f"sh:property [ sh:path schema:value ; {values} ]",
            ]
        case Form.REFERENCE:
            return ["sh:nodeKind sh:IRI"]
        case Form.JSON:
            return ["sh:datatype rdf:JSON"]
        case Form.TRUTH:
            said = ["sh:datatype xsd:boolean"]
            return said if isinstance(kind, inspect.BoolType) else [*said, "sh:hasValue true"]
        case Form.NUMBER:
            assert isinstance(kind, inspect.IntType)
            most = INTEGER_MAX if kind.le is None else int(kind.le)
            return [f"sh:datatype xsd:integer ; sh:minInclusive {kind.ge} ; sh:maxInclusive {most}"]
    return text_shape(kind, term)


def text_shape(kind: inspect.Type, term: Term) -> list[str]:
    said = [] if term.form is Form.LABELS else [f"sh:datatype {curie(term.datatype)}"]
    if term.datatype == terms.XSD + "dateTime":
        return said
    if isinstance(kind, inspect.LiteralType):
        return [*said, f"sh:in ( {' '.join(quoted(str(value)) for value in kind.values)} )"]
    assert isinstance(kind, inspect.StrType)
    if kind.min_length:
        said.append(f"sh:minLength {kind.min_length}")
    if kind.max_length is not None:
        said.append(f"sh:maxLength {kind.max_length}")
    return said


FILES: dict[str, Callable[[], str]] = {
    "capabilities.ttl": capabilities,
    "context.jsonld": context,
    "shapes.ttl": shapes,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the files")
    action.add_argument("--check", action="store_true", help="exit 1 when one differs")
    write = parser.parse_args().write
    stale = []
    for name, made in FILES.items():
        path, text = FOLDER / name, made()
        if write:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"stale: {', '.join(stale)}: python -m scripts.vocabulary --write", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
