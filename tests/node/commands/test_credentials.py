"""`aigrid credential` and `aigrid policy explain`, on whole nodes in virtual time."""

import json
from dataclasses import replace

import pytest
import trio
from tests.node.commands.test_commands import Console, two
from tests.simulation.harness import Simulation, eventually

from aigrid.node.policy.policy_file import parse_policy
from aigrid.protocol.credential_kinds import Rule
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Give, decode_rpc_answer, encode
from aigrid.protocol.model import MODEL_URN, ModelDescription
from aigrid.protocol.policy import OperatorPolicy

SOMEBODY = Identity(b"\x33" * 32)
OWNER_ALONE = '[[rules]]\nactions = ["invoke"]\nassignees = ["me"]\n'


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(11, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def publish(console, name, policy="", **options):
    """An echo model of this name, under the policy in the text of a file."""
    node = console.node
    description = ModelDescription("echo", "text-generation", (), options={"tag": name})
    rules = {"policy": parse_policy(policy, me=node.identity.did)} if policy else {}
    published = await node.hosting.add(
        description,
        {},
        name=name,
        capabilities=("text-generation",),
        license_id="MIT",
        **rules,
        **options,
    )
    return published.model


async def restricted(sim):
    """Two nodes; the first has a model for holders of its grants, which the second knows."""
    a, b = await two(sim)
    model = await publish(a, "parrot", OWNER_ALONE)
    await eventually(b.node.router.models, seconds=10)
    return a, b, model


async def code_of(console, **params):
    explained = await console("policy_explain", model="parrot", **params)
    return explained["code"]


async def test_refused_then_granted_then_revoked(sim, autojump_clock):
    a, b, model = await restricted(sim)
    own, other = a.node.identity.did, b.node.identity.did
    assert await code_of(b) == "no_grant"
    issued = await a("credential_issue", to=other, models=["parrot"])
    assert (issued["delivered"], issued["because"]) == (True, "")
    assert b.node.policy.wallet.chains()[0][0].content_id == issued["credential"]
    await eventually(lambda: own in b.node.statuses.known(), seconds=10)
    explained = await b("policy_explain", model="parrot")
    assert (explained["allowed"], explained["holder"]) == (True, other)
    (decision,) = explained["decisions"]
    assert (decision["node"], decision["own"], decision["owner"]) == (own, False, own)
    assert issued["credential"] in decision["relied_on"]
    assert issued["credential"] in {reason["record"] for reason in decision["reasons"]}
    assert decision["policy"] == [{"actions": ["invoke"], "assignees": [own]}]
    assert decision["unknown"]
    assert await code_of(b, action="fetch") == "action_not_allowed"
    assert await code_of(a, holder=other) == ""
    (listed,) = (await b("credential_list", held=True))["credentials"]
    assert (listed["standing"], listed["given_by"]) == ("good", a.node.identity.peer_id)
    assert listed["permission"] == {"actions": ("invoke",), "targets": (MODEL_URN + model,)}
    assert await b.refused("credential_revoke", id=issued["credential"]) is Code.NOT_AUTHORITY
    await a("credential_revoke", id=issued["credential"])
    assert await code_of(a, holder=other) == "revoked"
    await eventually(
        lambda: b.node.statuses.known()[own].bits != bytes(LIMITS.status_entries // 8), seconds=10
    )
    assert await code_of(b) == "revoked"
    (listed,) = (await b("credential_list"))["credentials"]
    assert listed["standing"] == "revoked"


async def test_what_is_restricted_shows_where_models_are_listed(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    (listed,) = (await b("models"))["models"]
    assert listed["policy"] == [{"actions": ["invoke"], "assignees": [a.node.identity.did]}]


async def test_a_policy_stays_until_another_one_is_given(sim, autojump_clock):
    a = Console((await sim.start("a")).node)
    own = a.node.identity.did

    def policy():
        (listed,) = (m for m in a.node.graph.index.models(sim.now_ms()))
        return listed.manifests[0].body.policy

    await publish(a, "parrot", OWNER_ALONE)
    await publish(a, "parrot")
    assert policy() == (Rule(("invoke",), (own,)),)
    await publish(a, "parrot", "rules = []")
    assert policy() == ()


async def test_a_trusted_publishers_model_is_published_only_where_that_permits(sim, autojump_clock):
    """Others forbid nothing: anybody could say that a model is theirs."""
    a, b, model = await restricted(sim)
    c = Console((await sim.start("c")).node)
    await sim.join("c", "a")
    await eventually(c.node.router.models, seconds=10)
    assert await publish(c, "parrot") == model
    b.node.policy.foresight._trusted = {a.node.identity.did}
    with pytest.raises(AigridError, match="permits invoke, not publish") as caught:
        await publish(b, "parrot")
    assert caught.value.code is Code.ACTION_NOT_ALLOWED
    assert model not in b.node.models.list()
    assert await code_of(b, action="publish") == "action_not_allowed"
    text = '{"rules": [{"actions": ["publish"], "assignees": ["me"]}]}'
    await publish(a, "parrot", text)
    await eventually(
        lambda: any(
            m.body.policy and "publish" in m.body.policy[0].actions
            for m in b.node.graph.manifests_of(model, sim.now_ms())
        ),
        seconds=10,
    )
    with pytest.raises(AigridError, match="alone") as caught:
        await publish(b, "parrot")
    assert caught.value.code is Code.NO_GRANT
    await a("credential_issue", to=b.node.identity.did, everything=True, actions=["publish"])
    await eventually(lambda: a.node.identity.did in b.node.statuses.known(), seconds=10)
    assert await publish(b, "parrot") == model
    await publish(a, "parrot", "rules = []")  # what was published once may be published again
    assert await publish(b, "parrot", "rules = []") == model


async def test_passing_on_narrows_and_reaches_its_holder(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    c = Console((await sim.start("c")).node)
    await sim.join("c", "a")
    grant = await a(
        "credential_issue",
        to=b.node.identity.did,
        models=["parrot"],
        capabilities=["text-generation"],
        purposes=["teaching", "research"],
        delegable=1,
        valid_seconds=3600,
        status_age_seconds=60,
    )
    to = c.node.identity.did
    for wider in (
        {"actions": ["fetch"]},
        {"purposes": ["war"]},
        {"delegable": 1},
    ):
        assert (
            await b.refused("credential_delegate", id=grant["credential"], to=to, **wider)
            is Code.DELEGATION_WIDENS
        )
    passed = await b(
        "credential_delegate",
        id=grant["credential"],
        to=to,
        purposes=["research"],
        tokens_per_day=100,
        on_behalf=True,
    )
    assert len(passed["chain"]) == 2
    said = json.loads(passed["chain"][1])["credentialSubject"]
    assert said["permission"]["purposes"] == ["research"]
    assert (said["permission"]["tokensPerDay"], said["onBehalf"]) == (100, True)
    if not passed["delivered"]:
        await c("credential_import", credentials=passed["chain"])
    assert c.node.policy.wallet.chains() == ()
    assert len(c.node.policy.wallet.chains(b.node.identity.did)) == 1
    shown = await c("credential_show", id=passed["credential"])
    assert (shown["owner"], shown["on_behalf"]) == (a.node.identity.did, b.node.identity.did)
    assert [link["kind"] for link in shown["links"]] == ["Grant", "Delegation"]


async def test_a_chain_is_verified_in_any_order(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    issued = await a("credential_issue", to=SOMEBODY.did, everything=True)
    assert not issued["delivered"]
    assert "connected" in issued["because"]
    good = await a("credential_verify", credentials=issued["chain"])
    assert (good["ok"], good["holder"]) == (True, SOMEBODY.did)
    stranger = Console((await sim.start("s")).node)  # of another grid: it knows of no list
    stale = await stranger("credential_verify", credentials=issued["chain"])
    assert (stale["ok"], stale["code"]) == (False, "status_stale")
    assert await b.refused("credential_verify", credentials=["{}"]) is Code.UNSIGNED
    assert await b.refused("credential_import", credentials=issued["chain"]) is Code.NOT_HOLDER
    assert await b.refused("credential_show", id="bnothing") is Code.NOT_FOUND
    assert await b.refused("credential_show") is Code.USAGE
    assert await b.refused("credential_revoke") is Code.USAGE
    text = issued["chain"][0]
    assert await b.refused("credential_revoke", raw=text) is Code.NOT_AUTHORITY
    assert (await a("credential_revoke", raw=text))["credential"] == issued["credential"]
    assert await b.refused("credential_forget", id="bnothing") is Code.NOT_FOUND


@pytest.mark.parametrize(
    "wrong",
    [
        {"to": "did:web:x"},
        {"models": []},
        {"actions": ["delete"]},
        {"capabilities": ["cooking"]},
        {"everything": True},
        {"purposes": ["No Spaces"]},
        {"audience": ["me"]},
        {"requests_per_day": -1},
        {"valid_seconds": LIMITS.grant_ttl_seconds + 1},
        {"valid_seconds": 0},
        {"status_age_seconds": LIMITS.status_age_max_seconds + 1},
        {"delegable": LIMITS.chain_max},
        {"regions": ["r" * 97]},
        {"regions": ["EU WEST"]},
        {"regions": [f"r{n}" for n in range(33)]},
    ],
)
async def test_what_no_credential_says_is_usage(sim, autojump_clock, wrong):
    a = Console((await sim.start("a")).node)
    await publish(a, "parrot")
    said = {"to": SOMEBODY.did, "models": ["parrot"], **wrong}
    assert await a.refused("credential_issue", **said) is Code.USAGE
    assert (await a("credential_list"))["credentials"] == []


async def test_what_is_no_purpose_is_told_in_words(sim, autojump_clock):
    a = Console((await sim.start("a")).node)
    for method, params in (
        ("credential_issue", {"to": SOMEBODY.did, "everything": True, "purposes": ["a b!"]}),
        ("ask", {"text": "x", "model": "", "purpose": "a b!"}),
    ):
        with pytest.raises(AigridError, match="'a b!' is no purpose such as `research`"):
            await a(method, **params)


async def test_what_a_new_credential_is_worth_is_said(sim, autojump_clock):
    a, b = await two(sim)
    to = {"to": b.node.identity.did}
    await publish(a, "closed", "rules = []")
    ours = '[[rules]]\nactions = ["invoke"]\nassignees = ["me"]\n'
    await publish(a, "granted", ours)
    (vain,) = (await a("credential_issue", models=["closed", "granted"], **to))["notes"]
    assert "publish --policy" in vain
    fetching = await a("credential_issue", models=["granted"], actions=["fetch"], **to)
    assert len(fetching["notes"]) == 1
    (short,) = (await a("credential_issue", everything=True, status_age_seconds=1, **to))["notes"]
    assert "--max-status-age 400s" in short
    good = {"status_age_seconds": 400, "valid_seconds": 3600, "delegable": 1}
    issued = await a("credential_issue", models=["granted"], **good, **to)
    assert issued["notes"] == []
    on = {"id": issued["credential"], "to": SOMEBODY.did}
    assert (await b("credential_delegate", **on))["notes"] == []
    (cut,) = (await b("credential_delegate", valid_seconds=86_400, **on))["notes"]
    assert "ends before `--valid` says" in cut


async def test_a_grant_by_the_authority_needs_its_key(sim, autojump_clock):
    a, b = await two(sim)
    to = {"to": SOMEBODY.did, "everything": True, "as_authority": True}
    assert await b.refused("credential_issue", **to) is Code.NOT_AUTHORITY
    issued = await a("credential_issue", **to)
    assert json.loads(issued["chain"][0])["issuer"] == a.node.grid.did


async def test_a_member_cannot_fill_the_wallet_of_another(sim, autojump_clock):
    a, b = await two(sim)
    wallet, to = b.node.policy.wallet, b.node.identity.did
    codes = []
    for _ in range(LIMITS.credentials_of_one_max + LIMITS.gives_burst):
        issued = await a("credential_issue", to=to, everything=True)
        codes.append(issued["because"].split(":")[0])
    assert set(codes) == {"", "rate_limited"}
    await trio.sleep(LIMITS.gives_burst / LIMITS.gives_per_second + 1)
    for _ in range(3):
        for _ in range(LIMITS.gives_burst):
            issued = await a("credential_issue", to=to, everything=True)
            codes.append(issued["because"].split(":")[0])
        await trio.sleep(LIMITS.gives_burst / LIMITS.gives_per_second + 1)
    assert "over_quota" in codes
    assert len(wallet.all()) == LIMITS.credentials_of_one_max
    kept = await b("credential_import", credentials=issued["chain"])  # the operator may still
    assert kept["credentials"][0]["id"] == issued["credential"]
    await b("credential_forget", id=issued["credential"])


async def test_what_is_given_has_to_be_for_this_node(sim, autojump_clock):
    a, b = await two(sim)
    issued = await a("credential_issue", to=SOMEBODY.did, everything=True)
    request = encode(Give((issued["chain"][0].encode(),)))
    with pytest.raises(RemoteError) as caught:
        decode_rpc_answer(
            await a.node.rpc.ask(b.node.identity.peer_id, request, silence_seconds=10)
        )
    assert caught.value.code is Code.NOT_HOLDER


async def test_explaining_for_others_and_with_what_they_would_show(sim, autojump_clock):
    a, b = await two(sim)
    text = (
        '[[rules]]\nactions = ["invoke"]\nassignees = ["members"]\nregions = ["eu"]\n'
        '[[rules]]\nactions = ["host", "invoke"]\nassignees = ["me"]\npurposes = ["teaching"]\n'
        "accept_license = true\n"
    )
    model = await publish(a, "parrot", text)
    await eventually(b.node.router.models, seconds=10)
    assert await code_of(a) == ""  # its owner asks
    assert await code_of(b) == "region_not_allowed"
    issued = await a("credential_issue", to=SOMEBODY.did, models=[model], requests_per_day=5)
    chain = {"credentials": issued["chain"]}
    assert await code_of(a, holder=SOMEBODY.did) == "not_served"  # the operator serves members
    elsewhere = {"node": b.node.identity.peer_id, **chain}
    assert await code_of(a, **elsewhere) == "purpose_not_allowed"
    elsewhere["purpose"] = "teaching"
    assert await code_of(a, **elsewhere) == "license_not_accepted"
    explained = await a("policy_explain", model=model, accepts=["MIT"], **elsewhere)
    assert explained["allowed"]
    (limit,) = explained["decisions"][0]["obligations"]
    assert (limit["key"], limit["requests_per_day"]) == (issued["credential"], 5)
    assert await a.refused("policy_explain", model="nothing") is Code.MODEL_NOT_FOUND
    for wrong in (
        {"action": "delete"},
        {"holder": "me"},
        {"node": "there"},
        {"purpose": "Any Thing"},
        {"accepts": ["\n"]},
    ):
        assert await a.refused("policy_explain", model=model, **wrong) is Code.USAGE


async def test_a_restart_loses_no_credential(sim, autojump_clock):
    a, b = await two(sim)
    issued = await a("credential_issue", to=b.node.identity.did, everything=True)
    sim.kill("b")
    again = Console((await sim.start("b", incarnation=1)).node)
    (listed,) = (await again("credential_list"))["credentials"]
    assert listed["id"] == issued["credential"]


async def denied(console, **params):
    return await console.refused("ask", text="hello", model="parrot", **params)


async def test_asking_stops_within_gossip_time_of_the_revocation(sim, autojump_clock):
    a, b, _ = await restricted(sim)
    assert await denied(b) is Code.NO_GRANT
    issued = await a("credential_issue", to=b.node.identity.did, models=["parrot"])
    await eventually(lambda: a.node.identity.did in b.node.statuses.known(), seconds=10)
    assert (await b("ask", text="hello", model="parrot"))["text"] == "hello"
    await a("credential_revoke", id=issued["credential"])
    assert await denied(b) is Code.REVOKED  # the serving node knows at once: it signed the list


async def test_a_chain_is_used_through_the_gateway_it_ends_at(sim, autojump_clock):
    """The owner grants b, which passes it on to c: c asks, and each link binds it."""
    a, b, model = await restricted(sim)
    c = Console((await sim.start("c")).node)
    await sim.join("c", "a")
    await eventually(c.node.router.models, seconds=20)
    grant = await a(
        "credential_issue", to=b.node.identity.did, everything=True, delegable=1, actions=["invoke"]
    )
    passed = await b(
        "credential_delegate", id=grant["credential"], to=c.node.identity.did, models=[model]
    )
    if not passed["delivered"]:
        await c("credential_import", credentials=passed["chain"])
    issuers = {a.node.identity.did, b.node.identity.did}
    for node in (a.node, c.node):
        await eventually(lambda node=node: issuers <= node.statuses.known().keys(), seconds=20)
    assert (await c("ask", text="hello", model="parrot"))["text"] == "hello"
    await b("credential_revoke", id=passed["credential"])  # b's list reaches a by gossip
    await eventually(lambda: any(a.node.statuses.known()[b.node.identity.did].bits), seconds=10)
    assert await denied(c) is Code.REVOKED


async def test_the_operator_says_whom_to_serve(sim, autojump_clock):
    a, b = await two(sim)
    await publish(a, "parrot")
    await eventually(b.node.router.models, seconds=10)
    assert (await b("ask", text="hello", model="parrot"))["text"] == "hello"
    decider = a.node.policy.decider
    decider.own = replace(decider.own, operator=OperatorPolicy(serves=frozenset()))
    assert await denied(b) is Code.NOT_SERVED
    assert await code_of(b) == ""  # which nobody but that node can know
    assert await code_of(a, holder=b.node.identity.did) == "not_served"
    decider.own = replace(decider.own, operator=OperatorPolicy(requests_per_day=1))
    assert (await b("ask", text="hello", model="parrot"))["text"] == "hello"
    assert await denied(b) is Code.OVER_BUDGET


async def test_what_the_operator_does_not_host_is_neither_published_nor_offered(
    sim, autojump_clock
):
    a = Console((await sim.start("a")).node)
    decider = a.node.policy.decider
    await publish(a, "parrot")
    decider.own = replace(decider.own, operator=OperatorPolicy(hosts=frozenset({"translation"})))
    assert a.node.hosting.offers() == ()
    (withheld,) = (await a("status"))["withheld"]
    assert "does not host" in withheld["problem"]
    with pytest.raises(AigridError, match="does not host") as caught:
        await publish(a, "crow")
    assert caught.value.code is Code.NOT_SERVED
    assert await code_of(a, action="host") == "not_served"
    decider.own = replace(decider.own, operator=OperatorPolicy(hosts=frozenset({"text"})))
    assert len(a.node.hosting.offers()) == 1  # `text` is broader than text-generation
    await publish(a, "crow")


async def test_a_member_shows_that_it_is_one_where_a_model_is_for_anyone(sim, autojump_clock):
    """Its owner lets anyone ask; the operator of the node serves members, and says so to nobody."""
    a, b = await two(sim)
    await publish(a, "parrot", '[[rules]]\nactions = ["invoke"]\nassignees = ["anyone"]\n')
    await eventually(b.node.router.models, seconds=10)
    assert (await sim.ask("b", "parrot", "hello"))[0].strip() == "hello"


async def test_a_grant_is_shown_where_an_operator_serves_for_its_sake_alone(sim, autojump_clock):
    """The model is for members; `serve` of the node that has it names a DID. Nobody is told."""
    a, b = await two(sim)
    own, other = a.node.identity.did, b.node.identity.did
    await publish(a, "parrot")
    await eventually(b.node.router.models, seconds=10)
    decider = a.node.policy.decider
    decider.own = replace(decider.own, operator=OperatorPolicy(serves=frozenset({own})))
    with pytest.raises(AigridError) as caught:
        await sim.ask("b", "parrot", "hello")
    assert caught.value.code is Code.NOT_SERVED
    await a("credential_issue", to=other, models=["parrot"])
    # Grants of others do not get in its way, though the node itself has issued one that lasts.
    await b("credential_issue", to=other, everything=True, valid_seconds=300 * 86400)
    await eventually(lambda: own in b.node.statuses.known(), seconds=10)
    assert (await sim.ask("b", "parrot", "hello"))[0].strip() == "hello"


async def test_whose_revocations_are_not_heard_of_is_said(sim, autojump_clock):
    a, b = await two(sim)
    c = Console((await sim.start("c")).node)  # in a grid of its own
    issued = await a("credential_issue", to=c.node.identity.did, everything=True, delegable=1)
    (note,) = (await c("credential_import", credentials=issued["chain"]))["notes"]
    assert note.startswith(f"no status list of {a.node.identity.did} is known here")
    lent = await c(
        "credential_delegate", id=issued["credential"], to=b.node.identity.did, on_behalf=True
    )
    assert lent["notes"] == [note]
    await eventually(lambda: a.node.identity.did in b.node.statuses.known(), seconds=10)
    (lacks,) = (await b("credential_import", credentials=lent["chain"]))["notes"]
    assert c.node.identity.did in lacks
    own = await a("credential_issue", to=b.node.identity.did, everything=True)
    assert (await b("credential_import", credentials=own["chain"]))["notes"] == []


@pytest.mark.parametrize("named", [False, True])
async def test_lending_outlasts_the_lenders_node_only_where_somebody_speaks_for_it(
    sim, autojump_clock, named
):
    a, b = await two(sim)
    own, other = a.node.identity.did, b.node.identity.did
    issued = await a("credential_issue", to=other, everything=True, delegable=1)
    lent = await b("credential_delegate", id=issued["credential"], to=own, on_behalf=True)
    if named:
        await b("delegates", dids=[own], own=True)
    await eventually(lambda: other in a.node.statuses.known(), seconds=10)
    await trio.sleep(60)
    sim.kill("b")
    await trio.sleep(LIMITS.status_age_grant_seconds + 60)
    verified = await a("credential_verify", credentials=lent["chain"])
    assert verified["code"] == ("" if named else "status_stale")
