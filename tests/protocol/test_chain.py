"""Chains only narrow: every code of `chain`, and that no chain ever permits more than its parts."""

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scripts import policy_world as world
from scripts.policy_cases import BROKEN, WIDER, with_
from scripts.policy_world import ANN, CEM, DAY_MS, NOW_MS, OWNER, STRANGER

from aigrid.protocol import chain as chains
from aigrid.protocol.chain import Broken, Chain, check, permission_of, widened
from aigrid.protocol.credential_kinds import ANYONE, EVERYTHING, Permission, Rule
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import Asked, Decision, OperatorPolicy, decide
from aigrid.protocol.record import Record

INVOKE = world.INVOKE


def verdict(links: list[Record], holder: str = "", now_ms: int = NOW_MS, **status: Any) -> Any:
    found = check(links, holder or world.holder_of(links), world.statuses(**status), now_ms)
    return found if isinstance(found, Chain) else found.code


def test_a_whole_chain_names_who_granted():
    links = world.chain(INVOKE, INVOKE, INVOKE, INVOKE)
    assert verdict(links) == Chain(OWNER.did, tuple(links))
    assert verdict(links[:1]) == Chain(OWNER.did, tuple(links[:1]))


@pytest.mark.parametrize("what", list(BROKEN))
def test_each_way_to_break_a_chain_has_its_code(what: str):
    links, holder, code = BROKEN[what]
    assert verdict(links, holder) is code


@pytest.mark.parametrize("what", list(WIDER))
def test_a_delegation_that_claims_more_is_refused_as_such(what: str):
    parent, child, name = WIDER[what]
    assert widened(parent, child) == name
    assert verdict(world.chain(parent, child)) is Code.DELEGATION_WIDENS
    assert isinstance(verdict(world.chain(parent, parent)), Chain)


def test_every_link_has_to_be_valid_and_not_revoked():
    links = world.chain(INVOKE, INVOKE, INVOKE, INVOKE)
    assert verdict(links, now_ms=NOW_MS + DAY_MS) is Code.EXPIRED
    assert verdict(links, now_ms=NOW_MS - 120_001) is Code.FROM_FUTURE
    assert verdict(links, at_ms=NOW_MS - 600_001) is Code.STATUS_STALE
    assert isinstance(verdict(links, at_ms=NOW_MS - 600_000), Chain)
    for link in links:
        assert link.status is not None
        gone = {link.issuer: [link.status.index]}
        assert verdict(links, revoked=gone) is Code.REVOKED
        assert verdict(links, unknown=[link.issuer]) is Code.STATUS_STALE
        other = {link.issuer: [link.status.index + 1]}
        assert isinstance(verdict(links, revoked=other), Chain)


def test_which_credential_is_to_blame_is_said():
    links = world.chain(INVOKE, INVOKE, INVOKE)
    found = check(links, CEM.did, world.statuses(revoked={ANN.did: [2]}), NOW_MS)
    assert isinstance(found, Broken)
    assert found.record == links[1].content_id
    assert "revoked" in found.text


def test_a_manifest_permits_nothing_as_a_credential():
    with pytest.raises(VerificationError):
        permission_of(world.MANIFEST)


# --- No chain ever widens

MODELS = (world.MODEL, world.MANIFEST.content_id)
NODES = (world.NODE.did, STRANGER.did)


def some(*items: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(items), max_size=len(items), unique=True).map(
        lambda found: tuple(sorted(found))
    )


targets = some(EVERYTHING, "text", "text-generation", *(MODEL_URN + m for m in MODELS)).filter(bool)
limits = st.integers(0, 3)
permissions = st.builds(
    Permission,
    actions=some("fetch", "invoke").filter(bool),
    targets=targets,
    purposes=st.just(()) | some("a", "b"),
    regions=st.just(()) | some("eu", "us"),
    audience=st.just(()) | some(*NODES),
    requests_per_day=limits,
    tokens_per_day=limits,
    concurrency=limits,
)


@st.composite
def lines(draw: st.DrawFn) -> list[Permission]:
    """Permissions of a chain; each differs from the one before in few things, often in none."""
    found = [draw(permissions)]
    for _ in range(draw(st.integers(0, 3))):
        other = draw(permissions)
        taken = draw(st.sets(st.sampled_from(Permission.__struct_fields__), max_size=2))
        found.append(with_(found[-1], **{name: getattr(other, name) for name in taken}))
    return found


requests = st.builds(
    world.asked,
    node=st.sampled_from(NODES),
    capabilities=st.sets(st.sampled_from(["text", "text-generation"])).map(frozenset),
    region=st.sampled_from(["", "eu", "us", "elsewhere"]),
    purpose=st.sampled_from(["", "a", "b", "c"]),
)
OPEN = world.manifest(Rule(("fetch", "invoke"), (OWNER.did,)))
FOR_ANYONE = OperatorPolicy(serves=frozenset({ANYONE}))


def permitted(links: list[Record], action: Any, request: Asked) -> Decision:
    """The decision on what is asked by whoever the last link was issued to."""
    by_holder = dataclasses.replace(request, holder=world.holder_of(links))
    policies = world.policies(OPEN, operator=FOR_ANYONE)
    return decide(action, by_holder, links, policies, world.statuses(), NOW_MS)


@settings(max_examples=400)
@given(lines(), requests, st.sampled_from(["fetch", "invoke"]))
def test_what_a_chain_permits_each_shorter_one_and_each_link_alone_permits(line, request, action):
    links = world.chain(*line)
    found = permitted(links, action, request)
    event("allowed" if found.allowed else str(found.code))
    if not found.allowed:
        return
    budgets = {o.key for o in found.obligations}
    for count in range(1, len(links)):
        shorter = permitted(links[:count], action, request)
        assert shorter.allowed
        assert {o.key for o in shorter.obligations} <= budgets
    for link in links:
        alone = permitted([world.grant(ANN, permission_of(link))], action, request)
        assert alone.allowed


@settings(max_examples=200)
@given(lines(), requests)
def test_a_chain_in_which_a_link_widens_permits_nothing(line, request):
    links = world.chain(*line)
    widens = any(widened(a, b) for a, b in itertools.pairwise(line))
    found = chains.check(links, world.holder_of(links), world.statuses(), NOW_MS)
    if widens:
        assert isinstance(found, Broken)
        assert found.code is Code.DELEGATION_WIDENS
        assert permitted(links, "invoke", request).code is Code.DELEGATION_WIDENS
    else:
        assert isinstance(found, Chain)


# --- `widened` against the sense of the words, in a small universe

UNNAMED = "bagaaieraunnamed"
SETS = [frozenset(s) for n in range(3) for s in itertools.combinations(("text", "vision"), n)]


def covered(found: tuple[str, ...], model: str, capabilities: frozenset[str]) -> bool:
    return any(t == EVERYTHING or t == MODEL_URN + model or t in capabilities for t in found)


def below(target: str, found: tuple[str, ...]) -> bool:
    """Whether something that the target covers by itself can be covered by all of `found`."""
    if target == EVERYTHING:  # also a model without any capability, which nobody named
        return covered(found, UNNAMED, frozenset())
    if target.startswith(MODEL_URN):
        model = target.removeprefix(MODEL_URN)
        return any(covered(found, model, with_these) for with_these in SETS)
    return any(covered(found, UNNAMED, s) for s in SETS if target in s)


def within(parent: Permission, child: Permission) -> bool:
    def any_of(named: tuple[str, ...], value: str) -> bool:
        return not named or value in named

    def no_more(limit: int, count: int) -> bool:
        return not limit or count <= limit

    words = ("a", "b", "c", "eu", "us", *NODES, "another")
    return (
        all(action in parent.actions for action in child.actions)
        and all(below(target, parent.targets) for target in child.targets)
        and all(
            any_of(getattr(parent, name), word)
            for name in ("purposes", "regions", "audience")
            for word in words
            if any_of(getattr(child, name), word)
        )
        and all(
            no_more(getattr(parent, name), count)
            for name in ("requests_per_day", "tokens_per_day", "concurrency")
            for count in range(10)
            if no_more(getattr(child, name), count)
        )
    )


few_targets = some(EVERYTHING, "text", "vision", *(MODEL_URN + m for m in MODELS)).filter(bool)


@settings(max_examples=600)
@given(permissions, permissions, few_targets, few_targets, st.data())
def test_widened_is_what_the_words_mean(one, other, above, beneath, data):
    taken = data.draw(st.sets(st.sampled_from(Permission.__struct_fields__), max_size=2))
    parent = with_(one, targets=above)
    child = with_(parent, **{name: getattr(other, name) for name in taken - {"targets"}})
    if "targets" in taken:
        child = with_(child, targets=beneath)
    assert (not widened(parent, child)) == within(parent, child)


@given(permissions, permissions, permissions)
def test_narrowing_is_transitive_but_for_targets(a, b, c):
    a, b, c = (with_(p, targets=(EVERYTHING,)) for p in (a, b, c))
    if not widened(a, b) and not widened(b, c):
        assert not widened(a, c)
    assert not widened(a, a)
