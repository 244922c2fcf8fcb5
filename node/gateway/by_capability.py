"""Requests whose `model` names a capability, in every dialect: what they ask for. Pure.

`capability:translation?source=en&target=fr&max_latency_ms=500` stands for whatever model does that,
as selection chooses. Where the capability is no generation of text, its input is what the last
message or the prompt says, and its answer is spoken: a text as it is, anything else as JSON.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from aigrid.metagraph.selection import STRATEGIES, Criteria, strategy_of
from aigrid.node.outcome.contract import Contract
from aigrid.node.outcome.request import named
from aigrid.protocol.errors import Code, EngineError, InvalidRequestError
from aigrid.protocol.inference import TaskRequest, TextRequest

STRATEGY: Final = "strategy"
_BALANCED: Final = STRATEGIES["balanced"]
_LENGTH: Final = "max_tokens"
_encode = msgspec.json.Encoder().encode


def capability_of(models: Sequence[str]) -> tuple[str, Criteria] | None:
    """The capability that a request names instead of models, and by what is chosen.

    Raises:
        InvalidRequestError: it names both, or a capability in a way that is not understood.
    """
    found = [one for one in map(named, models) if one is not None]
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
    parameters: dict[str, str | int | float | bool] = {}
    if request.max_tokens is not None and _LENGTH in contract.settings:
        parameters[_LENGTH] = request.max_tokens
    return TaskRequest(contract.capability, _encode(value), parameters)


def decoded(contract: Contract, output: bytes) -> Any:
    """An answer, which came as JSON text. Raises EngineError: it is none of the capability's."""
    try:
        value = msgspec.json.decode(output)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise EngineError(f"An answer of {contract.capability} is no JSON.") from None
    contract.check_output(value)
    return value


def spoken(contract: Contract, output: bytes) -> str:
    """A task's answer, as JSON text, as what somebody in a chat is told. Raises as `decoded`."""
    value = decoded(contract, output)
    if isinstance(value, dict) and value.keys() == {"text"}:
        value = value["text"]
    return value if isinstance(value, str) else output.decode()


def _decoded(said: str, contract: Contract) -> Any:
    try:
        return msgspec.json.decode(said)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidRequestError(
            f"{contract.capability} does not take a text: say its input as JSON. "
            f"GET /v1/capabilities/{contract.capability} shows its schema.",
            param="messages",
        ) from None
