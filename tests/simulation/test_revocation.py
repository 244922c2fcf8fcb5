"""Revocation in a grid whose authority sleeps: delegates, gossip, partitions, restarts.

Decisions are asked for at the serving node, by the seam through which it decides.
"""

from collections.abc import AsyncIterator, Iterable
from itertools import product
from pathlib import Path

import pytest
import trio
from msgspec import UNSET
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.node.app import Node
from aigrid.node.commands.commands import NodeCommands
from aigrid.node.policy.deciding import Decider, Place, Wish
from aigrid.protocol.credential_kinds import (
    GrantBody,
    Permission,
    Rule,
    StatusDelegationBody,
    status_list_of,
)
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, MembershipBody, ModelBody
from aigrid.protocol.limits import HOUR, LIMITS
from aigrid.protocol.membership import renewal_body
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import Record, build
from aigrid.protocol.record_status import StatusEntry

OUTSIDER = Identity(b"\x2a" * 32)
MODEL = ModelDescription(format="echo", task="text-generation", files=(), options={"tag": "x"})
LIFE_MS = 300 * 86_400_000


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        made = Simulation(11, tmp_path, nursery)
        for name in NAMES:
            await made.start(name)
            if name != "a":
                await made.join(name, "a")
        await eventually(lambda: everybody_is_there(made), seconds=60)
        yield made
        nursery.cancel_scope.cancel()


# `a` is the authority; three delegates; `s` serves, `m` asks.
AWAKE_SECONDS = 13  # delegates that have slept sign within ten
DELEGATES = ("d1", "d2", "d3")
NAMES = ("a", *DELEGATES, "s", "m")


def node(sim: Simulation, name: str) -> Node:
    return sim.nodes[name].node


def dids(sim: Simulation, names: Iterable[str]) -> list[str]:
    return [node(sim, name).identity.did for name in names]


def everybody_is_there(sim: Simulation) -> bool:
    nodes = [each.node for each in sim.nodes.values()]
    return all(len(each.peers.alive_members()) == len(nodes) - 1 for each in nodes)


async def delegate(sim: Simulation, *, quorum: int = 2) -> None:
    a = node(sim, "a")
    a.statuses.delegate(a.grid.did, dids(sim, DELEGATES), quorum)
    everywhere = [each.node for each in sim.nodes.values()]

    def heard() -> bool:
        known = [each.statuses.known().get(a.grid.did) for each in everywhere]
        return all(one is not None and len(one.delegates_ms) == 3 for one in known)

    await eventually(heard, seconds=10)


def decide(
    sim: Simulation, at: str, holder: str, *credentials: Record, rules: tuple[Rule, ...] = ()
) -> Code | None:
    """The decision at one node on a request by `holder`; None where it is allowed."""
    here, now_ms = node(sim, at), sim.now_ms()
    model = model_id(MODEL)
    body = ModelBody(
        id=MODEL_URN + model,
        name="x",
        capabilities=("text-generation",),
        model=MODEL,
        policy=rules or UNSET,
    )
    manifest = build(Kind.MODEL, body, OWNER, valid_from_ms=now_ms, valid_until_ms=now_ms + 60_000)
    decider = Decider(
        here.graph,
        own=Place(here.identity.did),
        statuses=here.statuses.known,
        now_ms=sim.now_ms,
    )
    return decider.decide(Wish("invoke", model), holder, credentials, manifest=manifest).code


OWNER = Identity(b"\x2b" * 32)


def membership(sim: Simulation, name: str) -> Record:
    """As `name` would present it, even if it was revoked meanwhile."""
    did = node(sim, name).identity.did
    held = node(sim, name).graph.memberships._held[did]
    return max(held.values(), key=lambda record: record.valid_from_ms)


def member_may(sim: Simulation, at: str, name: str) -> Code | None:
    shown = membership(sim, name)
    return decide(sim, at, shown.subject, shown)


async def pass_time(sim: Simulation, seconds: float, step_seconds: float) -> AsyncIterator[None]:
    """Let the wall clock go on in steps, with some seconds between in which nodes may act."""
    for _ in range(round(seconds / step_seconds)):
        sim.skip_seconds(step_seconds - AWAKE_SECONDS)
        await trio.sleep(AWAKE_SECONDS)
        yield


def cut(sim: Simulation, ones: Iterable[str], others: Iterable[str], *, heal: bool = False) -> None:
    act = sim.network.heal if heal else sim.network.partition
    for one, other in product(ones, others):
        act(node(sim, one).identity.peer_id, node(sim, other).identity.peer_id)


async def issue_grant(sim: Simulation, issuer: str, *, age_seconds: int = 600) -> Record:
    """To somebody outside; revoked by its issuer and the three delegates."""
    by = node(sim, issuer)
    entry = by.statuses.entry(by.identity.did, "grant 1", age_seconds)
    by.statuses.delegate(by.identity.did, dids(sim, DELEGATES), 2)
    now_ms = sim.now_ms()
    body = GrantBody(OUTSIDER.did, Permission(("invoke",), ("*",)))
    grant = build(
        Kind.GRANT,
        body,
        by.identity,
        valid_from_ms=now_ms,
        valid_until_ms=now_ms + LIFE_MS,
        status=entry,
    )
    rules = rules_for(grant)
    await eventually(
        lambda: decide(sim, "s", OUTSIDER.did, grant, rules=rules) is Code.NOT_SERVED, seconds=10
    )
    return grant


def rules_for(grant: Record) -> tuple[Rule, ...]:
    return (Rule(("invoke",), (grant.issuer,)),)


def outsider_may(sim: Simulation, at: str, grant: Record) -> Code | None:
    """`not_served` is as far as a good grant comes where the operator serves members alone."""
    found = decide(sim, at, OUTSIDER.did, grant, rules=rules_for(grant))
    return None if found is Code.NOT_SERVED else found


async def test_twelve_hours_without_the_authority_stop_nothing(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await delegate(sim)
    grant = await issue_grant(sim, "m")
    sim.kill("a")
    await trio.sleep(1)
    async for _ in pass_time(sim, 12 * HOUR, 1800):
        assert member_may(sim, "s", "m") is None
        assert outsider_may(sim, "s", grant) is None
        assert node(sim, "m").identity.peer_id in node(sim, "s").peers.alive_members()
    for _ in range(50):  # and at every moment of more than the list's age
        await trio.sleep(13)
        assert outsider_may(sim, "s", grant) is None
    known = node(sim, "s").statuses.known()[node(sim, "s").grid.did]
    assert known.own_ms < sim.now_ms() - 11 * HOUR * 1000  # not by the authority
    assert known.as_of_ms > sim.now_ms() - 300_000


async def test_the_owner_of_a_grant_may_sleep_too(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await delegate(sim)
    grant = await issue_grant(sim, "m")
    await trio.sleep(3)
    sim.kill("m")
    sim.kill("a")
    async for _ in pass_time(sim, 2 * HOUR, 600):
        assert outsider_may(sim, "s", grant) is None
    entry = grant.status
    assert entry is not None
    node(sim, "d2").statuses.revoke(entry)
    took = await eventually(lambda: outsider_may(sim, "s", grant) is Code.REVOKED, seconds=5)
    assert took < 2
    with pytest.raises(AigridError) as caught:
        node(sim, "s").statuses.revoke(entry)
    assert caught.value.code is Code.NOT_AUTHORITY


async def test_a_delegate_removes_a_member_while_the_authority_sleeps(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await delegate(sim)
    sim.kill("a")
    async for _ in pass_time(sim, 2 * HOUR, 1200):
        pass
    m = node(sim, "m").identity
    assert member_may(sim, "s", "m") is None
    with pytest.raises(AigridError) as caught:
        node(sim, "s").grid.remove(m.did)
    assert caught.value.code is Code.NOT_AUTHORITY
    node(sim, "d1").grid.remove(m.did)
    others = ("d1", "d2", "d3", "s")
    took = await eventually(
        lambda: all(
            m.peer_id not in node(sim, name).transport.members
            and m.peer_id not in node(sim, name).transport.connected()
            for name in others
        ),
        seconds=5,
    )
    assert took < 3
    assert all(member_may(sim, name, "m") is Code.REVOKED for name in others)
    # It stays so when it comes back with what it has, and when the authority wakes.
    await trio.sleep(60)
    assert m.peer_id not in node(sim, "s").transport.connected()
    a = (await sim.start("a", incarnation=1, with_authority=True)).node
    await eventually(lambda: a.grid.removed_ms(m.did) is not None, seconds=30)
    assert m.did not in a.grid.members()
    await trio.sleep(30)
    assert all(member_may(sim, name, "m") is Code.REVOKED for name in (*others, "a"))
    a.grid.admit(m.did)
    await eventually(lambda: m.did in node(sim, "s").grid.members(), seconds=30)


async def test_the_same_is_decided_with_everybody_else_down(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await delegate(sim)
    shown = {name: membership(sim, name) for name in ("m", "d3")}
    node(sim, "a").grid.remove(shown["m"].subject)
    await trio.sleep(3)
    for name in NAMES:
        sim.kill(name)
    s = (await sim.start("s", incarnation=1)).node

    def decided() -> list[Code | None]:
        return [decide(sim, "s", record.subject, record) for record in shown.values()]

    assert decided() == [Code.REVOKED, None]
    sim.skip_seconds(23 * HOUR)
    assert decided() == [Code.REVOKED, None]
    sim.skip_seconds(2 * HOUR)
    assert decided() == [Code.REVOKED, Code.STATUS_STALE]
    assert shown["d3"].subject in s.grid.members()  # it may come in, and bring a newer list


@pytest.mark.parametrize("cut_off_from", [NAMES[:4], ("a", "d1", "d2")])
async def test_who_hears_of_no_quorum_denies_within_the_stated_age(
    sim: Simulation, autojump_clock: MockClock, cut_off_from: tuple[str, ...]
) -> None:
    """With one delegate on its own side, too, which knows nothing of the revocation."""
    await delegate(sim)
    grant = await issue_grant(sim, "m")
    there = {"m", *cut_off_from}
    cut(sim, set(NAMES) - there, there)
    revoked_ms = sim.now_ms()
    assert grant.status is not None
    node(sim, "d1").statuses.revoke(grant.status)
    await eventually(lambda: outsider_may(sim, "d2", grant) is Code.REVOKED, seconds=5)
    assert outsider_may(sim, "s", grant) is None
    while outsider_may(sim, "s", grant) is None:
        sim.skip_seconds(13)
        await trio.sleep(7)
    assert outsider_may(sim, "s", grant) is Code.STATUS_STALE
    assert sim.now_ms() - revoked_ms <= (600 + 20) * 1000
    assert member_may(sim, "s", "d3") is None  # members' lists may be older
    cut(sim, set(NAMES) - there, there, heal=True)
    await eventually(lambda: outsider_may(sim, "s", grant) is Code.REVOKED, seconds=120)


async def test_a_delegate_on_the_smaller_side_revives_nobody(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await delegate(sim)
    there = ("a", "d1", "d2", "m")
    cut(sim, there, ("d3", "s"))
    shown = membership(sim, "m")
    node(sim, "d1").grid.remove(shown.subject)
    await trio.sleep(3)
    async for _ in pass_time(sim, 25 * HOUR, 3600):
        pass
    assert decide(sim, "s", shown.subject, shown) is Code.STATUS_STALE
    assert decide(sim, "a", shown.subject, shown) is Code.REVOKED
    cut(sim, there, ("d3", "s"), heal=True)
    await eventually(lambda: decide(sim, "d3", shown.subject, shown) is Code.REVOKED, seconds=120)
    assert shown.subject not in node(sim, "s").grid.members()


def renewals(sim: Simulation, name: str) -> list[Record]:
    """What `name` holds that was not signed by the authority."""
    held = node(sim, name).graph.store.of_kind(Kind.MEMBERSHIP)
    return [r for r in held if isinstance(r.body, MembershipBody) and r.issuer != r.body.grid]


async def test_delegates_renew_memberships_past_half_their_life(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await delegate(sim)
    first = {name: membership(sim, name) for name in NAMES}
    sim.kill("a")
    alive = [name for name in NAMES if name != "a"]
    sim.skip_seconds(15 * 24 * HOUR - 1800)
    async for _ in pass_time(sim, 6 * HOUR, 1200):
        pass
    assert len(renewals(sim, "s")) == len(alive)  # whoever's turn it is renews for all
    async for _ in pass_time(sim, 16 * 24 * HOUR, 12 * HOUR):
        pass
    members = node(sim, "s").grid.members()
    assert members == set(dids(sim, alive))
    await eventually(lambda: member_may(sim, "s", "m") is None, seconds=30)
    shown = membership(sim, "m")
    assert shown.issuer in dids(sim, DELEGATES)
    assert shown.status == first["m"].status
    # Each that starts anew is met by the others, though nobody has the authority's word any more.
    sim.kill("m")
    await sim.start("m", incarnation=1)
    await eventually(lambda: everybody_is_there(sim), seconds=60)
    # The authority's machine wakes: it renews everything itself, under the same entries.
    await sim.start("a", incarnation=1, with_authority=True)
    grid = node(sim, "s").grid.did
    await eventually(lambda: membership(sim, "m").issuer == grid, seconds=60)
    assert membership(sim, "m").status == first["m"].status
    await eventually(lambda: not renewals(sim, "s"), seconds=60)
    await eventually(lambda: everybody_is_there(sim), seconds=60)


async def test_who_slept_through_the_delegation_is_met_with_it(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    """Its own membership is the authority's, everybody else's is renewed by whom it knows not."""
    await trio.sleep(3)
    sim.kill("m")
    await delegate(sim)
    sim.kill("a")
    async for _ in pass_time(sim, 24 * 24 * HOUR, 12 * HOUR):
        pass
    m = (await sim.start("m", incarnation=1)).node
    assert m.graph.revocations.delegates(m.grid.did, sim.now_ms()) == ()
    await eventually(lambda: everybody_is_there(sim), seconds=120)
    assert len(m.graph.revocations.delegates(m.grid.did, sim.now_ms())) == 3


async def test_a_malicious_delegate_admits_no_stranger_and_brings_nobody_back(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await delegate(sim)
    evil, s, now_ms = node(sim, "d3"), node(sim, "s"), sim.now_ms()
    removed, good = membership(sim, "m"), membership(sim, "s")
    node(sim, "a").statuses.revoke_membership(removed.subject)
    await eventually(lambda: removed.subject not in s.grid.members(), seconds=5)

    def renewed(body: MembershipBody, entry: StatusEntry | None) -> Record:
        return build(
            Kind.MEMBERSHIP,
            body,
            evil.identity,
            valid_from_ms=now_ms,
            valid_until_ms=now_ms + LIFE_MS // 10,
            status=entry,
        )

    body = renewal_body(good)
    stranger = MembershipBody(id=OUTSIDER.did, grid=body.grid, renews=body.renews)
    crimes = [
        renewed(renewal_body(removed), removed.status),
        renewed(renewal_body(removed), good.status),
        renewed(stranger, good.status),
    ]
    for crime in crimes:
        evil.gossip.spread(crime)
        await trio.sleep(1)
    await trio.sleep(3 * LIMITS.sync_interval_seconds)
    assert s.grid.members() == set(dids(sim, NAMES)) - {removed.subject}
    for crime in crimes:
        assert decide(sim, "s", crime.subject, crime) in (Code.REVOKED, Code.NOT_MEMBER)


async def test_memberships_from_before_there_were_entries_are_issued_anew(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    m, a = node(sim, "m"), node(sim, "a")
    assert a.grid.authority is not None
    old = build(
        Kind.MEMBERSHIP,
        MembershipBody(id=m.identity.did, grid=a.grid.did),
        a.grid.authority,
        valid_from_ms=sim.now_ms() + 1,
        valid_until_ms=sim.now_ms() + LIFE_MS // 10,
    )
    a.graph.ingest(old.raw, now_ms=sim.now_ms(), received_from=None)
    await eventually(lambda: membership(sim, "m").status is not None, seconds=20)
    await eventually(lambda: member_may(sim, "s", "m") is None, seconds=5)


async def test_a_renewed_membership_keeps_its_entry_and_a_new_one_gets_another(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    a, m = node(sim, "a"), node(sim, "m").identity
    first = membership(sim, "m")
    assert a.grid.admit(m.did).status == first.status
    a.grid.remove(m.did)
    again = a.grid.admit(m.did).status
    assert again is not None
    assert first.status is not None
    assert again.index != first.status.index


async def test_a_delegate_that_is_removed_signs_no_more(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await delegate(sim)
    a, gone = node(sim, "a"), node(sim, "d3").identity.did
    a.grid.remove(gone)
    delegates, quorum = a.statuses.delegates(a.grid.did)
    assert (gone in delegates, len(delegates), quorum) == (False, 2, 2)
    await eventually(
        lambda: node(sim, "s").statuses.delegates(a.grid.did)[0] == delegates, seconds=10
    )


async def test_an_actor_without_a_node_has_its_lists_signed_by_a_member(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    """It passes on to a gateway what it was granted; anybody can tell that it was not revoked."""
    m, now_ms = node(sim, "m"), sim.now_ms()
    entry = StatusEntry(OUTSIDER.did, 5, 600)
    body = GrantBody(m.identity.did, Permission(("invoke",), ("*",)))
    grant = build(
        Kind.GRANT,
        body,
        OUTSIDER,
        valid_from_ms=now_ms,
        valid_until_ms=now_ms + LIFE_MS,
        status=entry,
    )

    def may() -> Code | None:
        return decide(sim, "s", m.identity.did, membership(sim, "m"), grant, rules=rules_for(grant))

    assert may() is Code.STATUS_STALE
    said = build(
        Kind.STATUS_DELEGATION,
        StatusDelegationBody(status_list_of(OUTSIDER.did), (m.identity.did,), 1),
        OUTSIDER,
        valid_from_ms=now_ms,
        valid_until_ms=now_ms + LIFE_MS,
    )
    commands = NodeCommands(m)

    async def emit(_event: object) -> None:
        await trio.lowlevel.checkpoint()

    await commands.call("record_import", {"raw": said.raw.decode()}, emit)
    await eventually(lambda: may() is None, seconds=40)
    async for _ in pass_time(sim, HOUR, 900):
        assert may() is None
    late = await sim.start("late")
    await sim.join("late", "a")
    await eventually(lambda: OUTSIDER.did in late.node.statuses.known(), seconds=40)
    m.statuses.revoke(entry)
    await eventually(lambda: may() is Code.REVOKED, seconds=5)


async def answer(sim: Simulation, name: str, model: str) -> Code | None:
    """What a request of a whole node, through all there is between, ends with; None: its answer."""
    try:
        text, _ = await sim.ask(name, model, "hello")
    except AigridError as error:
        return error.code
    assert text.strip() == "hello"
    return None


async def test_requests_are_answered_while_the_authority_sleeps_and_denied_in_time(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    """The same by real requests, presented, decided and served."""
    await delegate(sim)
    model = await sim.publish_echo("s", "parrot")
    await eventually(node(sim, "m").router.models, seconds=20)
    sim.kill("a")
    async for _ in pass_time(sim, 12 * HOUR, 3600):
        await eventually(node(sim, "m").router.models, seconds=20)
        assert await answer(sim, "m", model) is None
    cut(sim, DELEGATES, ("s", "m"))
    async for _ in pass_time(sim, 18 * HOUR, 6 * HOUR):
        await eventually(node(sim, "m").router.models, seconds=20)
        assert await answer(sim, "m", model) is None
    async for _ in pass_time(sim, 8 * HOUR, 4 * HOUR):
        await eventually(node(sim, "m").router.models, seconds=20)
    assert await answer(sim, "m", model) is Code.STATUS_STALE
    cut(sim, DELEGATES, ("s", "m"), heal=True)
    await trio.sleep(90)
    assert await answer(sim, "m", model) is None
    node(sim, "d2").grid.remove(node(sim, "m").identity.did)
    await trio.sleep(3)
    assert await answer(sim, "m", model) is not None
