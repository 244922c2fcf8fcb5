"""A request of a capability: the JSON body decoded, checked against its contract. Pure.

A strategy says in which order candidates stand, constraints which of them count at all, and a mode
how they are asked. Parameters that manifests state values of, such as the languages of a
translation, choose among candidates; the others go to whoever answers.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigrid.metagraph.selection import Criteria, Filters, Strategy, strategy_of
from aigrid.node.outcome.asking import Want
from aigrid.node.outcome.contract import SELECTING, Contract
from aigrid.node.outcome.modes import Mode, Parameters, Pipeline, Step, mode_of
from aigrid.node.outcome.no_json import no_json
from aigrid.node.outcome.steps import FIRST, Graph
from aigrid.protocol.errors import InvalidRequestError, UsageError
from aigrid.protocol.inference import ChatMessage, InferRequest, TaskRequest, TextRequest

CAPABILITY: Final = "capability:"
"""What the `model` of a request begins with that names a capability instead."""

STRATEGY: Final = "strategy"
_TEXT: Final = "text-generation"
_REASON_MAX_CHARS: Final = 300
_DEFAULT_STRATEGY: Final = "balanced"
_BALANCED: Final = msgspec.Raw(b'"balanced"')
_NOTHING: Final = msgspec.Raw(b"null")
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_encode = msgspec.json.Encoder().encode


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/capabilities/{name}`. `strategy`: a name, or weights by name."""

    input: msgspec.Raw
    parameters: Parameters = {}
    constraints: msgspec.Raw = msgspec.Raw(b"{}")
    strategy: msgspec.Raw = _BALANCED
    mode: msgspec.Raw = _NOTHING
    seed: Seed | None = None
    explain: bool = False
    stream: bool = False
    keep_alive: str | int | float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, checked; with a `graph` it is the first step of a pipeline."""

    want: Want
    mode: Mode
    explain: bool
    graph: Graph | None = None


class _TextInput(msgspec.Struct, frozen=True):
    messages: tuple[ChatMessage, ...]


class _TextSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | None = None


def decode(raw: bytes) -> Body:
    """Raises InvalidRequestError: what is wrong with the body."""
    try:
        raw.decode()  # msgspec checks only the strings that it keeps
        return _BODY.decode(raw)
    except msgspec.ValidationError as error:
        wrong = str(error)[:_REASON_MAX_CHARS]  # it names members that are none, however long
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        wrong = no_json(raw, error)
    raise InvalidRequestError(
        f'The body is not a request of a capability: {wrong}. Send {{"input": ...}}.'
    )


def asked(contract: Contract, body: Body) -> Asked:
    """What a body asks for.

    Raises:
        InvalidRequestError: input, parameters, constraints, strategy or mode do not fit.
    """
    mode = mode_of(bytes(body.mode))
    want = wanted(
        contract,
        _json(bytes(body.input), "input"),
        parameters=body.parameters,
        constraints=bytes(body.constraints),
        strategy=bytes(body.strategy),
        seed=body.seed,
    )
    graph = None
    if isinstance(mode, Pipeline):
        graph = Graph(Step(FIRST, contract.capability), mode, bytes(body.input))
    return Asked(want, mode, body.explain, graph)


def check_steps(graph: Graph, contract_of: Callable[[str], Contract]) -> None:
    """Whatever of a pipeline's later steps can be checked before the first is asked.

    That is everything but inputs that wait for another step. `contract_of` raises
    InvalidRequestError for a capability that is unknown.

    Raises:
        InvalidRequestError: which step is wrong, and how.
    """
    for step in graph.steps.values():
        if step.name == FIRST:
            continue
        try:
            contract = contract_of(step.capability)
            contract.check_askable()
            found = graph.input_known(step.name)
            if found is UNSET:
                _step_mode(step)
                others, _ = _sorted_out(contract, *_step_said(step), None)
                if contract.task == _TEXT:
                    _text_settings(contract, others)
            else:
                step_asked(contract, step, found, None)
        except InvalidRequestError as error:
            prefix = f"Step {step.name!r}: "
            message = prefix + error.message.removeprefix(prefix)
            raise InvalidRequestError(message, error.code, param=error.param) from None


def step_asked(contract: Contract, step: Step, value: Any, seed: int | None) -> Asked:
    """What a step of a pipeline asks for, once its input is there.

    Raises:
        InvalidRequestError: as `asked`, and for a pipeline in a pipeline.
    """
    mode = _step_mode(step)
    parameters, constraints, strategy = _step_said(step)
    want = wanted(
        contract,
        value,
        parameters=parameters,
        constraints=constraints,
        strategy=strategy,
        seed=seed,
    )
    return Asked(want, mode, explain=False)


def _step_mode(step: Step) -> Mode:
    mode = mode_of(b"null" if step.mode is UNSET else bytes(step.mode))
    if isinstance(mode, Pipeline):
        raise InvalidRequestError(
            f"Step {step.name!r}: it is a pipeline itself: put its steps beside it.", param="mode"
        )
    return mode


def _step_said(step: Step) -> tuple[Parameters, bytes, bytes]:
    """Its parameters, constraints and strategy."""
    said = step.strategy
    strategy = bytes(_BALANCED if isinstance(said, UnsetType) else said)
    return step.parameters, bytes(step.constraints), strategy


def wanted(
    contract: Contract,
    value: Any,
    *,
    parameters: Mapping[str, Any],
    constraints: bytes = b"{}",
    strategy: bytes = bytes(_BALANCED),
    seed: int | None = None,
) -> Want:
    """One capability with a decoded input. Raises InvalidRequestError."""
    contract.check_input(value)
    others, criteria = _sorted_out(contract, parameters, constraints, strategy, seed)
    return Want(contract, _request(contract, value, others), criteria)


def _sorted_out(
    contract: Contract,
    parameters: Mapping[str, Any],
    constraints: bytes,
    strategy: bytes,
    seed: int | None,
) -> tuple[dict[str, Any], Criteria]:
    """The parameters that go to whoever answers, and by what that one is chosen."""
    contract.check_parameters(parameters)
    selecting = contract.selecting(parameters)
    others = {name: one for name, one in parameters.items() if name not in selecting}
    filters = filters_of(contract.capability, _json(constraints, "constraints"), selecting)
    return others, Criteria(filters, _strategy(_json(strategy, "strategy")), seed)


def _strategy(said: Any) -> Strategy:
    if said is not None and not isinstance(said, str | dict):
        raise InvalidRequestError("`strategy` is a name, or weights by name.", param="strategy")
    return strategy_of(_DEFAULT_STRATEGY if said is None else said)


def filters_of(capability: str, said: Any, selecting: Mapping[str, Any]) -> Filters:
    """Constraints as they are said, and the parameters that choose among candidates.

    Raises:
        InvalidRequestError: one there is not, or with a value that it cannot have.
    """
    if not isinstance(said, dict) or "capability" in said:
        raise InvalidRequestError("`constraints` is an object of constraints.", param="constraints")
    whole = {**said, "capability": capability}
    whole |= {name: value for name, value in selecting.items() if name in SELECTING}
    further = {name: value for name, value in selecting.items() if name not in SELECTING}
    among = said.get("parameters", {})
    if further and isinstance(among, dict):
        whole["parameters"] = {**among, **further}
    try:
        filters = msgspec.convert(whole, Filters)
        filters.check()
    except (msgspec.ValidationError, UsageError, UnicodeError) as error:
        wrong = str(error)[:_REASON_MAX_CHARS]
        raise InvalidRequestError(
            f"The constraints are not understood: {wrong}.", param="constraints"
        ) from None
    return filters


def named(
    model: str, stated: Callable[[str], Collection[str]] = lambda _: ()
) -> tuple[str, Filters, dict[str, str]] | None:
    """What a `model` such as `capability:translation?source=en&max_latency_ms=500` asks for.

    None where it names a model. Else the capability, what is to be fulfilled, and the parameters
    that are neither a constraint nor choose: strategy and settings, as text. `stated` names those
    that choose among models of a capability beside `source` and `target`.

    Raises:
        InvalidRequestError: it begins like one, and is none.
    """
    if not model.startswith(CAPABILITY):
        return None
    capability, _, query = model.removeprefix(CAPABILITY).partition("?")
    given = _parameters(query)
    said: dict[str, Any] = {}
    others: dict[str, str] = {}
    for name, text in given.items():
        field = _ALIASES.get(name, name)
        if field in _NUMBERS:
            if not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS_MAX:
                raise _no_value(name, text, "a whole number")
            said[field] = int(text)
        elif field == "warm":
            if text not in _TRUTHS:
                raise _no_value(name, text, "true or false")
            said[field] = text == "true"
        elif field in _TEXTS:
            said[field] = text
        else:
            others[name] = text
    if others.keys() - {STRATEGY}:
        names = frozenset(stated(capability)) - {STRATEGY}
        selecting = {name: text for name, text in others.items() if name in names}
    else:
        selecting = {}
    others = {name: text for name, text in others.items() if name not in selecting}
    try:
        return capability, filters_of(capability, said, selecting), others
    except InvalidRequestError as error:
        raise InvalidRequestError(error.message, param="model") from None


def _parameters(query: str) -> dict[str, str]:
    """What is named after the `?`. Raises InvalidRequestError."""
    try:
        # A blank value is kept, so that it is refused by name and does not go unseen.
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=_NAMED_MAX
        )
    except ValueError:
        raise _no_query(f"{query[:100]!r} is no NAME=VALUE, joined by `&`") from None
    given: dict[str, str] = {}
    for name, text in pairs:
        if name in given:
            raise _no_query(f"{name[:64]!r} is given twice")
        if not text:
            raise _no_query(f"{name[:64]!r} has no value")
        given[name] = text
    return given


def _no_value(name: str, text: str, what: str) -> InvalidRequestError:
    return _no_query(f"`{name}` is {what}, and {text[:64]!r} is not")


def _no_query(wrong: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{wrong}: write `capability:translation?source=en&target=fr&max_latency_ms=500`.",
        param="model",
    )


def _request(contract: Contract, value: Any, parameters: Mapping[str, Any]) -> InferRequest:
    """As engines understand it: generated text has a request of its own."""
    if contract.task != _TEXT:
        try:
            return TaskRequest(contract.capability, _encode(value), dict(parameters))
        except RecursionError:  # an output that goes into the next step
            raise InvalidRequestError(
                f"The input of {contract.capability} is nested too deeply.", param="input"
            ) from None
    return _text_request(contract, value, parameters)


def _text_request(contract: Contract, value: Any, parameters: Mapping[str, Any]) -> TextRequest:
    settings = _text_settings(contract, parameters)
    try:
        text = msgspec.convert(value, _TextInput)
        return _held(msgspec.structs.replace(settings, messages=text.messages))
    except (msgspec.ValidationError, UnicodeError) as error:
        raise InvalidRequestError(
            f"The input of {contract.capability} does not fit: {error}.", param="input"
        ) from None


def _text_settings(contract: Contract, parameters: Mapping[str, Any]) -> TextRequest:
    """A request without input."""
    try:
        settings = msgspec.convert(parameters, _TextSettings)
        return _held(
            TextRequest(
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=settings.seed,
                stop=() if settings.stop is None else (settings.stop,),
            )
        )
    except (msgspec.ValidationError, UnicodeError) as error:
        raise InvalidRequestError(
            f"The parameters of {contract.capability} do not fit: {error}.", param="parameters"
        ) from None


def _held(request: TextRequest) -> TextRequest:
    """Held to its bounds."""
    return msgspec.convert(msgspec.to_builtins(request), TextRequest)


def _json(raw: bytes, param: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequestError(
            f"`{param}` is not JSON: {no_json(raw, error)}.", param=param
        ) from None


_BODY: Final = msgspec.json.Decoder(Body)
_NAMED_MAX, _DIGITS_MAX = 32, 15
_TRUTHS: Final = ("true", "false")
_NUMBERS: Final = frozenset({"latency_ms_max", "size_bytes_max", "deadline_ms"})
_TEXTS: Final = frozenset(
    {
        *("language", "format", "precision", "license", "region", "issuer", "signer"),
        *("source", "target"),
    }
)
_ALIASES: Final[Mapping[str, str]] = {
    "max_latency_ms": "latency_ms_max",
    "max_size_bytes": "size_bytes_max",
}
