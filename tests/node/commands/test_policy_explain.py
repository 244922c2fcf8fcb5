"""What `aigrid policy explain` and refusals say is what happens, on whole nodes in virtual time."""

from dataclasses import replace

import pytest
import trio
from tests.node.commands.test_commands import Console, two
from tests.node.commands.test_credentials import SOMEBODY, code_of, denied, publish, restricted
from tests.simulation.harness import Simulation, eventually

from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.policy import OperatorPolicy

OWNER_ALONE = '[[rules]]\nactions = ["invoke"]\nassignees = ["me"]\n'
RESEARCH = f'{OWNER_ALONE}purposes = ["research"]\naccept_license = true\n'


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(12, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def knows_lists(console, *others):
    issuers = {other.node.identity.did for other in others}
    await eventually(lambda: issuers <= console.node.statuses.known().keys(), seconds=20)


async def test_a_refusal_names_what_is_nearest_to_permission(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    to = b.node.identity.did
    await publish(a, "crow", OWNER_ALONE)
    await eventually(lambda: len(b.node.router.models()) == 2, seconds=10)
    crow = await a("credential_issue", to=to, models=["crow"])
    await knows_lists(b, a)
    # A grant for another model says nothing of this one, good or revoked.
    assert (await code_of(b), await denied(b)) == ("no_grant", Code.NO_GRANT)
    await a("credential_revoke", id=crow["credential"])
    assert (await code_of(a, holder=to), await denied(b)) == ("no_grant", Code.NO_GRANT)
    # Neither does one to fetch of asking; one that is good but for the region does.
    await a("credential_issue", to=to, models=["parrot"], actions=["fetch"])
    assert await code_of(b) == "no_grant"
    short = await a("credential_issue", to=to, models=["parrot"], valid_seconds=60)
    assert await code_of(b) == ""
    await trio.sleep(61)
    assert short["delivered"]
    await eventually(b.node.router.models, seconds=300)
    assert (await code_of(b), await denied(b)) == ("expired", Code.EXPIRED)
    assert await code_of(a, holder=to) == "expired"
    await a("credential_issue", to=to, models=["parrot"], regions=["mars"])
    assert (await code_of(b), await denied(b)) == ("region_not_allowed", Code.REGION_NOT_ALLOWED)
    # What is shown is judged, whatever it covers.
    assert await code_of(b, credentials=crow["chain"]) == "revoked"


async def test_whom_the_operator_does_not_serve_is_told_that(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    to, decider = b.node.identity.did, a.node.policy.decider
    await publish(a, "crow", OWNER_ALONE)
    decider.own = replace(decider.own, operator=OperatorPolicy(serves=frozenset({SOMEBODY.did})))
    await a("credential_issue", to=to, models=["crow"])
    assert (await code_of(a, holder=to), await denied(b)) == ("not_served", Code.NO_GRANT)
    await a("credential_issue", to=to, models=["parrot"])
    await knows_lists(b, a)
    assert (await code_of(a, holder=to), await denied(b)) == ("not_served", Code.NOT_SERVED)


async def test_only_a_trusted_publisher_binds_who_publishes(sim, autojump_clock):
    a, b, model = await restricted(sim)
    explained = await b("policy_explain", model="parrot", action="publish")
    (decision,) = explained["decisions"]
    assert (decision["allowed"], decision["manifest"]) == (True, "")
    assert "trusted_publishers" in decision["reasons"][0]["text"]
    # For another node this one cannot tell whom it trusts, and says so.
    other = {"holder": b.node.identity.did, "action": "publish"}
    (decision,) = (await a("policy_explain", model="parrot", **other))["decisions"]
    assert (decision["node"], decision["allowed"]) == (b.node.identity.did, False)
    assert any("trusts" in unknown for unknown in decision["unknown"])
    decider = b.node.policy.decider
    decider.own = replace(decider.own, operator=OperatorPolicy(hosts=frozenset({"translation"})))
    assert await code_of(b, action="publish") == "not_served"
    decider.own = replace(decider.own, operator=OperatorPolicy())
    assert await publish(b, "parrot") == model  # as it said
    assert await code_of(b, action="publish") == ""


async def test_what_is_lent_is_explained_for_whom_it_is(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    grant = await a("credential_issue", to=b.node.identity.did, models=["parrot"], delegable=1)
    c = Console((await sim.start("c")).node)
    await sim.join("c", "a")
    await eventually(c.node.router.models, seconds=20)
    to = c.node.identity.did
    lent = await b("credential_delegate", id=grant["credential"], to=to, on_behalf=True)
    if not lent["delivered"]:
        await c("credential_import", credentials=lent["chain"])
    await knows_lists(c, a, b)
    assert await code_of(c) == "no_grant"
    behalf = {"on_behalf": b.node.identity.did}
    explained = await c("policy_explain", model="parrot", **behalf)
    assert (explained["allowed"], explained["holder"]) == (True, to)
    await knows_lists(b, a, b)
    assert await code_of(b, holder=to) == "no_grant"
    assert await code_of(b, holder=to, **behalf) == ""
    assert await c.refused("policy_explain", model="parrot", on_behalf="me") is Code.USAGE


async def test_limits_that_are_used_up_deny(sim, autojump_clock):
    a, b = await two(sim)
    await publish(a, "parrot")
    await eventually(b.node.router.models, seconds=10)
    decider = a.node.policy.decider
    decider.own = replace(decider.own, operator=OperatorPolicy(requests_per_day=1))
    holder = {"holder": b.node.identity.did}
    assert await code_of(a, **holder) == ""
    assert (await b("ask", text="hello", model="parrot"))["text"] == "hello"
    explained = await a("policy_explain", model="parrot", **holder)
    assert (explained["allowed"], explained["code"]) == (False, "over_budget")
    assert "used up" in explained["decisions"][0]["reasons"][-1]["text"]
    assert await denied(b) is Code.OVER_BUDGET


async def test_what_nobody_offers_is_told(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    assert (await a("policy_explain", model="parrot"))["offered"]
    elsewhere = {"node": b.node.identity.did}
    assert not (await a("policy_explain", model="parrot", **elsewhere))["offered"]
    sim.kill("a")
    await eventually(lambda: not b.node.router.models(), seconds=60)
    explained = await b("policy_explain", model="parrot", holder=a.node.identity.did)
    assert (explained["allowed"], explained["offered"]) == (True, False)


async def test_a_credential_stands_no_better_than_what_it_comes_from(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    grant = await a("credential_issue", to=b.node.identity.did, everything=True, delegable=1)
    await knows_lists(b, a)
    passed = await b("credential_delegate", id=grant["credential"], to=SOMEBODY.did)
    await knows_lists(b, a, b)

    async def standings():
        listed = (await b("credential_list"))["credentials"]
        shown = await b("credential_show", id=passed["credential"])
        return [one["standing"] for one in listed], shown["ok"], shown["links"][-1]["standing"]

    assert await standings() == (["good", "good"], True, "good")
    await a("credential_revoke", id=grant["credential"])
    known = b.node.statuses.known
    await eventually(lambda: any(known()[a.node.identity.did].bits), seconds=10)
    assert await standings() == (["revoked", "revoked"], False, "revoked")
    more = {"id": grant["credential"], "to": SOMEBODY.did}
    assert await b.refused("credential_delegate", **more) is Code.REVOKED
    assert len((await b("credential_list"))["credentials"]) == 2


async def test_what_names_a_key_that_was_changed_is_not_good(sim, autojump_clock, monkeypatch):
    a, b, _ = await restricted(sim)
    await a("credential_issue", to=b.node.identity.did, everything=True)
    monkeypatch.setattr(
        type(a.node.local),
        "successor_of",
        lambda _, did: SOMEBODY.did if did == b.node.identity.did else None,
    )
    (listed,) = (await a("credential_list"))["credentials"]
    assert listed["standing"] == "not_holder"


async def test_the_end_of_an_id_names_a_credential(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    to = b.node.identity.did
    name = (await a("credential_issue", to=to, everything=True, delegable=1))["credential"]
    await knows_lists(b, a)
    end = name[-8:]
    assert (await a("credential_show", id=end))["links"][0]["id"] == name
    passed = await b("credential_delegate", id=end, to=SOMEBODY.did)
    assert len(passed["chain"]) == 2
    for wrong in (name[-7:], f"%{name[-7:]}", "_" * 8, name[:8]):
        assert await a.refused("credential_show", id=wrong) is Code.NOT_FOUND
    assert (await a("credential_revoke", id=end))["credential"] == name
    assert (await b("credential_forget", id=end))["credential"] == name
    assert await b.refused("credential_forget", id=end) is Code.NOT_FOUND


async def test_ask_states_purpose_licence_and_length(sim, autojump_clock, monkeypatch):
    a, b = await two(sim)
    await publish(a, "parrot", RESEARCH)
    await eventually(b.node.router.models, seconds=10)
    await a("credential_issue", to=b.node.identity.did, models=["parrot"])
    await knows_lists(b, a)
    assert await denied(b) is Code.PURPOSE_NOT_ALLOWED
    assert await denied(b, purpose="research") is Code.LICENSE_NOT_ACCEPTED
    said = {"model": "parrot", "purpose": "research", "accepts": ["MIT"]}
    assert (await b("ask", text="one two", **said))["text"] == "one two"
    assert (await b("ask", text="one two three", max_tokens=1, **said))["text"].strip() == "one"
    assert await denied(b, purpose="Any Thing") is Code.USAGE
    assert await denied(b, max_tokens=0) is Code.USAGE
    # A model with less room than the usual length is asked for what it has.
    infer, offers, asked = b.node.router.infer, b.node.router.offers(), []

    def small(model, request, **named):
        asked.append(request.max_tokens)
        if request.max_tokens is not None and request.max_tokens > 128:
            raise InvalidRequestError("128 fit", Code.CONTEXT_LENGTH_EXCEEDED)
        return infer(model, request, **named)

    monkeypatch.setattr(b.node.router, "infer", small)
    assert (await b("ask", text="hello", **said))["text"] == "hello"
    assert await denied(b, max_tokens=129) is Code.CONTEXT_LENGTH_EXCEEDED
    assert asked == [512, None, 129]
    # Where its room is known, no request is spent on finding out.
    known = tuple(replace(offer, context_tokens=128) for offer in offers)
    monkeypatch.setattr(b.node.router, "offers", lambda: known)
    assert (await b("ask", text="hello", **said))["text"] == "hello"
    assert asked[3:] == [None]
