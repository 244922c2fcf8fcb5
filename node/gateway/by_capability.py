"""Requests whose `model` names a capability, in every dialect: what they ask for. Pure.

`capability:translation?source=en&target=fr&max_latency_ms=500` stands for whatever model does that,
as selection chooses. Where the capability is no generation of text, its input is what the last
message or the prompt says, and its answer is spoken: a text as it is, anything else as JSON. There,
what would make it another answer and is no parameter of the capability is refused by name. Where
it has none for them, how tokens are drawn and how many (`temperature`, `top_p`, `seed`,
`max_tokens`) means nothing, for none are.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from aigrid.metagraph.selection import STRATEGIES, Criteria, strategy_of
from aigrid.node.gateway.call import TextCall
from aigrid.node.outcome.contract import SELECTING, Contract
from aigrid.node.outcome.request import STRATEGY, named
from aigrid.protocol.errors import Code, EngineError, InvalidRequestError
from aigrid.protocol.inference import TaskRequest, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import is_neutral, members, needed, not_taken, packed
from aigrid.protocol.nesting import is_nested_deeper

_BALANCED: Final = STRATEGIES["balanced"]
_SHORT: Final = LIMITS.capability_answer_values_max  # no more values than bytes
_STOP: Final = "stop"
_COUNT: Final = "n"
# Fields of a request that a capability may have parameters for, with what changes nothing.
_FIELDS: Final[Mapping[str, Any]] = {
    "max_tokens": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "seed": None,
}
_encode = msgspec.json.Encoder().encode


def capability_of(
    models: Sequence[str], stated: Callable[[str], Collection[str]] = lambda _: ()
) -> tuple[str, Criteria] | None:
    """The capability that a request names instead of models, and by what is chosen.

    `stated`: see `named`.

    Raises:
        InvalidRequestError: it names both, or a capability in a way that is not understood.
    """
    found = [one for model in models if (one := named(model, stated)) is not None]
    if not found:
        return None
    if len(models) > 1:
        raise InvalidRequestError(
            "A capability stands for all models that have it: name it alone.", param="models"
        )
    capability, constraints, others = found[0]
    strategy = others.pop(STRATEGY, None)
    if others:
        raise InvalidRequestError(
            f"{capability} is not chosen by {min(others)[:64]!r}: name constraints, such as "
            "`max_latency_ms`, selecting parameters, such as `source`, and `strategy`.",
            Code.UNSUPPORTED_PARAMETER,
            param="model",
        )
    chosen = _BALANCED if strategy is None else strategy_of(strategy)
    return capability, Criteria(constraints, chosen)


def check_taken(call: TextCall, contract: Contract) -> None:
    """Whether a capability that is no generation of text can answer as a call has it.

    Raises:
        InvalidRequestError: `unsupported_parameter`, what of it would make another answer.
    """
    strict = call.preferences.require_parameters
    names = {_COUNT} if call.choices > 1 else set[str]()
    for request in (call.request, *call.others):
        said = members(request.more)
        chosen = SELECTING | (contract.stated() if said else frozenset())
        others = {
            name: raw
            for name, raw in said.items()
            if name not in contract.settings or name in chosen
        }
        rest = msgspec.structs.replace(request, more=packed(others))
        names |= needed(rest, strict=strict)
        selecting = chosen & contract.settings & others.keys()
        names |= {name for name in selecting if not is_neutral(others[name], ())}
        if request.stop:
            names.add(_STOP)
    if names:
        raise not_taken(names, contract.capability)


def task_of(request: TextRequest, contract: Contract) -> TaskRequest:
    """What a request for text asks of a capability that is no generation of text.

    Raises:
        InvalidRequestError: there is nothing that could be its input.
    """
    contract.check_askable()
    said = request.messages[-1].content if request.messages else request.prompt
    if said is None:
        raise InvalidRequestError(
            f"{contract.capability} takes text, not token ids: send messages, or a prompt.",
            param="prompt",
        )
    value: Any = said
    try:
        contract.check_input(value)
    except InvalidRequestError:
        value = _decoded(said, contract)
        contract.check_input(value)
    return TaskRequest(contract.capability, _encode(value), _parameters(request, contract))


def decoded(contract: Contract, output: bytes) -> Any:
    """An answer, which came as JSON text. Raises EngineError: it is none of the capability's.

    It may be hostile, and nothing else runs while it is decoded: what is there is counted first.
    """
    values = sum(map(output.count, (b",", b"[", b"{"))) if len(output) > _SHORT else 0
    if len(output) > LIMITS.capability_answer_max_bytes:
        raise EngineError(f"An answer of {contract.capability} is too long: {len(output)} bytes.")
    if values > LIMITS.capability_answer_values_max:
        raise EngineError(f"An answer of {contract.capability} has too many values.")
    try:
        value = msgspec.json.decode(output)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise EngineError(f"An answer of {contract.capability} is no JSON.") from None
    if is_nested_deeper(value, LIMITS.answer_depth_max):
        raise EngineError(f"An answer of {contract.capability} is nested too deeply.")
    contract.check_output(value)
    return value


def spoken(contract: Contract, output: bytes) -> str:
    """A task's answer, as JSON text, as what somebody in a chat is told. Raises as `decoded`."""
    value = decoded(contract, output)
    if isinstance(value, dict) and value.keys() == {"text"}:
        value = value["text"]
    return value if isinstance(value, str) else output.decode()


def _parameters(request: TextRequest, contract: Contract) -> dict[str, str | int | float | bool]:
    """What is said that the capability has a parameter for; what changes nothing is left out."""
    wanted = contract.settings - SELECTING
    further: Mapping[str, msgspec.Raw] = members(request.more) if wanted else {}
    said = {name: _plain(name, raw) for name, raw in further.items() if name in wanted}
    said |= {name: getattr(request, name) for name in wanted & _FIELDS.keys()}
    found: dict[str, str | int | float | bool] = {}
    for name, value in said.items():
        if value == _FIELDS.get(name):
            continue
        if not isinstance(value, str | int | float | bool):
            raise InvalidRequestError(f"`{name}` is a text, a number or a boolean.", param=name)
        try:
            contract.check_parameters({name: value})
        except InvalidRequestError as error:
            raise InvalidRequestError(error.message, error.code, param=name) from None
        found[name] = value
    return found


def _plain(name: str, raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidRequestError(f"`{name}` is no JSON.", param=name) from None


def _decoded(said: str, contract: Contract) -> Any:
    try:
        return msgspec.json.decode(said)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidRequestError(
            f"{contract.capability} does not take a text: say its input as JSON. "
            f"GET /v1/capabilities/{contract.capability} shows its schema.",
            param="messages",
        ) from None
