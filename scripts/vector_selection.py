"""Test vectors of selection: what claims come to, and which candidate is asked before which."""

import random
from dataclasses import replace
from typing import Any

import msgspec

from aigrid.metagraph.evidence import Claim, Claims, Evidence, Quality, weighed
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection import (
    STRATEGIES,
    Filters,
    Observation,
    Outcomes,
    Stated,
    Strategy,
    Weights,
    explain,
    rank,
)
from aigrid.protocol.kinds import ModelBody, OfferState
from aigrid.protocol.model import MODEL_URN, ModelDescription, ModelFile, model_id

_NOW_MS = 1_790_000_000_000
_PLACES = 9
_CAPABILITY = "translation"
_OWN = "node-a"


def selection() -> Any:
    return {
        "quality": [_quality(*case) for case in _QUALITIES],
        "compared": [_compared(*case) for case in _COMPARED],
        "choices": list(map(_choice, _CASES)),
    }


def _claim(record: str, issuer: str, value: float, items: int) -> Claim:
    return Claim(record, issuer, _CAPABILITY, {}, value, items, _NOW_MS + 1)


_QUALITIES: tuple[tuple[str, tuple[Claim, ...], dict[str, float], tuple[str, ...]], ...] = (
    ("nothing is known", (), {}, ()),
    ("one's own word", (_claim("e1", "own", 0.9, 80),), {"own": 1.0}, ()),
    ("a member's", (_claim("e1", "member", 0.9, 80),), {"member": 0.1}, ()),
    ("a stranger's", (_claim("e1", "stranger", 0.9, 80),), {}, ()),
    (
        "an owner's, beside a member's",
        (_claim("e1", "owner", 1.0, 10**9), _claim("e2", "member", 0.4, 500)),
        {"owner": 0.5, "member": 0.5},
        ("owner",),
    ),
    ("an owner's alone", (_claim("e1", "owner", 1.0, 10**9),), {"owner": 0.5}, ("owner",)),
    (
        "two datasets of one issuer, more than count",
        (_claim("e1", "own", 1.0, 3000), _claim("e2", "own", 0.5, 1000)),
        {"own": 1.0},
        (),
    ),
)


def _quality(
    what: str, claims: tuple[Claim, ...], trust: dict[str, float], owners: tuple[str, ...]
) -> Any:
    made = weighed(claims, lambda did: trust.get(did, 0.0), frozenset(owners))
    return {
        "what": what,
        "claims": [_plain(claim, "record", "issuer", "value", "items") for claim in claims],
        "trust": trust,
        "owners": list(owners),
        "quality": _quality_json(made),
    }


def _measured(record: str, issuer: str, dataset: str, value: float, items: int) -> Claim:
    made = _claim(record, issuer, value, items)
    return msgspec.structs.replace(made, measure=("chrf", dataset))


_COMPARED: tuple[tuple[str, dict[str, tuple[Claim, ...]]], ...] = (
    (
        "what one issuer put to both counts, and nothing else of that issuer",
        {
            "a": (_measured("e1", "own", "d1", 0.8, 200), _measured("e2", "own", "d2", 0.1, 900)),
            "b": (_measured("e3", "own", "d1", 0.7, 200),),
        },
    ),
    (
        "what another issuer put to both takes nothing away",
        {
            "a": (_measured("e1", "own", "d1", 0.9, 200), _measured("e2", "liar", "d3", 0.0, 50)),
            "b": (_measured("e3", "own", "d2", 0.6, 200), _measured("e4", "liar", "d3", 1.0, 50)),
            "c": (),
        },
    ),
    (
        "of two that one shares with one each, both count",
        {
            "a": (_measured("e1", "own", "d1", 0.9, 100), _measured("e2", "own", "d2", 0.3, 300)),
            "b": (_measured("e3", "own", "d1", 0.5, 100), _measured("e4", "own", "d4", 0.9, 100)),
            "c": (_measured("e5", "own", "d2", 0.4, 300),),
        },
    ),
)


def _compared(what: str, said: dict[str, tuple[Claim, ...]]) -> Any:
    trust = {"own": 1.0, "liar": 0.5}
    claims = Claims()
    for model, of_it in said.items():
        for claim in of_it:
            claims.put(model, claim)
    known = Evidence(claims, _NOW_MS, trust=lambda did: trust.get(did, 0.0))
    made = known.qualities(tuple(said), _CAPABILITY)
    return {
        "what": what,
        "trust": trust,
        "models": {
            model: {
                "claims": [
                    {
                        **_plain(one, "record", "issuer", "value", "items"),
                        "metric": one.measure[0],
                        "dataset": one.measure[1],
                    }
                    for one in of_it
                ],
                "quality": _quality_json(made[model]),
            }
            for model, of_it in said.items()
        },
    }


def _quality_json(quality: Quality) -> Any:
    return {
        "value": round(quality.value, _PLACES),
        "weight": round(quality.weight, _PLACES),
        "sources": list(quality.sources),
    }


def _plain(value: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _body(name: str, license_id: str, size_bytes: int) -> ModelBody:
    files = (ModelFile("weights.bin", "00" * 32, size_bytes),)
    described = ModelDescription("onnx", _CAPABILITY, files, "float32", {"name": name})
    return ModelBody(
        id=MODEL_URN + model_id(described),
        name=name,
        capabilities=(_CAPABILITY,),
        model=described,
        license=license_id,
    )


_BODIES = {
    "small": _body("small", "MIT", 10**6),
    "large": _body("large", "Apache-2.0", 10**9),
}
_SERVES = {
    "small": {"source": ("en",), "target": ("de", "fr")},
    "large": {"source": ("en", "en-GB"), "target": ("fr",)},
}


def _offer(
    node: str, model: str, state: OfferState = "warm", slots: int = 2, latency_ms: int = 0
) -> Candidate:
    body = _BODIES[model]
    return Candidate(
        model=body.id.removeprefix(MODEL_URN),
        name=model,
        capabilities=(_CAPABILITY,),
        manifest=f"manifest-{model}",
        record=f"record-{node}-{model}",
        node=node,
        signer=f"did-{node}",
        state=state,
        slots=slots,
        latency_ms=latency_ms,
        valid_until_ms=_NOW_MS + 1,
        context_tokens=0,
    )


_OFFERS = (
    _offer("node-a", "small"),
    _offer("node-a", "large", "on_disk"),
    _offer("node-b", "large", slots=1),
    _offer("node-c", "large", latency_ms=1),
    _offer("node-d", "small", "can_fetch", latency_ms=2000),
    _offer("node-e", "small", slots=0),
)
_SMALL, _LARGE = (_BODIES[name].id.removeprefix(MODEL_URN) for name in ("small", "large"))
_SEEN = {
    "node-a": Observation(outcomes={_SMALL: Outcomes(8.0, 0.0, 40.0)}),
    "node-b": Observation(running=1, ttft_ms=120.0, token_ms=2.0),
    "node-c": Observation(
        failures_in_row=1, last_failure_age_s=3.0, outcomes={_LARGE: Outcomes(6.0, 2.0)}
    ),
}
_EVALUATED = {"small": 0.55, "large": 0.9}
_REPUTATIONS = {"did-node-b": 0.9}
_CASES: tuple[tuple[str, Strategy, Filters], ...] = (
    *((name, strategy, Filters(capability=_CAPABILITY)) for name, strategy in STRATEGIES.items()),
    (
        "own weights",
        Strategy(weights=Weights(speed=3, warmth=1, load=0.5)),
        Filters(capability=_CAPABILITY),
    ),
    (
        "constraints",
        STRATEGIES["balanced"],
        Filters(
            capability=_CAPABILITY,
            source="en",
            target="fr",
            license="apache-2.0",
            size_bytes_max=10**9,
            deadline_ms=10_000,
        ),
    ),
    (
        "constraints that nobody fulfils",
        STRATEGIES["balanced"],
        Filters(capability=_CAPABILITY, source="en", target="es", precision="float32"),
    ),
)


def _choice(case: tuple[str, Strategy, Filters]) -> Any:
    """Without exploration: what is drawn is up to the generator."""
    what, strategy, filters = case
    claims = Claims()
    for name, value in _EVALUATED.items():
        model = _BODIES[name].id.removeprefix(MODEL_URN)
        claims.put(model, _claim(f"evaluation-{name}", "did-judge", value, 180))
    evidence = Evidence(
        claims, _NOW_MS, trust=lambda _: 1.0, reputations=lambda did: _REPUTATIONS.get(did, 1.0)
    )
    made = rank(
        _OFFERS,
        _SEEN,
        rng=random.Random(0),  # no draw decides anything here
        own_peer_id=_OWN,
        now_ms=_NOW_MS,
        strategy=replace(strategy, exploration=0.0),
        constraints=filters,
        facts=lambda one: Stated("did-owner", _BODIES[one.name], serves=(_SERVES[one.name],)),
        evidence=evidence,
    )
    assert strategy.weights is not None
    return {
        "what": what,
        "weights": msgspec.to_builtins(strategy.weights),
        "constraints": {
            name: value
            for name, value in msgspec.to_builtins(filters).items()
            if value not in (None, False, {})
        },
        "own_node": _OWN,
        "offers": [
            _plain(one, "record", "node", "model", "name", "state", "slots", "latency_ms")
            for one in _OFFERS
        ],
        "models": {
            name: {
                "license": body.license,
                "precision": body.model.precision,
                "size_bytes": sum(file.bytes for file in body.model.files),
                "serves": {key: list(values) for key, values in _SERVES[name].items()},
                "quality": _quality_json(evidence.quality(body.id.removeprefix(MODEL_URN), "")),
            }
            for name, body in _BODIES.items()
        },
        "observations": {node: _seen(observed) for node, observed in _SEEN.items()},
        "reputations": _REPUTATIONS,
        "explained": [_explained(one) for one in msgspec.to_builtins(explain(made))],
    }


def _seen(observed: Observation) -> Any:
    plain = _plain(
        observed, "running", "ttft_ms", "token_ms", "failures_in_row", "last_failure_age_s"
    )
    plain["outcomes"] = {
        model: _plain(one, "served", "failed", "latency_ms")
        for model, one in observed.outcomes.items()
    }
    return plain


def _explained(one: Any) -> Any:
    """Words are for people: only what another implementation would compute."""
    said: dict[str, Any] = {
        name: one[name] for name in ("record", "place", "reason", "total") if name in one
    }
    if "parts" in one:
        said["parts"] = {name: round(part, _PLACES) for name, part in one["parts"].items()}
    return said
