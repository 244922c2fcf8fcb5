"""Records as quads: nothing is lost either way, and nothing is blank."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyoxigraph import Literal, NamedNode, Quad, QuerySolutions, RdfFormat, Store, parse, serialize
from tests.protocol.strategies import example, example_bodies, records

from aigrid.metagraph import terms
from aigrid.metagraph.mapping import MappingError, form_graph, from_quads, to_quads
from aigrid.metagraph.terms import graph_iri
from aigrid.protocol.kinds import Kind
from aigrid.protocol.record import Record

ALL = pytest.mark.parametrize("kind", list(Kind))
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def quads_of(record: Record) -> list[Quad]:
    return to_quads(record.raw, record.content_id)


@ALL
@FEW
@given(data=st.data())
def test_a_record_is_rebuilt_from_its_quads_alone(kind, data):
    record = data.draw(records(kind))
    shuffled = data.draw(st.permutations(quads_of(record)))
    assert from_quads(shuffled) == record.raw


@ALL
@FEW
@given(data=st.data())
def test_a_record_survives_a_store_and_every_format_with_graphs(kind, data):
    record = data.draw(records(kind))
    store = Store()
    store.extend(quads_of(record))
    assert from_quads(store) == record.raw
    for format_ in (RdfFormat.N_QUADS, RdfFormat.JSON_LD):
        assert from_quads(parse(serialize(store, format=format_), format=format_)) == record.raw


@ALL
@FEW
@given(data=st.data())
def test_quads_of_a_rebuilt_record_are_the_same_quads(kind, data):
    record = data.draw(records(kind))
    quads = quads_of(record)
    assert set(to_quads(from_quads(quads), record.content_id)) == set(quads)


@ALL
@FEW
@given(data=st.data())
def test_nothing_is_blank_and_everything_stands_in_the_record_s_graphs(kind, data):
    record = data.draw(records(kind))
    graph = graph_iri(record.content_id)
    allowed = {graph, form_graph(record.content_id), terms.PROVENANCE}
    for subject, predicate, value, where in quads_of(record):
        assert isinstance(subject, NamedNode)
        assert isinstance(predicate, NamedNode)
        assert isinstance(value, NamedNode | Literal)
        assert where.value in allowed


@ALL
def test_only_schemas_and_the_proof_are_json(kind):
    json_of = {
        quad.predicate.value
        for quad in quads_of(example(kind))
        if isinstance(quad.object, Literal) and quad.object.datatype.value == terms.RDF + "JSON"
    }
    schemas = ("inputSchema", "outputSchema", "parametersSchema")
    allowed = {terms.SEC + "proof", *(terms.AIG + name for name in schemas)}
    assert terms.SEC + "proof" in json_of
    assert json_of <= allowed


@ALL
def test_provenance_is_one_question(kind):
    record = example(kind)
    store = Store()
    store.extend(quads_of(record))
    rows = store.query(
        "PREFIX prov: <http://www.w3.org/ns/prov#> PREFIX dct: <http://purl.org/dc/terms/>"
        " SELECT DISTINCT ?g ?who ?from ?until ?id WHERE { GRAPH ?g { ?credential ?p ?o }"
        " GRAPH <https://w3id.org/aigrid/ns#provenance> { ?g prov:wasAttributedTo ?who;"
        " prov:generatedAtTime ?from; prov:invalidatedAtTime ?until; dct:identifier ?id } }"
    )
    assert isinstance(rows, QuerySolutions)
    (row,) = rows
    assert row["who"].value == record.issuer
    assert row["id"].value == record.content_id
    assert row["g"].value == graph_iri(record.content_id)


def test_changed_quads_are_not_a_record():
    quads = quads_of(example(Kind.NODE))
    other = quads_of(example(Kind.MODEL))
    for wrong in ([], quads[1:2], quads + other, [q for q in quads if "issuer" not in str(q)]):
        with pytest.raises(MappingError):
            from_quads(wrong)


def test_every_field_of_every_kind_has_a_term():
    for kind, body in example_bodies().items():
        struct = type(body)
        assert set(terms.TERMS[kind]) == set(struct.__struct_encode_fields__) - {"id"}
