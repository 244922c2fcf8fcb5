"""The vectors of selection, computed anew from SPEC.md, section 24, without the code that made them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aigrid.metagraph.selection import STRATEGIES, Parts

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "selection.json").read_text())
WARMTH = {"warm": 1.0, "loading": 0.5, "on_disk": 0.5, "can_fetch": 0.0}
NEARLY = 2e-9


@pytest.mark.parametrize("case", VECTORS["quality"], ids=lambda case: case["what"])
def test_claims_come_to_what_the_formula_says(case: dict[str, Any]) -> None:
    mass, total, owned, said = 20.0, 10.0, 0.0, 0.0
    for issuer in {claim["issuer"] for claim in case["claims"]}:
        of = [claim for claim in case["claims"] if claim["issuer"] == issuer]
        items = sum(claim["items"] for claim in of)
        value = sum(claim["value"] * claim["items"] for claim in of) / items
        weight = case["trust"].get(issuer, 0.0) * min(items, 1000)
        if issuer in case["owners"]:
            owned, said = owned + weight, said + weight * value
        else:
            mass, total = mass + weight, total + weight * value
    if owned:
        part = min(1.0, mass * 0.05 / 0.95 / owned)
        mass, total = mass + part * owned, total + part * said
    assert abs(case["quality"]["value"] - total / mass) < NEARLY


@pytest.mark.parametrize("case", VECTORS["compared"], ids=lambda case: case["what"])
def test_models_are_compared_by_what_an_issuer_put_to_the_most_of_them(
    case: dict[str, Any],
) -> None:
    def measure(claim: dict[str, Any]) -> tuple[str, str, str]:
        return claim["issuer"], claim["metric"], claim["dataset"]

    put = [{measure(claim) for claim in one["claims"]} for one in case["models"].values()]
    for one in case["models"].values():
        mass, total, sources = 20.0, 10.0, set()
        for issuer in {claim["issuer"] for claim in one["claims"]}:
            of = [claim for claim in one["claims"] if claim["issuer"] == issuer]
            times = [sum(measure(claim) in measures for measures in put) for claim in of]
            of = [claim for claim, n in zip(of, times, strict=True) if n == max(times)]
            items = sum(claim["items"] for claim in of)
            weight = case["trust"][issuer] * min(items, 1000)
            mass += weight
            total += weight * sum(claim["value"] * claim["items"] for claim in of) / items
            sources |= {claim["record"] for claim in of}
        assert abs(one["quality"]["value"] - total / mass) < NEARLY
        assert set(one["quality"]["sources"]) == sources


@pytest.mark.parametrize("case", VECTORS["choices"], ids=lambda case: case["what"])
def test_scores_are_what_the_formulas_say(case: dict[str, Any]) -> None:
    offers = {offer["record"]: offer for offer in case["offers"]}
    asked = [one for one in case["explained"] if "place" in one]
    token_ms = [case["observations"].get(offers[one["record"]]["node"], {}) for one in asked]
    quickest = min((one["token_ms"] for one in token_ms if one.get("token_ms")), default=0.0)
    for one in asked:
        parts = expected(case, offers[one["record"]], quickest)
        assert all(abs(one["parts"][name] - part) < NEARLY for name, part in parts.items())
        weights = case["weights"]
        mean = sum(weights[name] * part for name, part in parts.items()) / sum(weights.values())
        node = offers[one["record"]]["node"]
        reputation = case["reputations"].get(f"did-{node}", 1.0)
        assert abs(one["total"] - reputation * mean) < NEARLY
    totals = [one["total"] for one in asked]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)
    assert len(case["explained"]) == len(case["offers"])


def expected(case: dict[str, Any], offer: dict[str, Any], quickest: float) -> dict[str, float]:
    seen = case["observations"].get(offer["node"], {})
    outcomes = seen.get("outcomes", {}).get(offer["model"], {})
    first = outcomes.get("latency_ms") or seen.get("ttft_ms") or max(500, offer["latency_ms"])
    running, slots = seen.get("running", 0), offer["slots"]
    turns = 1 + max(0, running + 1 - slots) / slots
    predicted = (first + 64 * (seen.get("token_ms") or quickest)) * turns
    served, failed = outcomes.get("served", 0.0), outcomes.get("failed", 0.0)
    return {
        "quality": case["models"][offer["name"]]["quality"]["value"],
        "success": (served + 3.2) / (served + failed + 4) * 0.5 ** seen.get("failures_in_row", 0),
        "speed": 1000 / (1000 + predicted),
        "warmth": WARMTH[offer["state"]],
        "load": 1 / (1 + running / slots),
        "locality": float(offer["node"] == case["own_node"]),
    }


def test_the_table_of_strategies_is_what_this_version_has() -> None:
    text = (ROOT / "SPEC.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|((?: [0-9.]+ \|){6})$", text, re.MULTILINE)
    stated = {name: tuple(map(float, row.strip(" |").split("|"))) for name, row in rows}
    assert stated == {
        name: tuple(getattr(one.weights, part) for part in Parts._fields)
        for name, one in STRATEGIES.items()
    }
