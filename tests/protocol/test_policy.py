"""The one decision: each code, what comes first, and that what is added only ever takes away."""

from typing import Any

import msgspec
import pytest
from scripts import policy_world as world
from scripts.policy_world import (
    ANN,
    AUTHORITY,
    BEN,
    DAY_MS,
    GATEWAY,
    INVOKE,
    NODE,
    NOW_MS,
    OWNER,
    STRANGER,
    asked,
    manifest,
    policies,
    statuses,
)

from aigrid.protocol.canonical import content_id
from aigrid.protocol.credential_kinds import ACTIONS, ANYONE, MEMBERS, Permission, Rule
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.kinds import Kind, WithdrawnBody
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import (
    DEFAULT_RULES,
    Decision,
    Obligation,
    OperatorPolicy,
    decide,
    rules_of,
)
from aigrid.protocol.record import Record, build

MEMBER = world.membership()
CHAIN = world.chain(INVOKE, INVOKE, INVOKE, INVOKE)
FOR_MEMBERS = manifest(Rule(ACTIONS, (MEMBERS,)))
ALL_THAT_COME = OperatorPolicy(serves=frozenset({ANYONE}))


def decision(
    credentials: list[Record],
    found: Record | None = world.MANIFEST,
    *,
    action: Any = "invoke",
    now_ms: int = NOW_MS,
    known: Any = None,
    operator: OperatorPolicy = ALL_THAT_COME,
    narrowed: dict[str, Permission] | None = None,
    **more: Any,
) -> Decision:
    said = policies(found, operator=operator, narrowed=narrowed or {})
    lists = statuses() if known is None else known
    return decide(action, asked(**more), credentials, said, lists, now_ms)


def with_(permission: Permission = INVOKE, **changes: Any) -> Permission:
    return msgspec.structs.replace(permission, **changes)


def test_a_holder_of_a_chain_is_served_and_why_is_said():
    found = decision([MEMBER, *CHAIN])
    assert found.allowed
    found.check()
    assert found.relied_on == tuple(record.content_id for record in (MEMBER, *CHAIN))
    assert all(reason.code is None for reason in found.reasons)
    records = {reason.record for reason in found.reasons}
    assert {MEMBER.content_id, CHAIN[0].content_id, world.MANIFEST.content_id} <= records


def test_a_refusal_raises_its_code_and_names_the_record():
    found = decision([MEMBER])
    assert found.reasons[0].record == world.MANIFEST.content_id
    assert not found.obligations
    assert not found.relied_on
    with pytest.raises(PolicyDeniedError) as caught:
        found.check()
    assert caught.value.code is Code.NO_GRANT


@pytest.mark.parametrize("action", ACTIONS)
def test_the_same_decision_for_each_action(action):
    rule = manifest(Rule((action,), (OWNER.did,)))
    chain = world.chain(Permission((action,), ("*",)))
    holder: dict[str, Any] = {"holder": ANN.did}
    assert decision(chain, rule, action=action, **holder).allowed
    other = next(one for one in ACTIONS if one != action)
    assert decision(chain, rule, action=other, **holder).code is Code.ACTION_NOT_ALLOWED
    assert decision([], rule, action=action, **holder).code is Code.NO_GRANT


def test_without_a_policy_members_may_everything_and_others_nothing():
    open_to_members = manifest(policy=msgspec.UNSET)
    assert rules_of(open_to_members) == DEFAULT_RULES
    for action in ACTIONS:
        assert decision([MEMBER], open_to_members, action=action).allowed
        assert decision(CHAIN, open_to_members, action=action).code is Code.NOT_MEMBER


def test_with_an_empty_policy_only_its_owner_may_anything():
    closed = manifest()
    assert decision([MEMBER, *CHAIN], closed).code is Code.ACTION_NOT_ALLOWED
    assert decision([], closed, holder=OWNER.did).allowed


def test_one_rule_is_enough_and_else_the_one_that_came_furthest_tells_why():
    rules = (
        Rule(("fetch",), (ANYONE,)),
        Rule(("invoke",), (MEMBERS,), purposes=("teaching",)),
        Rule(("invoke",), (STRANGER.did,)),
    )
    assert decision([MEMBER], manifest(*rules)).code is Code.PURPOSE_NOT_ALLOWED
    assert decision([MEMBER], manifest(*rules), purpose="teaching").allowed
    assert decision([], manifest(*rules)).code is Code.NOT_MEMBER


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


@pytest.mark.parametrize("what", list(REFUSED))
def test_each_refusal_has_its_code(what: str):
    credentials, more, code = REFUSED[what]
    assert decision(credentials, **more).code is code


def test_it_is_allowed_once_that_is_put_right():
    licence: dict[str, Any] = {"accepts": frozenset({"MIT"})}
    assert decision([MEMBER], LICENSED, **licence).allowed
    here = world.grant(GATEWAY, with_(audience=(NODE.did,), regions=("eu",), targets=("text",)))
    assert decision([here], region="eu").allowed
    assert decision([world.grant(GATEWAY, with_(targets=(MODEL_URN + world.MODEL,)))]).allowed
    only = OperatorPolicy(serves=frozenset({OWNER.did}), hosts=frozenset({"text"}))
    assert decision(CHAIN, operator=only).allowed


def test_who_grants_needs_a_grant_of_its_own_or_is_the_owner():
    """A rule names whose grants count; being that DID is not holding a grant of it."""
    rule = manifest(Rule(("invoke",), (ANN.did,)))
    assert decision([], rule, holder=ANN.did).code is Code.NO_GRANT
    own = world.grant(ANN, by=ANN)
    assert decision([own], rule, holder=ANN.did).allowed


def test_a_grant_of_ones_own_opens_nothing_and_can_only_narrow():
    own = world.grant(GATEWAY, with_(targets=("vision",)), by=GATEWAY)
    assert decision([own]).code is Code.NO_GRANT
    assert decision([MEMBER, own], FOR_MEMBERS).code is Code.TARGET_NOT_COVERED


def test_what_is_presented_in_vain_still_has_to_hold():
    revoked = statuses(revoked={OWNER.did: [1]})
    assert decision([MEMBER], FOR_MEMBERS, known=revoked).allowed
    assert decision([MEMBER, *CHAIN], FOR_MEMBERS, known=revoked).code is Code.REVOKED


def test_the_node_itself_is_served_by_its_own_operator_but_not_by_the_owner():
    member = world.membership(NODE)
    itself: dict[str, Any] = {"holder": NODE.did, "operator": NOBODY}
    assert decision([member], FOR_MEMBERS, **itself).allowed
    assert decision([member], **itself).code is Code.NO_GRANT
    assert decision([member], FOR_MEMBERS, action="publish", **itself).allowed


# --- Limits


def test_every_limit_on_the_way_is_to_be_counted():
    chain = world.chain(
        with_(requests_per_day=9), with_(requests_per_day=8, tokens_per_day=7), delegable=1
    )
    operator = OperatorPolicy(serves=frozenset({ANYONE}), concurrency=3)
    narrowed = {"the actor ann": with_(tokens_per_day=6), "free": INVOKE}
    found = decision(chain, holder=BEN.did, operator=operator, narrowed=narrowed)
    assert found.obligations == (
        Obligation(chain[0].content_id, 9, 0, 0),
        Obligation(chain[1].content_id, 8, 7, 0),
        Obligation("the actor ann", 0, 6, 0),
        Obligation(f"holder {BEN.did}", 0, 0, 3),
    )
