"""Who of those in line goes on: in order of arrival, as many as there is room for."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.mesh.placement.line import Line, who_goes
from aigrid.node.mesh.routing.summoning import Place
from aigrid.protocol.limits import LIMITS


def places(*since: float, busy: bool = True) -> list[Place]:
    found = [Place(at) for at in since]
    for place in found:
        place.busy = busy
    return found


@given(st.integers(0, 8), st.integers(-3, 8), st.lists(st.booleans(), max_size=5))
def test_the_first_ones_go_and_no_more_than_there_is_room_for(
    count: int, room: int, out: list[bool]
) -> None:
    waiting, away = places(*range(count)), places(*map(float, range(len(out))))
    for place, asks in zip(away, out, strict=True):
        place.asks = asks
    gone = who_goes(waiting, away, room=room, returned_at=0.0, now=1.0, limits=LIMITS)
    assert gone == waiting[: max(0, room - out.count(False))]


def test_one_at_a_time_tries_where_all_seems_full_and_the_others_after_it() -> None:
    waiting = places(0.0, 1.0)
    limits = replace(LIMITS, summon_retry_seconds=2.0)

    def at(now: float, *out: Place) -> list[Place]:
        return who_goes(waiting, out, room=0, returned_at=0.0, now=now, limits=limits)

    assert at(1.9) == []
    assert at(2.0) == waiting[:1]
    assert at(9.0, *places(0.0)) == []
    assert (
        who_goes(places(0.0, busy=False), (), room=0, returned_at=0.0, now=9.0, limits=limits) == []
    ), "nobody offers it, so there is nobody to try"


def test_who_comes_back_has_the_place_that_he_had_once_he_has_rested() -> None:
    line, first, second, third = Line(LIMITS, now=0.0), *places(0.0, 1.0, 2.0)
    for place in (first, second):
        line.enter(place, busy=True, now=2.0)
    line.advance(1, 3.0)
    assert (line.waiting, line.out) == ([second], {first})
    line.enter(third, busy=True, now=4.0)
    line.enter(first, busy=True, now=5.0)
    assert line.waiting == [first, second, third]
    line.advance(1, 5.1)
    assert line.waiting == [first, third], "the next one has its try while the first rests"
    line.enter(second, busy=True, now=5.2)
    line.advance(1, 5.2 + LIMITS.summon_poll_seconds)
    assert line.out == {first}


def test_who_is_often_let_go_in_vain_rests_longer_and_longer() -> None:
    line, place = Line(LIMITS, now=0.0), Place(0.0)
    now, rests = 0.0, []
    for _ in range(6):
        line.enter(place, busy=True, now=now)
        rests.append(max(0.0, place.rests_until - now))
        now += 10.0
        line.advance(1, now)
        assert line.out == {place}
    assert rests == [0.0, 0.25, 0.5, 1.0, 2.0, 2.0]
