"""Chains and decisions that are refused, each with its code: for tests and vectors alike."""

from typing import Any

import msgspec
from scripts import policy_world as world
from scripts.policy_world import (
    ANN,
    AUTHORITY,
    BEN,
    CEM,
    DAY_MS,
    GATEWAY,
    INVOKE,
    NOW_MS,
    OWNER,
    STRANGER,
    asked,
    manifest,
    policies,
    statuses,
)

from aigrid.protocol.canonical import content_id
from aigrid.protocol.credential_kinds import (
    ACTIONS,
    ANYONE,
    MEMBERS,
    Action,
    Permission,
    Rule,
)
from aigrid.protocol.errors import Code
from aigrid.protocol.kinds import Kind, WithdrawnBody
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import Asked, Decision, OperatorPolicy, Policies, decide
from aigrid.protocol.record import Record, build
from aigrid.protocol.status import Statuses

MEMBER = world.membership()
CHAIN = world.chain(INVOKE, INVOKE, INVOKE, INVOKE)
FOR_MEMBERS = manifest(Rule(ACTIONS, (MEMBERS,)))
ALL_THAT_COME = OperatorPolicy(serves=frozenset({ANYONE}))


def with_(permission: Permission = INVOKE, **changes: Any) -> Permission:
    return msgspec.structs.replace(permission, **changes)


def situation(
    credentials: list[Record],
    found: Record | None = world.MANIFEST,
    *,
    action: Any = "invoke",
    now_ms: int = NOW_MS,
    known: Any = None,
    operator: OperatorPolicy = ALL_THAT_COME,
    narrowed: dict[str, Permission] | None = None,
    **more: Any,
) -> tuple[Action, Asked, list[Record], Policies, Statuses, int]:
    """The arguments of `decide`; what is left out is as it mostly is."""
    said = policies(found, operator=operator, narrowed=narrowed or {})
    lists = statuses() if known is None else known
    return action, asked(**more), credentials, said, lists, now_ms


def decision(
    credentials: list[Record], found: Record | None = world.MANIFEST, **more: Any
) -> Decision:
    return decide(*situation(credentials, found, **more))


def five_links() -> list[Record]:
    links = world.chain(INVOKE, INVOKE, INVOKE, INVOKE)
    return [*links, world.delegation(links[-1], GATEWAY, STRANGER)]


G = world.grant()
TO_BEN = world.delegation(G, ANN, BEN, delegable=2)
BROKEN: dict[str, tuple[list[Record], str, Code]] = {
    "five links": (five_links(), "", Code.CHAIN_TOO_LONG),
    "no grant at its head": ([TO_BEN], "", Code.CHAIN_BROKEN),
    "a manifest at its head": ([world.MANIFEST], OWNER.did, Code.CHAIN_BROKEN),
    "two grants": ([G, world.grant(BEN)], "", Code.CHAIN_BROKEN),
    "a link left out": (
        [G, world.delegation(TO_BEN, BEN, CEM, delegable=1)],
        "",
        Code.CHAIN_BROKEN,
    ),
    "of another grant of the same": (
        [G, world.delegation(world.grant(index=9), ANN, BEN)],
        "",
        Code.CHAIN_BROKEN,
    ),
    "delegated by another": ([G, world.delegation(G, STRANGER, BEN)], "", Code.CHAIN_BROKEN),
    "delegated by the owner": ([G, world.delegation(G, OWNER, BEN)], "", Code.CHAIN_BROKEN),
    "out of order": ([TO_BEN, G], ANN.did, Code.CHAIN_BROKEN),
    "twice the same": ([G, TO_BEN, TO_BEN], "", Code.CHAIN_BROKEN),
    "not to be delegated": (
        [g := world.grant(delegable=0), world.delegation(g, ANN, BEN)],
        "",
        Code.NOT_DELEGABLE,
    ),
    "delegated once too often": (
        [
            g := world.grant(delegable=1),
            d := world.delegation(g, ANN, BEN),
            world.delegation(d, BEN, CEM),
        ],
        "",
        Code.NOT_DELEGABLE,
    ),
    "passes on what is on behalf": (
        [
            g := world.grant(),
            d := world.delegation(g, ANN, BEN, delegable=1, on_behalf=True),
            world.delegation(d, BEN, CEM),
        ],
        "",
        Code.NOT_DELEGABLE,
    ),
    "lets as many follow as its parent": (
        [g := world.grant(delegable=1), world.delegation(g, ANN, BEN, delegable=1)],
        "",
        Code.DELEGATION_WIDENS,
    ),
    "outlives its parent": (
        [G, world.delegation(G, ANN, BEN, life_ms=DAY_MS + 1)],
        "",
        Code.DELEGATION_WIDENS,
    ),
    "another holder": ([G], STRANGER.did, Code.NOT_HOLDER),
    "the holder of an earlier link": ([G, TO_BEN], ANN.did, Code.NOT_HOLDER),
}


WIDER: dict[str, tuple[Permission, Permission, str]] = {
    "another action": (INVOKE, with_(actions=("fetch", "invoke")), "actions"),
    "everything": (with_(targets=("text",)), INVOKE, "targets"),
    "another model": (
        with_(targets=(MODEL_URN + world.MODEL,)),
        with_(targets=(MODEL_URN + world.MANIFEST.content_id,)),
        "targets",
    ),
    "a capability of a model": (
        with_(targets=(MODEL_URN + world.MODEL,)),
        with_(targets=("text",)),
        "targets",
    ),
    "any purpose": (with_(purposes=("a",)), INVOKE, "purposes"),
    "another purpose": (with_(purposes=("a",)), with_(purposes=("a", "b")), "purposes"),
    "any region": (with_(regions=("eu",)), INVOKE, "regions"),
    "another region": (with_(regions=("eu",)), with_(regions=("us",)), "regions"),
    "any node": (with_(audience=(BEN.did,)), INVOKE, "audience"),
    "another node": (with_(audience=(BEN.did,)), with_(audience=(CEM.did,)), "audience"),
    "any requests": (with_(requests_per_day=3), INVOKE, "requests per day"),
    "more requests": (
        with_(requests_per_day=3),
        with_(requests_per_day=4),
        "requests per day",
    ),
    "any tokens": (with_(tokens_per_day=3), INVOKE, "tokens per day"),
    "more at once": (with_(concurrency=1), with_(concurrency=2), "concurrency"),
}


G1 = world.grant(GATEWAY)
LICENSED = manifest(Rule(("invoke",), (MEMBERS,), accept_license=True), license="MIT")
WITHDRAWN = build(
    Kind.MODEL,
    WithdrawnBody(id=MODEL_URN + world.MODEL, withdrawn=True),
    OWNER,
    valid_from_ms=NOW_MS,
    valid_until_ms=NOW_MS + DAY_MS,
)
NOBODY = OperatorPolicy(serves=frozenset())
REFUSED: dict[str, tuple[list[Record], dict[str, Any], Code]] = {
    # what is presented
    "two memberships": ([MEMBER, MEMBER], {}, Code.PRESENTATION_INVALID),
    "a membership of another grid": (
        [world.membership(by=STRANGER, grid=STRANGER.did, status=world.entry(STRANGER, 1))],
        {},
        Code.NOT_MEMBER,
    ),
    "a membership of another key": ([world.membership(ANN)], {}, Code.NOT_HOLDER),
    "a grant of another key": ([world.grant(ANN)], {}, Code.NOT_HOLDER),
    "a revoked membership": (
        [MEMBER],
        {"known": statuses(revoked={AUTHORITY.did: [1]})},
        Code.REVOKED,
    ),
    "a membership of which nothing is known": (
        [MEMBER],
        {"known": statuses(unknown=[AUTHORITY.did])},
        Code.STATUS_STALE,
    ),
    "a membership that cannot be revoked": (
        [
            build(
                Kind.MEMBERSHIP,
                MEMBER.body,
                AUTHORITY,
                valid_from_ms=NOW_MS,
                valid_until_ms=NOW_MS + 1000,
            )
        ],
        {},
        Code.STATUS_STALE,
    ),
    "an expired membership": ([MEMBER], {"now_ms": NOW_MS + DAY_MS}, Code.EXPIRED),
    "a membership of the future": ([MEMBER], {"now_ms": NOW_MS - 120_001}, Code.FROM_FUTURE),
    "no chain": ([CHAIN[1]], {}, Code.CHAIN_BROKEN),
    # the operator
    "a model that is not hosted": (
        [MEMBER],
        {"operator": OperatorPolicy(hosts=frozenset({"vision"}))},
        Code.NOT_SERVED,
    ),
    "nobody is served": ([MEMBER], {"operator": NOBODY}, Code.NOT_SERVED),
    "only members are served": (CHAIN, {"operator": OperatorPolicy()}, Code.NOT_SERVED),
    "only holders from another are served": (
        [MEMBER, *CHAIN],
        {"operator": OperatorPolicy(serves=frozenset({STRANGER.did}))},
        Code.NOT_SERVED,
    ),
    # the manifest
    "no manifest": ([MEMBER], {"found": None}, Code.WRONG_MANIFEST),
    "another manifest": ([MEMBER], {"manifest": content_id(b"x")}, Code.WRONG_MANIFEST),
    "a manifest of another model": ([MEMBER], {"model": content_id(b"x")}, Code.WRONG_MANIFEST),
    "a withdrawn manifest": ([MEMBER], {"found": WITHDRAWN}, Code.ACTION_NOT_ALLOWED),
    # the owner's rules
    "another action": ([MEMBER], {"action": "fetch"}, Code.ACTION_NOT_ALLOWED),
    "no grant": ([MEMBER], {}, Code.NO_GRANT),
    "a grant of another": (
        [world.grant(GATEWAY, by=STRANGER)],
        {},
        Code.NO_GRANT,
    ),
    "no membership": ([G1], {"found": FOR_MEMBERS}, Code.NOT_MEMBER),
    "another region": (
        [G1],
        {"found": manifest(Rule(("invoke",), (OWNER.did,), regions=("eu",))), "region": "us"},
        Code.REGION_NOT_ALLOWED,
    ),
    "a region that is not said": (
        [G1],
        {"found": manifest(Rule(("invoke",), (OWNER.did,), regions=("eu",)))},
        Code.REGION_NOT_ALLOWED,
    ),
    "no purpose": (
        [G1],
        {"found": manifest(Rule(("invoke",), (OWNER.did,), purposes=("research",)))},
        Code.PURPOSE_NOT_ALLOWED,
    ),
    "a licence that is not accepted": (
        [MEMBER],
        {"found": LICENSED, "accepts": frozenset({"Apache-2.0"})},
        Code.LICENSE_NOT_ACCEPTED,
    ),
    "a licence that is not stated": (
        [MEMBER],
        {"found": manifest(Rule(("invoke",), (MEMBERS,), accept_license=True))},
        Code.LICENSE_NOT_ACCEPTED,
    ),
    # the credential's own words
    "an action that is not granted": (
        [world.grant(GATEWAY, with_(actions=("fetch",)))],
        {},
        Code.ACTION_NOT_ALLOWED,
    ),
    "a model that is not granted": (
        [world.grant(GATEWAY, with_(targets=("vision",)))],
        {},
        Code.TARGET_NOT_COVERED,
    ),
    "another node": (
        [world.grant(GATEWAY, with_(audience=(ANN.did,)))],
        {},
        Code.AUDIENCE_NOT_ALLOWED,
    ),
    "a region that is not granted": (
        [world.grant(GATEWAY, with_(regions=("eu",)))],
        {"region": "us"},
        Code.REGION_NOT_ALLOWED,
    ),
    "a purpose that is not granted": (
        [world.grant(GATEWAY, with_(purposes=("research",)))],
        {"purpose": "ads"},
        Code.PURPOSE_NOT_ALLOWED,
    ),
    "more than the gateway lets its actor": (
        [G1],
        {"narrowed": {"the actor ann": with_(targets=("vision",))}},
        Code.TARGET_NOT_COVERED,
    ),
}
