"""What a node says of itself: on change, at half-life, and never at the price of its own end."""

from typing import Any

import pytest
import trio
from tests.metagraph import world

from aigrid.node.discovery.announce import Announcer
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.kinds import Kind, NodeBody, Offer
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import ModelDescription, model_id

MODEL = world.manifest(world.OWN)
VISION = world.signed(
    world.model_body(1, capabilities=("object-detection",)), Kind.MODEL, world.OWN
)


class Said:
    """An announcer, and what it is about."""

    def __init__(self):
        self.graph = world.with_members(world.OWN)
        self.graph.ingest_batch((MODEL.raw, VISION.raw), now_ms=world.NOW, received_from=None)
        self.now_ms = world.NOW
        self.software = "one"
        self.offers: tuple[Offer, ...] = (world.offer(MODEL),)
        self.announcer = Announcer(
            self.graph,
            world.OWN,
            describe=self.describe,
            offers=lambda: self.offers,
            now_ms=lambda: self.now_ms,
        )

    def describe(self):
        return NodeBody(
            id=world.OWN.did,
            protocol_version=1,
            software=self.software,
            addresses=(),
            engines=(),
            devices=(),
        )

    def newest(self, kind):
        return self.graph.store.newest((world.OWN.did, kind.value, world.OWN.did))


def test_nothing_is_said_again_before_it_changes_or_is_past_half_its_life():
    said = Said()
    said.announcer.announce()
    first = said.newest(Kind.NODE), said.newest(Kind.AVAILABILITY)
    said.now_ms += LIMITS.availability_ttl_seconds * 500
    said.announcer.announce()
    assert (said.newest(Kind.NODE), said.newest(Kind.AVAILABILITY)) == first
    said.now_ms += 1
    said.announcer.announce()
    assert said.newest(Kind.NODE) == first[0]  # lives longer
    assert said.newest(Kind.AVAILABILITY).valid_from_ms == said.now_ms
    said.software = "two"
    said.announcer.announce()
    assert said.newest(Kind.NODE).body.software == "two"


def branches(said):
    return said.newest(Kind.AVAILABILITY).body.branches


def test_who_offers_nothing_says_nothing_and_takes_back_what_it_said():
    said = Said()
    offers, said.offers = said.offers, ()
    said.announcer.announce()
    assert said.newest(Kind.AVAILABILITY) is None
    said.offers = offers
    said.announcer.announce()
    assert said.newest(Kind.AVAILABILITY).body.offers == offers
    said.offers = ()
    said.announcer.announce()
    gone = said.newest(Kind.AVAILABILITY)
    assert gone.withdrawn
    said.announcer.announce()
    assert said.newest(Kind.AVAILABILITY) == gone


def test_offers_are_for_their_branches_and_for_those_they_were_in_before():
    said = Said()
    said.announcer.announce()
    assert branches(said) == ("text",)
    said.offers = (world.offer(VISION),)
    said.announcer.announce()
    assert branches(said) == ("text", "vision")  # or who replicates text alone believes the first
    said.offers = ()
    said.announcer.announce()
    said.offers = (world.offer(VISION),)
    said.announcer.announce()
    assert branches(said) == ("vision",)  # the withdrawal has reached everybody
    said.now_ms += LIMITS.availability_ttl_seconds * 1000 + 60_000
    said.offers = (world.offer(MODEL),)
    said.announcer.announce()
    assert branches(said) == ("text",)  # the one before has expired everywhere


def test_an_offer_whose_manifest_is_not_known_is_everybodys():
    said = Said()
    said.offers = (world.offer(MODEL), world.offer(world.manifest(world.ANN, 2)))
    said.announcer.announce()
    assert branches(said) == ()


def test_more_offers_than_a_record_holds_are_cut():
    said = Said()
    said.offers = tuple(
        Offer(model_id(d), MODEL.content_id, "warm")
        for n in range(LIMITS.offers_max + 3)
        for d in [ModelDescription("echo", "text-generation", (), options={"n": n})]
    )
    said.announcer.announce()
    assert said.newest(Kind.AVAILABILITY).body.offers == said.offers[: LIMITS.offers_max]


def test_a_clock_set_back_silences_the_announcer_until_it_has_caught_up():
    said = Said()
    said.announcer.announce()
    said.now_ms -= 2 * LIMITS.clock_skew_seconds * 1000
    said.software = "two"
    said.announcer.announce()
    assert said.newest(Kind.NODE).body.software == "one"
    said.announcer.withdraw()  # neither does this raise
    said = Said()
    said.announcer.announce()
    said.software = "two"
    said.announcer.announce()
    assert said.newest(Kind.NODE).body.software == "two"


def test_a_description_that_no_record_allows_does_not_hide_the_offers():
    said = Said()
    said.software = "\x07" * 3
    said.announcer.announce()
    assert said.newest(Kind.NODE) is None
    assert said.newest(Kind.AVAILABILITY) is not None


def test_withdrawing_ends_announcing():
    said = Said()
    said.announcer.announce()
    said.announcer.withdraw()
    assert said.newest(Kind.AVAILABILITY).withdrawn
    said.announcer.poke()
    said.announcer.announce()
    assert said.newest(Kind.AVAILABILITY).withdrawn


def test_offers_of_an_earlier_run_are_withdrawn_too():
    said = Said()
    said.announcer.announce()
    again = Announcer(
        said.graph,
        world.OWN,
        describe=said.describe,
        offers=lambda: (),
        now_ms=lambda: said.now_ms + 1000,
    )
    again.withdraw()
    assert said.newest(Kind.AVAILABILITY).withdrawn


def test_starting_over_says_everything_again():
    said = Said()
    said.announcer.announce()
    first = said.newest(Kind.NODE)
    said.announcer.start_over()
    said.announcer.announce()
    assert said.newest(Kind.NODE).valid_from_ms > first.valid_from_ms


async def test_several_changes_at_once_make_one_record(autojump_clock):
    said = Said()
    heard: list[Any] = []
    said.graph.listeners.append(heard.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(said.announcer.run)
        assert [record.kind for record in heard] == [Kind.NODE, Kind.AVAILABILITY]
        for software in ("two", "three", "four"):
            said.now_ms += 1
            said.software = software
            said.announcer.poke()
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert [record.body.software for record in heard[2:]] == ["four"]
        nursery.cancel_scope.cancel()


async def test_a_refusal_does_not_end_the_service(autojump_clock, monkeypatch):
    said = Said()
    issue = said.graph.issue
    refusals: list[Kind] = []

    def refuse(kind, *args, **kwargs):
        if len(refusals) < 4:
            refusals.append(kind)
            raise VerificationError("not now", Code.FROM_FUTURE)
        return issue(kind, *args, **kwargs)

    monkeypatch.setattr(said.graph, "issue", refuse)
    async with trio.open_nursery() as nursery:
        await nursery.start(said.announcer.run)
        await trio.sleep(30)
        assert said.newest(Kind.AVAILABILITY) is not None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [6])
async def test_what_changes_without_a_poke_is_noticed_in_time(autojump_clock, seconds):
    said = Said()
    async with trio.open_nursery() as nursery:
        await nursery.start(said.announcer.run)
        said.software = "two"
        await trio.sleep(seconds)
        assert said.newest(Kind.NODE).body.software == "two"
        nursery.cancel_scope.cancel()


async def test_a_restart_does_not_repeat_what_still_holds(autojump_clock):
    said = Said()
    said.announcer.announce()
    first = said.newest(Kind.NODE)
    said.now_ms += 1000
    for software in ("one", "two"):
        said.software = software
        again = Announcer(
            said.graph,
            world.OWN,
            describe=said.describe,
            offers=lambda: (),
            now_ms=lambda: said.now_ms,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(again.run)
            nursery.cancel_scope.cancel()
        assert (said.newest(Kind.NODE) == first) is (software == "one")
