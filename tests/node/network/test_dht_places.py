"""Whose DHT stream is served, and whose goes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.network.dht_places import Place, Places


def place(peer: str, asked: float = 0.0) -> Place:
    return Place(peer, asked, lambda: None)


def test_the_longest_idle_of_who_has_most_goes() -> None:
    places = Places(3, 5)
    lone, first, second, third = place("lone", 0), place("a", 1), place("a", 2), place("a", 3)
    for one in (lone, first, second, third, place("b", 4)):
        assert places.enter(one) is None
    first.asked = 9.0
    assert places.enter(place("c", 10)) is second
    assert places.enter(place("d", 10)) is third, "before `first`, which asked"
    assert places.enter(place("e", 10)) is lone, "each has one"


def test_who_has_as_many_as_it_may_takes_no_place_of_others() -> None:
    places = Places(2, 3)
    for one in (place("other"), place("a"), place("a")):
        assert places.enter(one) is None
    with pytest.raises(LookupError):
        places.enter(place("a"))


_steps = st.lists(
    st.tuples(st.sampled_from(["enter", "ask", "leave"]), st.integers(0, 5), st.integers(0, 99)),
    max_size=100,
)


@given(_steps, st.integers(1, 4), st.integers(1, 8))
def test_bounds_hold_and_nobody_with_fewer_than_another_is_out(
    steps: list[tuple[str, int, int]], per_peer: int, in_all: int
) -> None:
    places, held = Places(per_peer, in_all), list[Place]()

    def of(peer: str) -> list[Place]:
        return [one for one in held if one.peer == peer]

    for now, (action, peer, index) in enumerate(steps):
        if action == "enter":
            new = place(str(peer), float(now))
            if len(of(new.peer)) == per_peer:
                with pytest.raises(LookupError):
                    places.enter(new)
                continue
            out, full = places.enter(new), len(held) == in_all
            assert (out is not None) == full
            if out is not None:
                most = max(len(of(one.peer)) for one in held)
                assert len(of(out.peer)) == most
                assert out.asked == min(o.asked for o in held if len(of(o.peer)) == most)
                held.remove(out)
                places.leave(out)  # its task does so too, and it changes nothing
            held.append(new)
        elif held and action == "ask":
            held[index % len(held)].asked = float(now)
        elif held:
            places.leave(held.pop(index % len(held)))
        assert set(places._taken) == set(held)
        assert places._streams == {one.peer: len(of(one.peer)) for one in held}
