"""The ontology, the taxonomy, the JSON-LD context and the shapes agree with the records."""

import json
from importlib import resources
from typing import Any

import pyshacl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyld import jsonld
from pyoxigraph import (
    BlankNode,
    CanonicalizationAlgorithm,
    Dataset,
    NamedNode,
    Quad,
    RdfFormat,
    parse,
    serialize,
)
from rdflib import Graph
from scripts import vocabulary
from tests.protocol.strategies import example, records

from aigrid.metagraph import terms
from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.mapping import to_quads
from aigrid.metagraph.terms import graph_iri
from aigrid.protocol.credential_kinds import ACTIONS, GrantBody, status_list_of
from aigrid.protocol.kinds import Kind
from aigrid.protocol.record import CONTEXTS, Record

ALL = pytest.mark.parametrize("kind", list(Kind))
FEW = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
OPTION = {terms.AIG + "option", terms.AIG + "parameter", terms.OPTION_NAME, terms.OPTION_VALUE}


@pytest.mark.parametrize("name", list(vocabulary.FILES))
def test_generated_files_are_fresh(name):
    made = vocabulary.FILES[name]()
    assert (vocabulary.FOLDER / name).read_text(encoding="utf-8") == made


def turtle(name: str) -> list[Any]:
    return list(parse(path=vocabulary.FOLDER / name, format=RdfFormat.TURTLE))


def test_the_ontology_defines_every_term_of_ours_that_records_use():
    defined = {quad.subject.value for quad in turtle("aigrid.ttl")}

    def used(fields):
        for term in fields.values():
            yield term.iri
            yield from term.words.values()
            yield from used(term.fields)

    tables = (*terms.TERMS.values(), terms.WITHDRAWN, terms.ENTRY, terms.BINDING)
    ours = {iri for fields in tables for iri in used(fields)}
    ours |= {terms.kind_iri(kind) for kind in Kind} | {terms.EMPTY, terms.PROVENANCE}
    ours |= {terms.VOCABULARY, terms.PRESENTATION, terms.REQUEST}
    ours |= {terms.AIG + action for action in ACTIONS}
    assert {iri for iri in ours if iri.startswith(terms.AIG)} <= defined


RDFS = "http://www.w3.org/2000/01/rdf-schema#"


def asked(graph: Graph, question: str) -> Any:
    prefixes = "".join(f"PREFIX {name}: <{iri}> " for name, iri in terms.PREFIXES.items())
    return graph.query(f"{prefixes} PREFIX rdfs: <{RDFS}> {question}")


def test_policy_is_a_profile_of_odrl():
    graph = Graph().parse(vocabulary.FOLDER / "aigrid.ttl")
    actions = asked(graph, "SELECT ?a ?of { ?a a odrl:Action ; odrl:includedIn ?of }")
    assert {(str(a).removeprefix(terms.AIG), str(of)) for a, of in actions} == {
        ("invoke", terms.ODRL + "use"),
        ("host", terms.ODRL + "use"),
        ("fetch", terms.ODRL + "reproduce"),
        ("publish", terms.ODRL + "distribute"),
    }
    matched = asked(
        graph,
        "SELECT ?p { ?p skos:closeMatch|rdfs:seeAlso ?word"
        f' FILTER(STRSTARTS(STR(?word), "{terms.ODRL}")) }}',
    )
    constraints = {
        term.iri
        for name, term in terms.TERMS[Kind.GRANT]["permission"].fields.items()
        if name not in ("actions", "targets")
    }
    assert constraints <= {str(row[0]) for row in matched}
    for of in ("Permission", "Rule"):
        assert asked(graph, f"ASK {{ aig:{of} rdfs:subClassOf odrl:Permission }}")


def test_what_a_grant_permits_is_one_question_in_the_words_of_odrl():
    record = example(Kind.GRANT)
    rows = asked(
        graph_of(record),
        "SELECT ?who ?target { ?who aig:permission ?p ."
        " ?p odrl:action aig:invoke ; odrl:target ?target }",
    )
    assert isinstance(record.body, GrantBody)
    (model,) = (t for t in record.body.permission.targets if t.startswith("urn:"))
    assert {(str(who), str(target)) for who, target in rows} == {
        (record.subject, model),
        (record.subject, terms.CAPABILITY + "text-generation"),
    }


@pytest.mark.parametrize("kind", [Kind.GRANT, Kind.DELEGATION, Kind.RECEIPT])
def test_where_it_may_be_revoked_belongs_to_the_shape(kind):
    record = example(kind)
    if record.status is None:
        added = Quad(
            NamedNode(graph_iri(record.content_id)),
            NamedNode(terms.CRED + "credentialStatus"),
            NamedNode(status_list_of(record.issuer)),
        )
        assert not conforms(graph_of(record, lambda quads: [*quads, added]))
        return
    for iri in (terms.CRED + "credentialStatus", terms.AIG + "maxStatusAge"):
        graph = graph_of(record, lambda quads, i=iri: [q for q in quads if q.predicate.value != i])
        assert not conforms(graph), iri


def test_the_taxonomy_in_skos_says_what_routing_uses():
    broader = {
        (q.subject.value, q.object.value)
        for q in turtle("capabilities.ttl")
        if q.predicate.value == terms.SKOS + "broader"
    }
    assert broader == {
        (terms.CAPABILITY + concept.name, terms.CAPABILITY + above)
        for concept in default_taxonomy().concepts.values()
        for above in concept.broader
    }


def load(url: str, _options: Any) -> dict[str, Any]:
    if url == CONTEXTS[1]:
        text = (vocabulary.FOLDER / "context.jsonld").read_text(encoding="utf-8")
        return {"contextUrl": None, "documentUrl": url, "document": json.loads(text)}
    assert url == CONTEXTS[0]
    bundled = resources.files("pyld") / "documentloader/frozen/bundled/credentials-v2.jsonld"
    return {"contextUrl": None, "documentUrl": url, "document": json.loads(bundled.read_text())}


def canonical(quads: list[Quad]) -> set[str]:
    dataset = Dataset(quads)
    dataset.canonicalize(CanonicalizationAlgorithm.RDFC_1_0)
    return {str(quad) for quad in dataset}


def by_jsonld(record: Record) -> set[str]:
    """What a JSON-LD processor makes of a record, its proof apart."""
    document = json.loads(record.raw)
    del document["proof"]
    text = jsonld.to_rdf(
        document, {"format": "application/n-quads", "documentLoader": load, "safe": True}
    )
    quads = [q for q in parse(text, format=RdfFormat.N_QUADS) if q.predicate.value not in OPTION]
    return canonical(quads)


def by_mapping(record: Record) -> set[str]:
    """The record's graph, with blank nodes for what has no name in the record itself."""
    root = graph_iri(record.content_id)

    def blank(node: Any) -> Any:
        if not isinstance(node, NamedNode) or not node.value.startswith(root):
            return node
        return BlankNode("b" + "".join(c if c.isalnum() else "x" for c in node.value[len(root) :]))

    return canonical(
        [
            Quad(blank(s), p, blank(o))
            for s, p, o, graph in to_quads(record.raw, record.content_id)
            if graph.value == root and p.value not in {*OPTION, terms.SEC + "proof"}
        ]
    )


@ALL
@FEW
@given(data=st.data())
def test_a_json_ld_processor_reads_the_same_triples(kind, data):
    """Of the proof and of options, which JSON-LD keeps as JSON, see SPEC.md."""
    record = data.draw(records(kind))
    assert by_jsonld(record) == by_mapping(record)


def graph_of(record: Record, change: Any = lambda quads: quads) -> Graph:
    root = graph_iri(record.content_id)
    quads = [q for q in to_quads(record.raw, record.content_id) if q.graph_name == NamedNode(root)]
    text = serialize((q.triple for q in change(quads)), format=RdfFormat.N_TRIPLES)
    assert text is not None
    return Graph().parse(data=text.decode(), format="nt")


SHAPES = Graph().parse(vocabulary.FOLDER / "shapes.ttl")


def conforms(graph: Graph) -> bool:
    return bool(pyshacl.validate(graph, shacl_graph=SHAPES)[0])


@ALL
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_records_have_the_shape_of_their_kind(kind, data):
    assert conforms(graph_of(data.draw(records(kind))))


@ALL
def test_a_record_without_one_of_its_required_triples_has_not(kind):
    record = example(kind)
    required = {
        terms.CRED + "issuer",
        terms.SEC + "proof",
        *(
            term.iri
            for name, term in terms.TERMS[kind].items()
            if name
            in (
                "name",
                "capabilities",
                "grid",
                "broader",
                "labels",
                "software",
                "peerId",
                "permission",
                "parent",
                "quorum",
                "encodedList",
                "ended",
                "metric",
                "value",
            )
        ),
    }
    for iri in required:
        graph = graph_of(record, lambda quads, i=iri: [q for q in quads if q.predicate.value != i])
        assert not conforms(graph), iri
