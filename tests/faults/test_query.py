"""What the grid knows, asked in SPARQL at real nodes."""

import json
import urllib.parse
import urllib.request
from typing import Any

import pytest
from scripts.nodes import NodeFailedError, NodeProcess, wait_for
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
NAMES = (
    "PREFIX aig: <https://w3id.org/aigrid/ns#> "
    "PREFIX cap: <https://w3id.org/aigrid/capability/> "
    "PREFIX skos: <http://www.w3.org/2004/02/skos/core#> "
    "PREFIX prov: <http://www.w3.org/ns/prov#> "
)
OFFERS = NAMES + (
    "SELECT ?node ?model ?signer WHERE { ?capability skos:broader* cap:text ."
    " ?model aig:capability ?capability . ?offer aig:offersModel ?model ."
    " GRAPH ?record { ?node aig:offer ?offer } ?record prov:wasAttributedTo ?signer }"
)
LABELS = NAMES + "SELECT ?label { ?c skos:broader+ cap:text ; skos:prefLabel ?label }"


def values(answer: dict[str, Any]) -> list[dict[str, str]]:
    rows = answer["results"]["bindings"]
    return [{name: term["value"] for name, term in row.items()} for row in rows]


def over_http(node: NodeProcess, query: str) -> dict[str, Any]:
    url = f"{node.gateway}/sparql?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


def test_every_node_gives_the_same_answer_and_says_who_signed_it(grid):
    holder = grid.holder.cli("id")["did"]
    for node in grid.nodes:
        (row,) = values(node.cli("query", OFFERS))
        assert (row["node"], row["signer"]) == (holder, holder)
        assert values(over_http(node, OFFERS)) == [row]


def test_a_capability_of_one_node_is_known_to_the_others(grid):
    published = grid.holder.cli(
        *("capability", "publish", "small-talk", "--broader", "text-generation"),
        *("--label", "Small talk"),
    )
    iri = published["capability"]

    def known() -> bool:
        return {"label": "Small talk"} in values(grid.asker.cli("query", LABELS))

    wait_for(known, timeout_seconds=PATIENCE_SECONDS, what="the capability at the asker")
    assert grid.asker.cli("find", iri) == {"candidates": []}
    grid.holder.cli("capability", "withdraw", "small-talk")
    wait_for(lambda: not known(), timeout_seconds=PATIENCE_SECONDS, what="its withdrawal")


def test_a_hostile_query_costs_its_asker_an_error_and_nobody_anything(grid):
    hostile = "SELECT * { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l } ORDER BY ?a ?d ?g ?j"
    with pytest.raises(NodeFailedError) as caught:
        grid.asker.cli("query", hostile)
    assert caught.value.code == "query_too_expensive"
    assert grid.asker.alive
    assert len(values(grid.asker.cli("query", OFFERS))) == 1
    assert grid.asker.cli("export")["records"] == grid.asker.cli("status")["records"]
