"""An input as somebody says it who is no program: in words, as a file, or as JSON. Pure."""

import base64
from typing import Any, Final

import msgspec

from aigrid.node.outcome.contract import Contract
from aigrid.protocol.errors import InvalidRequestError

_TEXT: Final = "text-generation"


def input_said(contract: Contract, text: str) -> Any:
    """What a text means: itself where a text is taken, a message where text is generated, or JSON.

    Raises:
        InvalidRequestError: none of them fits.
    """
    candidates: list[Any] = [text]
    if contract.task == _TEXT:
        candidates = [{"messages": [{"role": "user", "content": text}]}]
    try:
        candidates.append(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    return _fitting(contract, candidates)


def input_of_file(contract: Contract, data: bytes) -> Any:
    """What a file holds: text or JSON as above, or bytes where base64 is taken.

    Raises:
        InvalidRequestError: none of them fits.
    """
    encoded = base64.b64encode(data).decode()
    if contract.takes_base64:
        return _fitting(contract, [encoded])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return _fitting(contract, [encoded])
    return input_said(contract, text)


def _fitting(contract: Contract, candidates: list[Any]) -> Any:
    for value in candidates[:-1]:
        try:
            contract.check_input(value)
        except InvalidRequestError:
            continue
        return value
    contract.check_input(candidates[-1])
    return candidates[-1]
