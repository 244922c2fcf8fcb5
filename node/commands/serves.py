"""For which values of selecting parameters a model is published, as a person writes it."""

from collections import defaultdict
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.commands.finding import check_capability
from aigrid.protocol.errors import UsageError
from aigrid.protocol.mesh_kinds import Serves

_FORM: Final = (
    "--serves is CAPABILITY:NAME=VALUE,NAME=VALUE, such as translation:source=en,target=fr"
)


def parse_serves(given: tuple[str, ...], concepts: LiveConcepts, now_ms: int) -> Serves | UnsetType:
    """What each of `CAPABILITY:NAME=VALUE,...` says, together; unset where nothing is given.

    Raises:
        UsageError: for another form, an unknown capability, or what a manifest cannot state.
    """
    if not given:
        return UNSET
    said: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for text in given:
        head, equals, tail = text.partition("=")
        capability, colon, first = head.rpartition(":")  # an own capability's name has colons
        if not (equals and colon):
            raise UsageError(_FORM)
        check_capability(concepts, capability, now_ms)
        for choice in f"{first}={tail}".split(","):
            name, _, value = choice.partition("=")
            said[capability][name].add(value)
    listed: list[dict[str, Any]] = [
        {
            "capability": capability,
            "parameters": {name: sorted(values) for name, values in parameters.items()},
        }
        for capability, parameters in sorted(said.items())
    ]
    try:
        return msgspec.convert(listed, Serves)
    except msgspec.ValidationError as error:
        raise UsageError(f"{_FORM}: {error}") from None


def serves_said(serves: Serves | UnsetType) -> list[str] | None:
    """As a person writes it; None where it stays as it is."""
    if serves is UNSET:
        return None
    return [
        f"{one.capability}:"
        + ",".join(f"{name}={value}" for name, values in one.parameters.items() for value in values)
        for one in serves
    ]
