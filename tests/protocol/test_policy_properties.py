"""What is added only ever takes away; what is not known permits nothing."""

from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import policy_world as world
from scripts.policy_cases import G1, MEMBER, decision
from scripts.policy_world import (
    HOLDERS,
    OWNER,
    STRANGER,
    manifest,
)
from tests.protocol.mutants import refusal_of, with_additions
from tests.protocol.strategies import document_of, forge

from aigrid.protocol.credential_kinds import ACTIONS, ANYONE, MEMBERS, Rule
from aigrid.protocol.errors import Code
from aigrid.protocol.kinds import KINDS, Kind

conditions = st.fixed_dictionaries(
    {},
    optional={
        "purposes": st.just(("research",)),
        "regions": st.just(("eu",)),
        "accept_license": st.just(value=True),
    },
)
situations = st.fixed_dictionaries(
    {
        "purpose": st.sampled_from(["", "research"]),
        "region": st.sampled_from(["", "eu"]),
        "accepts": st.sampled_from([frozenset(), frozenset({"MIT"})]),
    }
)
presented = st.lists(st.sampled_from(["member", "grant"]), unique=True).map(
    lambda names: [{"member": MEMBER, "grant": G1}[name] for name in names]
)
rules = st.builds(
    lambda assignees, more: Rule(("invoke",), tuple(sorted(assignees)), **more),
    st.sets(st.sampled_from([MEMBERS, ANYONE, OWNER.did, STRANGER.did]), min_size=1),
    conditions,
)


@settings(max_examples=200)
@given(st.lists(rules, max_size=3), rules, conditions, situations, presented)
def test_more_conditions_never_allow_more_and_more_rules_never_less(
    some, one, condition, situation, credentials
):
    stricter = [msgspec.structs.replace(rule, **condition) for rule in some]
    before = decision(credentials, manifest(*some, license="MIT"), **situation)
    after = decision(credentials, manifest(*stricter, license="MIT"), **situation)
    assert before.allowed or not after.allowed
    more = decision(credentials, manifest(*some, one, license="MIT"), **situation)
    assert more.allowed or not before.allowed


@settings(max_examples=100)
@given(
    st.lists(rules, min_size=1, max_size=3),
    situations,
    presented,
    st.randoms(use_true_random=False),
)
def test_the_order_of_rules_does_not_decide(some, situation, credentials, rng):
    shuffled = list(some)
    rng.shuffle(shuffled)
    found = {
        decision(credentials, manifest(*order, license="MIT"), **situation).allowed
        for order in (some, shuffled)
    }
    assert len(found) == 1


# --- What is not known permits nothing, though it is signed


def test_an_unknown_member_anywhere_in_a_policy_makes_it_no_manifest():
    document = document_of(world.manifest(HOLDERS, Rule(ACTIONS, (MEMBERS,))))
    subject = document["credentialSubject"]
    additions = with_additions({"policy": subject["policy"]})
    assert len(additions) == 3
    for one in additions:
        assert refusal_of(forge(world.MANIFEST, partial(also, one), signer=OWNER)) is (
            Code.UNKNOWN_FIELD
        )


def also(members: dict[str, Any], document: dict[str, Any]) -> None:
    document["credentialSubject"].update(members)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("actions", ["read"]),
        ("actions", []),
        ("actions", ["invoke", "fetch"]),
        ("actions", ["invoke", "invoke"]),
        ("assignees", []),
        ("assignees", ["everybody"]),
        ("assignees", ["members", "anyone"]),
        ("assignees", ["https://example.org/"]),
        ("purposes", ["Research"]),
        ("purposes", [""]),
        ("regions", [""]),
        ("regions", ["a\n"]),
        ("regions", ["b", "a"]),
        ("acceptLicense", "yes"),
        ("purposes", "research"),
    ],
)
def test_a_rule_that_is_not_as_prescribed_is_malformed(member: str, value: Any):
    rule = msgspec.to_builtins(HOLDERS)
    changed = {"policy": [{**rule, member: value}]}
    raw = forge(world.MANIFEST, lambda d: d["credentialSubject"].update(changed), signer=OWNER)
    assert refusal_of(raw) is Code.MALFORMED


def test_kinds_that_permit_have_to_be_revocable():
    assert {kind for kind, rule in KINDS.items() if rule.status == "required"} == {
        Kind.GRANT,
        Kind.DELEGATION,
    }
