"""Evaluations as records: what this node says of a model, and all that is known."""

from collections.abc import Mapping
from typing import Any

from aigrid.metagraph.graph import Metagraph
from aigrid.protocol.errors import Code, LocalError, VerificationError
from aigrid.protocol.evidence import EvaluationBody, Metric, evaluation_id, fraction
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record
from aigrid.protocol.timestamp import format_ms


def body_of(
    model: str,
    capability: str,
    parameters: Mapping[str, str],
    metric: Metric,
    dataset: str,
    *,
    items: int,
    found: tuple[float, float, float],
) -> EvaluationBody:
    """What is said of a model; `found` are value, lower and upper end of the interval."""
    value, low, high = map(fraction, found)
    return EvaluationBody(
        id=evaluation_id(model, capability, parameters, metric, dataset),
        model=model,
        capability=capability,
        parameters=dict(parameters),
        metric=metric,
        dataset=dataset,
        items=items,
        value=value,
        low=low,
        high=high,
    )


def issue(graph: Metagraph, identity: Identity, body: EvaluationBody, now_ms: int) -> Record:
    """Sign an evaluation. What this node has said of the same before is replaced.

    Raises:
        LocalError: `over_quota`: this node has said as much as it may.
    """
    said = graph.live_records(now_ms, issuer=identity.did)
    own = {record.subject for record in said if record.kind is Kind.EVALUATION}
    if body.id not in own and len(own) >= LIMITS.evaluations_own_max:
        raise LocalError(
            f"this node has issued {len(own)} evaluations, which is as many as it may: evaluate "
            "what it has evaluated before, or wait until some end",
            Code.OVER_QUOTA,
        )
    ttl_ms = LIMITS.evaluation_ttl_seconds * 1000
    return graph.issue(Kind.EVALUATION, body, identity, now_ms=now_ms, ttl_ms=ttl_ms)


def known(
    graph: Metagraph, now_ms: int, *, capability: str = "", model: str = ""
) -> list[dict[str, Any]]:
    """Every evaluation that is believed, as JSON, the best of a metric and dataset first.

    `capability` names it or something broader; "" for any, as with `model`, a model id.
    """
    satisfied = graph.index.concepts.satisfied
    found: list[tuple[EvaluationBody, Record]] = []
    for record in graph.store.of_kind(Kind.EVALUATION):
        body = record.body
        if (
            isinstance(body, EvaluationBody)
            and model in ("", body.model)
            and (not capability or satisfied((body.capability,)).get(capability, 0) > now_ms)
            and _believed(graph, record, now_ms)
        ):
            found.append((body, record))
    found.sort(key=lambda pair: _place(*pair))
    return [_view(graph, body, record, now_ms) for body, record in found]


def _believed(graph: Metagraph, record: Record, now_ms: int) -> bool:
    try:
        graph.check_believed(record, now_ms)
    except VerificationError:
        return False
    return True


def _place(body: EvaluationBody, record: Record) -> tuple[Any, ...]:
    return body.capability, body.metric, body.dataset, -float(body.value), record.content_id


def _view(graph: Metagraph, body: EvaluationBody, record: Record, now_ms: int) -> dict[str, Any]:
    manifests = graph.manifests_of(body.model, now_ms)
    names = sorted({getattr(one.body, "name", "") for one in manifests} - {""})
    return {
        "model": body.model,
        "name": names[0] if names else "",
        "capability": body.capability,
        "parameters": dict(body.parameters),
        "metric": body.metric,
        "value": float(body.value),
        "low": float(body.low),
        "high": float(body.high),
        "items": body.items,
        "dataset": body.dataset,
        "issuer": record.issuer,
        "owner": record.issuer in {one.issuer for one in manifests},
        "record": record.content_id,
        "valid_until": format_ms(record.valid_until_ms),
    }
