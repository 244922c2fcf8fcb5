"""A model's policy as its owner writes it down: TOML or JSON, strictly read. Pure.

    [[rules]]
    actions = ["invoke"]
    assignees = ["me", "members", "did:key:z6Mk..."]
    purposes = ["research"]
    regions = ["eu"]
    accept_license = true

`me` stands for this node's DID: holders of a grant from it. No rules at all: nobody but the owner.
"""

import json
import tomllib
from collections.abc import Iterable
from typing import Any

import msgspec

from aigrid.node.settings.setting import is_region
from aigrid.protocol.canonical import plain
from aigrid.protocol.credential_kinds import ANYONE, MEMBERS, Rule, check_rules
from aigrid.protocol.errors import UsageError, VerificationError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.limits import LIMITS

_ME = "me"
_LISTS = ("actions", "assignees", "purposes", "regions")
_KNOWN = (*_LISTS, "accept_license")


def parse_policy(text: str, *, me: str) -> tuple[Rule, ...]:
    """The rules in a policy file. Raises UsageError that names the place of what is wrong."""
    if len(text.encode("utf-8", "replace")) > LIMITS.policy_file_max_bytes:
        raise UsageError(f"the policy is larger than {LIMITS.policy_file_max_bytes} bytes")
    document = _document(text)
    _check_members(document, ("rules",), "the policy")
    rules = document.get("rules")
    if not isinstance(rules, list):
        raise UsageError("the policy: rules is a list ([[rules]] in TOML); [] permits nobody")
    if len(rules) > LIMITS.policy_rules_max:
        raise UsageError(f"the policy: there are more than {LIMITS.policy_rules_max} rules")
    return tuple(_rule(rule, f"rules[{at}]", me) for at, rule in enumerate(rules))


def policy_json(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Rules as a policy file in JSON has them, without what says nothing."""
    return [
        {name: value for name in _KNOWN if (value := _plain(getattr(rule, name)))} for rule in rules
    ]


def _document(text: str) -> dict[str, Any]:
    """JSON begins with a brace, which no TOML does."""
    try:
        if text.lstrip().startswith("{"):
            document = json.loads(text, object_pairs_hook=_each_once)
        else:
            document = tomllib.loads(text)
    except RecursionError:
        raise UsageError("the policy is nested too deeply") from None
    except ValueError as error:  # what both decoders raise, and `_each_once`
        raise UsageError(f"the policy is neither TOML nor JSON: {plain(error)}") from None
    return document  # type: ignore[no-any-return]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is given twice")
    return found


def _rule(value: Any, place: str, me: str) -> Rule:
    if not isinstance(value, dict):
        raise UsageError(f"the policy: {place} is not a table")
    _check_members(value, _KNOWN, place)
    found = {**value}
    for name in _LISTS:
        if name not in value:
            continue
        items = value[name]
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise UsageError(f"the policy: {place}.{name} is not a list of strings")
        wished = (me if name == "assignees" and item == _ME else item for item in items)
        found[name] = tuple(sorted(set(wished)))
    for one in found.get("assignees", ()):
        _check_assignee(one, place)
    for one in found.get("regions", ()):
        if not is_region(one):
            text = f"{one[:64]!r} is no region such as eu or us-west"
            raise UsageError(f"the policy: {place}.regions: {text}")
    if "accept_license" in found:
        found["acceptLicense"] = found.pop("accept_license")
    try:
        rule = msgspec.convert(found, Rule)
        check_rules((rule,))
    except (msgspec.ValidationError, VerificationError, UnicodeError) as error:
        raise UsageError(f"the policy: {place}: {plain(error)}") from None
    return rule


def _check_assignee(one: str, place: str) -> None:
    try:
        if one not in (MEMBERS, ANYONE):
            public_key_of_did(one)
    except VerificationError:
        raise UsageError(
            f"the policy: {place}.assignees: {one[:80]!r} is neither {_ME}, nor {MEMBERS}, nor"
            f" {ANYONE}, nor a DID such as did:key:z6Mk... (`aigrid id`)"
        ) from None


def _check_members(found: dict[str, Any], known: tuple[str, ...], place: str) -> None:
    for name in found:
        if name not in known:
            raise UsageError(
                f"{place}: there is no {str(name)[:64]!r}; known are {', '.join(known)}"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
