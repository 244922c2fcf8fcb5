"""The one decision: each code, what comes first, and that what is added only ever takes away."""

from typing import Any

import msgspec
import pytest
from scripts import policy_world as world
from scripts.policy_cases import (
    CHAIN,
    FOR_MEMBERS,
    LICENSED,
    MEMBER,
    NOBODY,
    REFUSED,
    decision,
    with_,
)
from scripts.policy_world import (
    ANN,
    BEN,
    GATEWAY,
    INVOKE,
    NODE,
    OWNER,
    STRANGER,
    manifest,
    statuses,
)

from aigrid.protocol.credential_kinds import ACTIONS, ANYONE, MEMBERS, Permission, Rule
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import (
    DEFAULT_RULES,
    Obligation,
    OperatorPolicy,
    rules_of,
)


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


@pytest.mark.parametrize("what", list(REFUSED))
def test_each_refusal_has_its_code(what: str):
    credentials, more, code = REFUSED[what]
    assert decision(credentials, **more).code is code


def test_it_is_allowed_once_that_is_put_right():
    for spelled in ("MIT", "mit"):
        licence: dict[str, Any] = {"accepts": frozenset({"ISC", spelled})}
        assert decision([MEMBER], LICENSED, **licence).allowed
    here = world.grant(GATEWAY, with_(audience=(NODE.did,), regions=("eu",), targets=("text",)))
    assert decision([here], region="eu").allowed
    assert decision([world.grant(GATEWAY, with_(targets=(MODEL_URN + world.MODEL,)))]).allowed
    only = OperatorPolicy(serves=frozenset({OWNER.did}), hosts=frozenset({"text"}))
    assert decision(CHAIN, operator=only).allowed


def test_an_operator_that_serves_a_did_serves_who_holds_a_grant_from_it():
    serves = OperatorPolicy(serves=frozenset({OWNER.did, MEMBERS}))
    refused = decision([], manifest(Rule(("invoke",), (ANYONE,))), operator=serves)
    assert refused.code is Code.NOT_SERVED
    assert f"serves members, holders of a grant from {OWNER.did}" in refused.reasons[-1].text


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
