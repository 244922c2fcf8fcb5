"""SPARQL that nobody should be asked: the one set that tests and benches use."""

from typing import Final

_DIGITS = " ".join(f"VALUES ?{name} {{ 0 1 2 3 4 5 6 7 8 9 }}" for name in "abcdefghijkl")
_DOUBLING = " ".join(f"BIND(CONCAT(?s{i}, ?s{i}) AS ?s{i + 1})" for i in range(40))

EXPENSIVE: Final = {
    "cartesian product": "SELECT (COUNT(*) AS ?n) { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l }",
    "cartesian product, sorted": f"SELECT * {{ {_DIGITS} }} ORDER BY ?a",
    "deep paths": "SELECT (COUNT(*) AS ?n) { ?a (!<x:y>|^!<x:y>)* ?b . ?b (!<x:y>|^!<x:y>)* ?c }",
    "regular expressions": f"SELECT ?a {{ {_DIGITS} BIND(REPLACE(STR(?a), '(.*)*x', 'y') AS ?r)"
    " FILTER(REGEX(CONCAT(STR(?a), STR(?r)), '^(([a-z])+.)+[A-Z]([a-z])+$')) }",
    "a string that doubles": "SELECT (STRLEN(?s40) AS ?n) { BIND('0123456789' AS ?s0) "
    f"{_DOUBLING} }}",
    "nesting": "SELECT * { FILTER(" + "(" * 20_000 + "1" + ")" * 20_000 + ") }",
}
"""Each ends by time or by memory; what its answer would be does not matter."""


def reaching(*, url: str = "http://127.0.0.1:9/", path: str = "/etc/passwd") -> dict[str, str]:
    """What would read from a service at `url`, or the file at `path`; and what is too long."""
    return {
        "a service": f"SELECT * {{ SERVICE <{url}> {{ ?s ?p ?o }} }}",
        "a file": f"SELECT * FROM <file://{path}> {{ ?s ?p ?o }}",
        "loading": f"LOAD <{url}>",
        "10 MB": "SELECT * {} #" + "x" * 10_000_000,
    }
