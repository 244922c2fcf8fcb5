"""The methods behind `aigrid evaluate` and `aigrid evaluations`."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from aigrid.metagraph.selection.constraints import check_selecting
from aigrid.node.app import Node
from aigrid.node.commands.finding import capability_named
from aigrid.node.control import Emit
from aigrid.node.evaluating.dataset import Dataset, parse_dataset
from aigrid.node.evaluating.evaluations import body_of, issue, known
from aigrid.node.evaluating.forms import Form, form_of
from aigrid.node.evaluating.intervals import interval
from aigrid.node.evaluating.measuring import measure
from aigrid.node.evaluating.metrics import Measure
from aigrid.node.gateway.capabilities.grid import Grid, Known
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.outcome.asking import Reply, Target, Want
from aigrid.node.outcome_setup import contracts_of
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import AigridError, NoCandidateError, UsageError
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN

Method = Callable[[Any, Emit], Awaitable[dict[str, Any]]]
_Capability = Annotated[str, Meta(max_length=LIMITS.capability_max_chars)]


class Evaluate(msgspec.Struct, forbid_unknown_fields=True):
    """A dataset for all who offer a capability.

    Attributes:
        path: of the dataset; absolute.
        metric: its name; "" for the usual one.
        parameters: those that choose among models, and to which the evaluation is narrowed.
        models: names or ids; none: all that can be asked.
        sign: whether to issue what was found.
    """

    capability: _Capability
    path: str
    metric: str = ""
    parameters: dict[str, str] = {}
    models: tuple[str, ...] = ()
    sign: bool = True


class Evaluations(msgspec.Struct, forbid_unknown_fields=True):
    """Of which capability and model; "" for any."""

    capability: _Capability = ""
    model: str = ""


async def evaluate(node: Node, params: Evaluate, emit: Emit) -> dict[str, Any]:
    """Put the dataset to one model after the other, and say what came of it.

    Raises:
        UsageError: the dataset, the metric or the parameters cannot be used.
        AigridError: nobody can be asked, or all that were asked failed.
    """
    name = capability_named(node.graph, params.capability, node.now_ms())
    params = msgspec.structs.replace(params, capability=name)
    contract = contracts_of(node).of(name)
    contract.check_askable()
    stated = contract.stated()
    contract = replace(contract, stated=lambda: stated)  # it is read in a thread
    form, measure_ = form_of(contract.task, params.metric)
    check_selecting(params.parameters)
    _check_stated(params, stated)
    run_blocking = node.models.run_blocking
    data = await run_blocking(lambda: _read(Path(params.path)))
    dataset = await run_blocking(lambda: parse_dataset(data, contract, form, params.parameters))
    evaluating = _Evaluating(node, params, dataset, form, measure_)
    by_model = await evaluating.models()
    rows, problems = [], []
    for model, holders in by_model.items():
        try:
            row = await evaluating.one(model, holders, emit)
            rows.append(row)
            # For whoever is interrupted before the end: this much is done, and signed.
            await emit({"measured": row})
        except AigridError as error:
            problems.append(error)
            rows.append({**evaluating.named(model), "problem": error.message})
    if len(problems) == len(rows):
        raise problems[0]
    return {
        "capability": params.capability,
        "metric": measure_.name,
        "dataset": dataset.sha256,
        "items": len(dataset.items),
        "models": sorted(rows, key=lambda row: -row.get("value", -1.0)),
    }


def _check_stated(params: Evaluate, stated: Collection[str]) -> None:
    """Raises UsageError for a parameter that chooses among no models: it would say nothing."""
    if unknown := sorted(params.parameters.keys() - set(stated)):
        there = ", ".join(sorted(stated)) or "none"
        raise UsageError(
            f"no model for {params.capability} states {unknown[0]!r}, so it chooses none; stated: "
            f"{there}. A setting of a request, such as `max_tokens`, goes with each item of the "
            "dataset, under `parameters`"
        )


async def evaluations(node: Node, params: Evaluations, _: Emit) -> dict[str, Any]:
    """All that is known, of whomever."""
    capability = params.capability
    if capability:
        capability = capability_named(node.graph, capability, node.now_ms())
    model = node.router.resolve(params.model) if params.model else ""
    found = known(node.graph, node.now_ms(), capability=capability, model=model)
    return {"evaluations": found}


def evaluation_methods(node: Node) -> Mapping[str, tuple[type[msgspec.Struct], Method]]:
    """By name, for the control socket."""
    return {
        "evaluate": (Evaluate, partial(evaluate, node)),
        "evaluations": (Evaluations, partial(evaluations, node)),
    }


class _Mesh:
    """Every item is a request of its own. Implements `Mesh`."""

    def __init__(self, node: Node) -> None:
        self._core = GatewayCore(
            node.router,
            status=dict,
            now_ms=node.now_ms,
            token=node.new_request_id,
            contract=contracts_of(node).of,
        )
        self._known = Known(node.router)

    async def candidates(self, want: Want) -> Sequence[Target]:
        with self._core.request(None) as request_id:
            return await self._grid(request_id).candidates(want)

    async def ask(self, want: Want, target: Target | None) -> Reply:
        with self._core.request(None) as request_id:
            return await self._grid(request_id).ask(want, target)

    def late_after_seconds(self, _target: Target) -> float | None:
        return None

    def _grid(self, request_id: str) -> Grid:
        return Grid(self._core, self._known, request_id, Visit(OPERATOR))


class _Evaluating:
    def __init__(
        self, node: Node, params: Evaluate, dataset: Dataset, form: Form, measure_: Measure
    ) -> None:
        self._node = node
        self._params = params
        self._dataset = dataset
        self._form = form
        self._measure = measure_
        self._mesh = _Mesh(node)

    async def models(self) -> dict[str, list[Target]]:
        """Model id -> who holds it, the best first. Raises AigridError where there is none."""
        wanted = {self._node.router.resolve(name) for name in self._params.models}
        found: dict[str, list[Target]] = {}
        for target in await self._mesh.candidates(self._dataset.items[0].want):
            if not wanted or target.model in wanted:
                found.setdefault(target.model, []).append(target)
        if not found:
            chosen = "".join(f", {name} {said}" for name, said in self._params.parameters.items())
            among = " of those named" if wanted else ""
            raise NoCandidateError(
                f"no model{among} can be asked for {self._params.capability}{chosen} now: "
                f"`aigrid find {self._params.capability} --explain` says who is not asked, and why"
            )
        if len(found) > LIMITS.evaluated_models_max:
            raise UsageError(
                f"{len(found)} models can be asked, and at most {LIMITS.evaluated_models_max} are "
                "evaluated at once: name some with `--model`"
            )
        return found

    async def one(self, model: str, holders: Sequence[Target], emit: Emit) -> dict[str, Any]:
        """What came of one model; signed, where that is wanted."""
        dataset, measure_ = self._dataset, self._measure
        named = self.named(model)

        async def progress(done: int) -> None:
            await emit({"progress": f"{named['name']}: {done} of {len(dataset.items)} items"})

        measured = await measure(
            self._mesh,
            dataset,
            self._form,
            measure_,
            holders=holders,
            negated=self._negated(model),
            progress=progress,
        )
        found = await self._node.models.run_blocking(
            lambda: interval(measure_, measured.tallies, dataset.seed)
        )
        body = body_of(
            model,
            self._params.capability,
            self._params.parameters,
            measure_.name,
            dataset.sha256,
            items=len(dataset.items),
            found=found,
        )
        record = ""
        if self._params.sign:
            node = self._node
            record = issue(node.graph, node.identity, body, node.now_ms()).content_id
        return {
            **named,
            "node": measured.node,
            "value": float(body.value),
            "low": float(body.low),
            "high": float(body.high),
            "unanswered": measured.unanswered,
            "seconds_per_item": round(measured.seconds, 4),
            "record": record,
        }

    def named(self, model: str) -> dict[str, Any]:
        bodies = self._bodies(model)
        return {"model": model, "name": bodies[0].name if bodies else MODEL_URN + model}

    def _negated(self, model: str) -> bool:
        mappings = [body.model.mapping for body in self._bodies(model)]
        return any(one is not UNSET and not one.output.greater_is_anomalous for one in mappings)

    def _bodies(self, model: str) -> list[ModelBody]:
        manifests = self._node.graph.manifests_of(model, self._node.now_ms())
        return [one.body for one in manifests if isinstance(one.body, ModelBody)]


def _read(path: Path) -> bytes:
    """At most one byte more than a dataset may have. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return file.read(LIMITS.dataset_max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read the dataset {path}: {error.strerror}") from None
