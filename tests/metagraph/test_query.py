"""What may be asked, and how answers are written."""

import csv
import gc
import io
import json
import threading
import time
import xml.etree.ElementTree as ET
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import example

from aigrid.metagraph.dataset import Dataset
from aigrid.metagraph.query import AnswerFormat, QueryForm, check_query, formats_of
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS, Limits

FORMS = [
    ("SELECT * { ?s ?p ?o }", QueryForm.SELECT),
    ("select*{}", QueryForm.SELECT),
    (
        "# SERVICE\nPREFIX ex: <http://x/#>\nBASE <http://y/>\nASK { ex:from ex:load 'FROM' }",
        QueryForm.ASK,
    ),
    ("CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p '''SERVICE \\''' ''' }", QueryForm.CONSTRUCT),
    ('DESCRIBE <http://x/service?FROM#LOAD> # "', QueryForm.DESCRIBE),
    (
        'PREFIX insert: <http://x/> SELECT (COUNT(*) AS ?service) { ?from insert:x "SERVICE" }',
        QueryForm.SELECT,
    ),
]
REFUSED = [
    "SELECT * { SERVICE <http://127.0.0.1:9/> { ?s ?p ?o } }",
    "SELECT * { service silent ?x { ?s ?p ?o } }",
    "PREFIX SERVICE: <http://127.0.0.1:9/> SELECT * { SERVICE:x { ?s ?p ?o } }",
    "SELECT * { SERVICESILENT<http://127.0.0.1:9/>{ ?s ?p ?o } }",
    "SELECT * { ?s ?p true.SERVICE<http://127.0.0.1:9/>{ ?s ?p ?o } }",
    "SELECT * { ?s ?p 1e5SERVICE<http://127.0.0.1:9/>{ ?s ?p ?o } }",
    "SELECT * FROM <file:///etc/passwd> { ?s ?p ?o }",
    "SELECT * From Named <http://x/> { ?s ?p ?o }",
    "LOAD <http://x/>",
    "PREFIX x: <http://x/> INSERT DATA { x:a x:b x:c }",
    "WITH <http://x/> DELETE { ?s ?p ?o } WHERE { ?s ?p ?o }",
    "DROP ALL",
    "SELECT * {} #" + "x" * LIMITS.query_max_bytes,
]


@pytest.mark.parametrize(("text", "form"), FORMS)
def test_the_form_of_a_query_is_found(text, form):
    assert check_query(text) is form


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:40])
def test_what_reaches_further_is_refused(text):
    with pytest.raises(InvalidRequestError) as caught:
        check_query(text)
    assert caught.value.code is Code.QUERY_REFUSED


@pytest.mark.parametrize("text", ["", "#", "?x", "'", '"""', "SELECT * { ?s ?p 'a\n' }"])
def test_what_is_no_query_is_malformed(text):
    with pytest.raises(InvalidRequestError) as caught:
        check_query(text)
    assert caught.value.code is Code.QUERY_MALFORMED


@given(st.text(alphabet=st.sampled_from(list("<>'\"#?:. \n\\{}SERVICE")), max_size=40))
def test_any_text_is_judged(text):
    with suppress(InvalidRequestError):
        assert check_query(text) in QueryForm


@pytest.mark.parametrize(
    "piece",
    ["<", "<a", '"', "'''", "\\", "a:", "a-", "a.", "a", ":", "#", "'\\'", "$", "(", '"""a', "''"],
)
def test_judging_takes_no_longer_than_the_text(piece):
    text = piece * (LIMITS.query_max_bytes // len(piece))
    start = time.process_time()  # what others compute meanwhile is not counted
    for prefix in ("", "SELECT * { ", "'''"):
        with pytest.raises(InvalidRequestError):
            check_query((prefix + text)[: LIMITS.query_max_bytes] + "x" * 9)
    for prefix in ("", "'''"):
        with suppress(InvalidRequestError):
            check_query((prefix + text)[: LIMITS.query_max_bytes])
    assert time.process_time() - start < 2


def dataset(*, limits: Limits = LIMITS) -> Dataset:
    made = Dataset(limits=limits)
    made.add([(r.content_id, r.raw) for r in map(example, Kind)])
    return made


NAMES = "PREFIX schema: <https://schema.org/> PREFIX skos: <http://www.w3.org/2004/02/skos/core#> "
ROWS = NAMES + (
    "SELECT ?text ?iri ?number ?label ?none { BIND('a,\"b\\t\\n<&' AS ?text) BIND(<http://x/?a&b> AS ?iri)"
    " BIND(7 AS ?number) BIND('hallo'@de AS ?label) }"
)


def test_rows_in_json():
    answer = json.loads(dataset().answer(ROWS, AnswerFormat.JSON))
    assert answer["head"]["vars"] == ["text", "iri", "number", "label", "none"]
    assert answer["results"]["bindings"] == [
        {
            "text": {"type": "literal", "value": 'a,"b\t\n<&'},
            "iri": {"type": "uri", "value": "http://x/?a&b"},
            "number": {
                "type": "literal",
                "value": "7",
                "datatype": "http://www.w3.org/2001/XMLSchema#integer",
            },
            "label": {"type": "literal", "value": "hallo", "xml:lang": "de"},
        }
    ]


def test_rows_in_csv_and_tsv():
    (head, row) = csv.reader(
        io.StringIO(dataset().answer(ROWS, AnswerFormat.CSV).decode(), newline="")
    )
    assert head == ["text", "iri", "number", "label", "none"]
    assert row == ['a,"b\t\n<&', "http://x/?a&b", "7", "hallo", ""]
    heading, line, _ = dataset().answer(ROWS, AnswerFormat.TSV).decode().split("\n")
    assert heading == "?text\t?iri\t?number\t?label\t?none"
    assert line.split("\t") == [
        '"a,\\"b\\t\\n<&"',
        "<http://x/?a&b>",
        '"7"^^<http://www.w3.org/2001/XMLSchema#integer>',
        '"hallo"@de',
        "",
    ]


def test_rows_in_xml():
    root = ET.fromstring(dataset().answer(ROWS, AnswerFormat.XML))
    space = "{http://www.w3.org/2005/sparql-results#}"
    found = {b.get("name"): b[0] for b in root.iter(f"{space}binding")}
    assert {name: term.text for name, term in found.items()} == {
        "text": 'a,"b\t\n<&',
        "iri": "http://x/?a&b",
        "number": "7",
        "label": "hallo",
    }
    assert found["iri"].tag == f"{space}uri"


def test_truth_and_triples():
    made = dataset()
    assert json.loads(made.answer("ASK {}", AnswerFormat.JSON)) == {"head": {}, "boolean": True}
    assert b"<boolean>false" in made.answer("ASK { <x:a> ?p ?o }", AnswerFormat.XML)
    construct = NAMES + "CONSTRUCT { ?s schema:name ?n } WHERE { ?s schema:name ?n }"
    turtle = made.answer(construct, AnswerFormat.TURTLE)
    assert b"@prefix schema:" in turtle
    assert b"smollm2" in turtle
    assert b"smollm2" in made.answer(construct, AnswerFormat.NQUADS)
    assert isinstance(json.loads(made.answer(construct, AnswerFormat.JSONLD)), list | dict)
    assert formats_of(QueryForm.DESCRIBE)[0] is AnswerFormat.TURTLE


def test_what_is_forgotten_leaves_no_quad():
    empty = len(Dataset())
    made = dataset()
    assert len(made) > empty
    made.remove([example(kind).content_id for kind in Kind])
    assert len(made) == empty


def test_the_taxonomy_and_what_is_published_are_one():
    question = NAMES + (
        "SELECT ?c { ?c skos:broader+ <https://w3id.org/aigrid/capability/text> ."
        " FILTER(STRSTARTS(STR(?c), 'did:')) }"
    )
    assert b"legal-summarization" in dataset().answer(question, AnswerFormat.CSV)


@pytest.mark.parametrize(
    ("question", "answer_format", "limits"),
    [
        ("SELECT * { ?s ?p ?o }", AnswerFormat.JSON, Limits(query_rows_max=3)),
        ("SELECT * { ?s ?p ?o }", AnswerFormat.CSV, Limits(query_answer_max_bytes=99)),
        ("CONSTRUCT WHERE { ?s ?p ?o }", AnswerFormat.TURTLE, Limits(query_rows_max=3)),
        ("CONSTRUCT WHERE { ?s ?p ?o }", AnswerFormat.TURTLE, Limits(query_answer_max_bytes=99)),
    ],
)
def test_large_answers_are_given_up(question, answer_format, limits, monkeypatch):
    panics = []
    monkeypatch.setattr("sys.unraisablehook", lambda panic: panics.append(str(panic.exc_value)))
    held = [refusal(dataset(limits=limits), question, answer_format)]
    assert held[0].code is Code.QUERY_TOO_EXPENSIVE
    # Its frames do not keep the solutions, which panic when another thread lets go of them.

    def forget() -> None:
        held.clear()
        gc.collect()

    elsewhere = threading.Thread(target=forget)
    elsewhere.start()
    elsewhere.join()
    assert panics == []


def refusal(made: Dataset, question: str, answer_format: AnswerFormat) -> AigridError:
    try:
        made.answer(question, answer_format)
    except AigridError as error:
        return error
    pytest.fail("it was answered")


def test_a_query_that_does_not_parse_says_where():
    with pytest.raises(InvalidRequestError, match="1:") as caught:
        dataset().answer("SELECT ?x { nonsense", AnswerFormat.JSON)
    assert caught.value.code is Code.QUERY_MALFORMED
