"""What a wallet keeps, of whom, and which chains it answers with."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node.policy.lists import Lists

from aigrid.metagraph.database import Database
from aigrid.node.policy.links import chain_of, in_order
from aigrid.node.policy.wallet import Terms, Wallet
from aigrid.protocol.credential_kinds import Permission
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS, Limits

START_MS = 1_800_000_000_000
OWNER, MIDDLE, ACTOR, OWN, OTHER = (Identity(bytes([i]) * 32) for i in range(1, 6))
KEYS = [Identity(bytes([i]) * 32) for i in range(1, 20)]
INVOKE = Permission(("invoke",), ("*",))
DAY_MS = 86_400_000


class World:
    """Wallets of several keys, on one clock and with one set of status lists."""

    def __init__(self):
        self.ms = START_MS
        self.lists = Lists(lambda: self.ms, KEYS)
        self.rng = random.Random(7)

    def wallet(self, identity, database=None):
        return Wallet(
            database or Database(None),
            identity,
            entries=self.lists,
            now_ms=lambda: self.ms,
            random_bytes=self.rng.randbytes,
        )

    def grant(self, to=OWN, issuer=OWNER, permission=INVOKE, **terms):
        return self.wallet(issuer).issue(issuer, to.did, permission, Terms(**terms))

    def passed_on(self, *holders, on_behalf=False):
        """A chain from OWNER through `holders`; the last link may be for its issuer alone."""
        chain = (self.grant(holders[0], delegable=len(holders) - 1),)
        for number, (holder, to) in enumerate(pairwise(holders), 2):
            wallet = self.wallet(holder)
            wallet.take([link.raw for link in chain])
            terms = Terms(delegable=len(holders) - number)
            last = number == len(holders)
            chain = wallet.delegate(
                chain[-1].content_id, to.did, INVOKE, terms, on_behalf=on_behalf and last
            )
        return chain


@pytest.fixture
def world():
    return World()


def refused(call, *arguments, **named):
    with pytest.raises(AigridError) as caught:
        call(*arguments, **named)
    return caught.value.code


def raws(chain):
    return [link.raw for link in chain]


def test_a_grant_to_this_node_is_a_chain_of_one(world):
    wallet, grant = world.wallet(OWN), world.grant()
    assert wallet.chains() == ()
    assert wallet.take([grant.raw]) == (grant,)
    assert wallet.chains() == ((grant,),)
    assert wallet.chains(ACTOR.did) == ()
    assert wallet.take([grant.raw]) == (grant,)  # again changes nothing
    assert wallet.chains() == ((grant,),)


def test_fewest_links_come_first_and_in_any_order_they_are_taken(world):
    wallet = world.wallet(OWN)
    long, short = world.passed_on(MIDDLE, ACTOR, OWN), world.passed_on(MIDDLE, OWN)
    wallet.take(raws(reversed(long)))
    wallet.take(raws(short))
    assert wallet.chains() == (short, long)
    assert wallet.chain(long[-1].content_id) == long


def test_what_is_for_its_issuers_requests_serves_nobody_else(world):
    wallet = world.wallet(OWN)
    chain = world.passed_on(ACTOR, OWN, on_behalf=True)
    wallet.take(raws(chain))
    assert wallet.chains() == ()
    assert wallet.chains(ACTOR.did) == (chain,)
    assert wallet.chains(OWNER.did) == ()
    code = refused(wallet.delegate, chain[-1].content_id, OTHER.did, INVOKE, Terms())
    assert code is Code.NOT_DELEGABLE


def test_links_that_are_held_need_not_come_again_and_missing_ones_do(world):
    wallet = world.wallet(OWN)
    first, second = world.passed_on(OWN, ACTOR, OWN), None
    assert refused(wallet.take, [first[-1].raw]) is Code.CHAIN_BROKEN
    wallet.take([first[0].raw])
    assert wallet.take(raws(first[1:])) == first[1:]
    assert wallet.chains()[-1] == first
    assert second is None


def test_what_is_not_for_this_node_is_not_kept(world):
    wallet, other = world.wallet(OWN), world.grant(OTHER)
    assert refused(wallet.take, [other.raw]) is Code.NOT_HOLDER
    assert refused(wallet.take, [world.grant().raw, other.raw]) is Code.CHAIN_BROKEN
    assert refused(wallet.take, []) is Code.CHAIN_TOO_LONG
    assert refused(wallet.take, [b"{}"]) is Code.UNSIGNED
    listed = world.lists.sign(OWNER.did)
    assert refused(wallet.take, [listed.raw]) is Code.UNKNOWN_KIND
    damaged = world.grant().raw.replace(b'"invoke"', b'"publish"')
    assert refused(wallet.take, [damaged]) is Code.BAD_SIGNATURE
    assert wallet.all() == []


def test_what_expires_is_no_chain_any_more(world):
    wallet = world.wallet(OWN)
    soon, later = world.grant(valid_ms=1000), world.grant(valid_ms=5000)
    wallet.take([soon.raw])
    wallet.take([later.raw])
    assert wallet.chains() == ((later,), (soon,))
    world.ms += 1000
    assert wallet.chains() == ((later,),)
    world.ms += 4000
    assert wallet.chains() == ()
    assert refused(wallet.take, [soon.raw]) is Code.EXPIRED
    assert len(wallet.all()) == 2  # listed as expired for a while


def test_it_is_all_there_after_a_restart(world):
    database = Database(None)
    wallet = world.wallet(OWN, database)
    chain = world.passed_on(MIDDLE, OWN)
    wallet.take(raws(chain), given_by="peer")
    issued = wallet.issue(OWN, OTHER.did, INVOKE, Terms())
    again = world.wallet(OWN, database)
    assert again.chains() == (chain,)
    assert again.all() == wallet.all()
    assert again.get(issued.content_id).issued
    assert again.issued_to(OTHER.did) == ((issued,),)
    world.ms += 366 * DAY_MS
    assert world.wallet(OWN, database).all() == []


def test_the_newest_are_listed_by_what_they_are(world, monkeypatch):
    wallet = world.wallet(OWN)
    issued = []
    for _ in range(4):
        world.ms += 1
        issued.append(wallet.issue(OWN, OTHER.did, INVOKE, Terms()))
    world.ms += 1
    grant = world.grant()
    wallet.take([grant.raw])
    assert [kept.record for kept in wallet.all(held=True)] == [grant]
    assert [kept.record for kept in wallet.all(issued=True)] == issued
    assert wallet.all(held=True, issued=True) == []
    assert wallet.issued_to(OTHER.did) == tuple((one,) for one in issued)
    assert wallet.issued_to(OWN.did) == ()
    monkeypatch.setattr("aigrid.node.policy.wallet.LIMITS", Limits(credentials_listed_max=2))
    assert [kept.record for kept in wallet.all()] == [issued[-1], grant]


def test_a_member_cannot_fill_it_and_the_operator_can(world, monkeypatch):
    few = Limits(credentials_held_max=6, credentials_given_max=4, credentials_of_one_max=2)
    monkeypatch.setattr("aigrid.node.policy.wallet.LIMITS", few)
    wallet = world.wallet(OWN)
    for peer in ("a", "b"):
        for issuer in (MIDDLE, OTHER):  # whoever signed them, they are the giver's
            wallet.take([world.grant(issuer=issuer).raw], given_by=peer)
        assert refused(wallet.take, [world.grant().raw], given_by=peer) is Code.OVER_QUOTA
    assert refused(wallet.take, [world.grant().raw], given_by="c") is Code.OVER_QUOTA
    for _ in range(2):
        wallet.take([world.grant().raw])
    assert refused(wallet.take, [world.grant().raw]) is Code.OVER_QUOTA
    assert len(wallet.chains()) == 6


def test_what_has_expired_makes_room(world, monkeypatch):
    monkeypatch.setattr("aigrid.node.policy.wallet.LIMITS", Limits(credentials_held_max=1))
    wallet = world.wallet(OWN)
    wallet.take([world.grant(valid_ms=1000).raw])
    world.ms += 1000
    grant = world.grant()
    wallet.take([grant.raw])
    assert wallet.chains() == ((grant,),)


def test_what_the_operator_brings_as_well_is_the_operators(world):
    wallet, grant = world.wallet(OWN), world.grant()
    wallet.take([grant.raw], given_by="peer")
    assert wallet.get(grant.content_id).given_by == "peer"
    wallet.take([grant.raw])
    assert wallet.get(grant.content_id).given_by == ""
    wallet.take([grant.raw], given_by="peer")
    assert wallet.get(grant.content_id).given_by == ""


def test_nothing_is_passed_on_beyond_what_is_held(world):
    wallet = world.wallet(OWN)
    narrow = Permission(("invoke",), ("text-generation",), purposes=("research",))
    grant = world.grant(permission=narrow, delegable=2, valid_ms=1000)
    wallet.take([grant.raw])

    def passing_on(permission=narrow, to=OTHER, **terms):
        return wallet.delegate(grant.content_id, to.did, permission, Terms(**terms))

    for wider in (
        INVOKE,
        Permission(("fetch", "invoke"), ("text-generation",), purposes=("research",)),
        Permission(("invoke",), ("text-generation",)),
    ):
        assert refused(passing_on, wider) is Code.DELEGATION_WIDENS
    assert refused(passing_on, delegable=2) is Code.DELEGATION_WIDENS
    chain = passing_on(delegable=1)
    assert chain[-1].valid_until_ms == grant.valid_until_ms
    assert chain_of(chain[-1], {grant.content_id: grant}) == chain
    code = refused(wallet.delegate, chain[-1].content_id, OTHER.did, narrow, Terms())
    assert code is Code.NOT_HOLDER
    assert refused(wallet.delegate, "bnothing", OTHER.did, INVOKE, Terms()) is Code.NOT_FOUND


def test_forgetting_takes_along_what_was_passed_on_from_it(world):
    wallet = world.wallet(OWN)
    chain = world.passed_on(MIDDLE, OWN)
    wallet.take(raws(chain))
    assert not wallet.forget("bnothing")
    assert wallet.forget(chain[0].content_id)
    assert wallet.chains() == ()
    assert wallet.all() == []
    assert not wallet.forget(chain[1].content_id)


def test_a_credential_of_ones_own_is_held_and_issued(world):
    wallet = world.wallet(OWN)
    grant = wallet.issue(OTHER, OWN.did, INVOKE, Terms())  # with the authority's key, say
    (kept,) = wallet.all()
    assert (kept.held, kept.issued, wallet.chains()) == (True, True, ((grant,),))
    assert wallet.forget(grant.content_id)
    (kept,) = wallet.all()
    assert (kept.held, kept.issued) == (False, True)


def test_credentials_are_put_in_order_or_are_no_chain(world):
    chain = world.passed_on(MIDDLE, ACTOR, OWN)
    assert in_order([chain[2], chain[0], chain[1]]) == chain
    for wrong in ([], chain[1:], [*chain, world.grant()], [chain[0], chain[2]]):
        assert refused(in_order, wrong) is Code.CHAIN_BROKEN


def test_a_chain_is_never_longer_than_four(world):
    keys = [Identity(bytes([i]) * 32) for i in range(10, 14)]
    chain = world.passed_on(*keys)
    assert len(chain) == LIMITS.chain_max
    wallet = world.wallet(keys[-1])
    wallet.take(raws(chain))
    code = refused(wallet.delegate, chain[-1].content_id, OWN.did, INVOKE, Terms())
    assert code is Code.NOT_DELEGABLE


GIVEN_WORLD = World()
GIVEN = [
    GIVEN_WORLD.passed_on(MIDDLE, OWN),
    GIVEN_WORLD.passed_on(MIDDLE, ACTOR, OWN),
    GIVEN_WORLD.passed_on(OWN, ACTOR, OWN),
    GIVEN_WORLD.passed_on(ACTOR, OTHER),
    GIVEN_WORLD.passed_on(ACTOR, OWN, on_behalf=True),
]
LINKS = st.sampled_from([link for chain in GIVEN for link in chain])


@given(st.lists(st.lists(LINKS, max_size=4), max_size=8))
def test_whatever_is_given_only_whole_chains_to_this_node_are_kept(batches):
    wallet = GIVEN_WORLD.wallet(OWN)
    codes = {taken(wallet, batch) for batch in batches}
    assert codes <= {None, Code.CHAIN_BROKEN, Code.NOT_HOLDER, Code.CHAIN_TOO_LONG}
    held = {kept.record.content_id for kept in wallet.all()}
    ready = {*wallet.chains(), *wallet.chains(ACTOR.did)}
    assert held == {link.content_id for chain in ready for link in chain}
    assert ready <= {chain[:n] for chain in GIVEN for n in range(1, 4)}


def taken(wallet, batch):
    try:
        wallet.take(raws(batch))
    except AigridError as error:
        return error.code
    return None


def test_what_ended_at_a_key_that_the_node_had_before_is_told(world):
    database = Database(None)
    wallet, chain = world.wallet(OWN, database), world.passed_on(MIDDLE, OWN)
    wallet.take(raws(chain))
    assert not any(wallet.is_stray(link.content_id) for link in chain)
    again = world.wallet(OTHER, database)
    assert [again.is_stray(link.content_id) for link in chain] == [False, True]
    assert again.chains() == ()


def test_what_has_expired_is_told_apart_until_it_is_dropped(world):
    wallet = world.wallet(OWN)
    short, long = world.grant(valid_ms=1000), world.grant()
    wallet.take([short.raw])
    wallet.take([long.raw])
    assert (len(wallet.chains()), wallet.chains(ended=True)) == (2, ())
    world.ms += 1000
    assert (wallet.chains(), wallet.chains(ended=True)) == (((long,),), ((short,),))
    assert wallet.chains(ACTOR.did, ended=True) == ()


def test_a_credential_is_named_by_the_end_of_its_id_if_that_is_the_only_one(world):
    wallet, grants = world.wallet(OWN), [world.grant() for _ in range(40)]
    for grant in grants:
        wallet.take([grant.raw])
    for grant in grants:
        assert wallet.get(grant.content_id[-8:]).record == grant
    assert refused(wallet.get, grants[0].content_id[-7:]) is Code.NOT_FOUND
    name = grants[0].content_id
    wallet._database.execute(
        "UPDATE credentials SET content_id = ? WHERE content_id = ?",
        ("b2" + name[2:], grants[1].content_id),
    )
    assert refused(wallet.get, name[-8:]) is Code.INVALID_REQUEST
    assert wallet.get(name).record == grants[0]
