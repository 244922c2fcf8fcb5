"""The methods behind `aigrid run` and `aigrid capability list` and `show`."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aigrid.node.app import Node
from aigrid.node.commands.finding import capability_named
from aigrid.node.commands.misfit import misfit
from aigrid.node.control import Emit
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.outcome.contract import Contract
from aigrid.node.outcome.request import Body, Seed, asked, check_steps
from aigrid.node.outcome.said import input_of_file, input_said
from aigrid.node.outcome_setup import contracts_of, misfit_of, outcomes_of
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import InvalidRequestError, UsageError
from aigrid.protocol.limits import LIMITS

Method = Callable[[Any, Emit], Awaitable[dict[str, Any]]]
_encode = msgspec.json.Encoder().encode


class Run(msgspec.Struct, forbid_unknown_fields=True):
    """A request of a capability. Of `text` and `data`, a file in base64, one is given.

    `strategy` and `mode`: a name, or JSON text. `constraints`: as in the HTTP body.
    """

    capability: Annotated[str, Meta(min_length=1, max_length=LIMITS.capability_max_chars)]
    text: str | None = None
    data: str | None = None
    parameters: dict[str, str | int | float | bool] = {}
    constraints: dict[str, Any] = {}
    strategy: str | None = None
    mode: str | None = None
    seed: Seed | None = None
    explain: bool = False


class Named(msgspec.Struct, forbid_unknown_fields=True):
    """A capability."""

    name: str


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No arguments."""


async def run(node: Node, params: Run, _: Emit) -> dict[str, Any]:
    """`output` and `aigrid`, as `POST /v1/capabilities/{name}` answers. Raises AigridError."""
    contracts = contracts_of(node)
    name = capability_named(node.graph, params.capability, node.now_ms())
    try:
        contract = contracts.of(name)
        body = _body(contract, params)
        found = asked(contract, body)
        if found.graph is not None:
            check_steps(found.graph, contracts.of)
    except InvalidRequestError as error:  # nobody has been asked yet: it was called wrongly
        raise UsageError(misfit(error.message)) from None
    core = GatewayCore(
        node.router,
        status=dict,
        now_ms=node.now_ms,
        token=node.new_request_id,
        contract=contracts.of,
        misfit=misfit_of(node),
    )
    with core.request(None) as request_id:
        core.course(request_id).begin()
        told = await outcomes_of(node, core).ask(
            name, body, request_id=request_id, visit=Visit(OPERATOR)
        )
    return dict(msgspec.json.decode(_encode(told)))


async def list_capabilities(node: Node, _: Nothing, __: Emit) -> dict[str, Any]:
    """Every capability that is known, and how many models can be asked for it."""
    contracts = contracts_of(node)
    offered = contracts.counted(view.capabilities for view in node.router.models())
    return {
        "capabilities": [
            {**one.summary, "models": offered[one.capability]} for one in contracts.all()
        ]
    }


async def show_capability(node: Node, params: Named, _: Emit) -> dict[str, Any]:
    """One of them with its schemas, and the models that can be asked for it now."""
    contract = contracts_of(node).of(capability_named(node.graph, params.name, node.now_ms()))
    satisfied = node.graph.index.concepts.satisfied
    models = [
        {"name": view.name, "model": view.model, "state": view.state, "nodes": len(view.nodes)}
        for view in node.router.models()
        if contract.capability in satisfied(view.capabilities)
    ]
    schemas = {
        name: msgspec.json.decode(schema)
        for name, schema in (
            ("input", contract.input),
            ("output", contract.output),
            ("parameters", contract.parameters),
        )
    }
    return {**contract.summary, **schemas, "models": models}


def outcome_methods(node: Node) -> Mapping[str, tuple[type[msgspec.Struct], Method]]:
    """By name, for the control socket."""
    return {
        "run": (Run, partial(run, node)),
        "capabilities": (Nothing, partial(list_capabilities, node)),
        "capability_show": (Named, partial(show_capability, node)),
    }


def _body(contract: Contract, params: Run) -> Body:
    return Body(
        input=msgspec.Raw(_encode(_input(contract, params))),
        parameters=params.parameters,
        constraints=msgspec.Raw(_encode(params.constraints)),
        strategy=_named(params.strategy),
        mode=_named(params.mode),
        seed=params.seed,
        explain=params.explain,
    )


def _input(contract: Contract, params: Run) -> Any:
    if (params.text is None) is (params.data is None):
        raise UsageError("give an INPUT, or a file with --file")
    if params.data is None:
        return input_said(contract, params.text or "")
    try:
        return input_of_file(contract, base64.b64decode(params.data, validate=True))
    except binascii.Error:
        raise UsageError("the file is not in base64") from None


def _named(said: str | None) -> msgspec.Raw:
    """JSON where it begins like an object, else a name."""
    if said is None:
        return msgspec.Raw(b"null")
    return msgspec.Raw(said.encode() if said.lstrip().startswith("{") else _encode(said))
