"""What is said of how well models and nodes do: evaluations of models, and audits of nodes.

Both are claims of their issuer. Nothing follows from one but what its reader makes of who signed
it. A number with a fraction is decimal text here, which has one spelling in JSON and in RDF.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

from aigrid.protocol.body import Capability, Count, Name, SubjectBody
from aigrid.protocol.canonical import canonical, content_id, is_content_id
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import Sha256Hex

EVALUATION_URN: Final = "urn:aigrid:evaluation:"

Metric = Literal[
    "accuracy",
    "auc",
    "chrf",
    "exact_match",
    "macro_f1",
    "ndcg",
    "r2",
    "recall",
    "rouge_l",
    "span_f1",
    "token_f1",
    "word_accuracy",
]
"""Each in [0, 1], where more is better. SPEC.md defines them."""
METRICS: Final[tuple[Metric, ...]] = get_args(Metric)

_PLACES = 6
Fraction = Annotated[str, Meta(pattern=rf"^(0(\.[0-9]{{0,{_PLACES - 1}}}[1-9])?|1)\Z")]
"""A number in [0, 1] to six decimal places, without zeros at its end."""
ParameterName = Annotated[str, Meta(max_length=32, pattern=r"^[a-z][a-z0-9_]*\Z")]
Narrowing = Annotated[dict[ParameterName, Name], Meta(max_length=LIMITS.selecting_parameters_max)]


class EvaluationBody(SubjectBody, frozen=True):
    """How well a model did on a dataset. `id` follows from what was measured: `evaluation_id`.

    Attributes:
        model: the model id.
        capability: what was asked of it.
        parameters: what the requests were narrowed to, such as {"source": "en", "target": "fr"}.
        metric: what `value` is.
        dataset: SHA-256 of the dataset's bytes.
        items: of the dataset, all of which were asked.
        value, low, high: the metric, and the ends of its 95 % confidence interval.
    """

    model: str
    capability: Capability
    metric: Metric
    dataset: Sha256Hex
    items: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    value: Fraction
    low: Fraction
    high: Fraction
    parameters: Narrowing = msgspec.field(default_factory=dict)


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What the issuer saw of one model and capability at the audited node.

    Attributes:
        model: the model id.
        served, failed: requests that were answered, and those that were not though they should
            have been. Counts are decayed by age, and rounded.
        latency_ms: of those that were answered; 0 where it is not known.
        audited, wrong: answers that were checked, and those of them that did not hold.
    """

    model: str
    capability: Capability
    served: Count
    failed: Count
    latency_ms: Count = 0
    audited: Count = 0
    wrong: Count = 0


class AuditBody(SubjectBody, frozen=True):
    """What the issuer found of another node. `id` is the DID of that node."""

    findings: Annotated[tuple[Finding, ...], Meta(max_length=LIMITS.findings_max)]


def evaluation_id(
    model: str, capability: str, parameters: Mapping[str, str], metric: str, dataset: str
) -> str:
    """The `id` of an EvaluationRecord: measuring the same again replaces what was found before."""
    said = {
        "model": model,
        "capability": capability,
        "parameters": dict(parameters),
        "metric": metric,
        "dataset": dataset,
    }
    return EVALUATION_URN + content_id(canonical(said))


def fraction(value: float) -> str:
    """A number in its one spelling; what lies beyond [0, 1] is put to its end."""
    text = f"{min(1.0, max(0.0, value)):.{_PLACES}f}"
    return text.rstrip("0").rstrip(".")


def check_evaluation(_issuer: str, body: EvaluationBody) -> None:
    if not is_content_id(body.model):
        raise VerificationError("a model is named by content id")
    measured = (body.model, body.capability, body.parameters, body.metric, body.dataset)
    if body.id != evaluation_id(*measured):
        raise VerificationError("the id does not follow from what was evaluated")
    if not float(body.low) <= float(body.value) <= float(body.high):
        raise VerificationError("a value lies outside its interval")


def id_is_evaluation(_issuer: str, body: SubjectBody) -> None:
    cid = body.id.removeprefix(EVALUATION_URN)
    if cid == body.id or not is_content_id(cid):
        raise VerificationError("the id is not that of an evaluation")


def check_audit(issuer: str, body: AuditBody) -> None:
    id_is_another(issuer, body)
    found = [(finding.model, finding.capability) for finding in body.findings]
    if any(a >= b for a, b in pairwise(found)):
        raise VerificationError("findings ascend by model and capability, each once")
    for finding in body.findings:
        if not is_content_id(finding.model):
            raise VerificationError("a model is named by content id")
        if finding.wrong > finding.audited:
            raise VerificationError("more answers are wrong than were audited")


def id_is_another(issuer: str, body: SubjectBody) -> None:
    """Raises VerificationError for a node that audits itself."""
    public_key_of_did(body.id)
    if body.id == issuer:
        raise VerificationError("nobody audits itself")
