"""The decisions of placement: all agree, few act, and whoever does not see everything costs little.

A node is a name here; hashes do not care.
"""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.mesh.placement.decisions import (
    NOBODY,
    Host,
    Replica,
    Scene,
    ranking,
    to_retire,
    too_few,
    turn_seconds,
    verdict,
    wanted_replicas,
)
from aigrid.protocol.limits import LIMITS

MODEL = "bafymodel"
names = st.sets(st.text("abcdef", min_size=1, max_size=4), max_size=12)
hosts = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.booleans(), max_size=12)
waiting = st.dictionaries(st.text("xyz", min_size=1, max_size=2), st.integers(0, 10**6), max_size=4)


def able(held: dict[str, bool]) -> list[Host]:
    return [Host(name, held=has) for name, has in held.items()]


def acting(scene: Scene, age_seconds: float = 0.0) -> list[str]:
    return [h.node for h in scene.able if verdict(scene, h.node).turn_seconds <= age_seconds]


@given(hosts, waiting, names)
def test_no_more_act_at_once_than_replicas_are_wanted(held, waits, warm):
    scene = Scene(MODEL, waits, [Replica(name) for name in warm], able(held))
    wanted = wanted_replicas(scene)
    chosen = acting(scene)
    assert len(chosen) == max(0, min(wanted - len(warm), len(set(held) - warm)))
    assert not set(chosen) & warm


@given(hosts, st.randoms())
def test_everybody_ranks_alike_in_whatever_order_it_learns_of_them(held, random):
    shuffled = able(held)
    random.shuffle(shuffled)
    assert ranking(MODEL, shuffled) == ranking(MODEL, able(held))
    has = [held[node] for node in ranking(MODEL, shuffled)]
    assert has == sorted(has, reverse=True)


@given(hosts, st.data())
def test_a_node_that_is_not_seen_lets_at_most_one_more_act(held, data):
    unseen = {
        name: data.draw(st.sets(st.sampled_from(sorted(held)), max_size=3)) - {name}
        for name in held
    }
    chosen = []
    for name in held:
        seen = {other: has for other, has in held.items() if other not in unseen[name]}
        scene = Scene(MODEL, {"x": 1}, (), able(seen))
        chosen += [name] if verdict(scene, name).turn_seconds <= 0 else []
    assert len(chosen) <= 1 + len(set().union(*unseen.values()))


@given(st.integers(1, 10))
def test_a_node_that_leaves_moves_nobody_but_those_behind_it(count):
    nodes = [Host(f"n{i}") for i in range(count)]
    before = ranking(MODEL, nodes)
    gone = before[count // 2]
    after = ranking(MODEL, [host for host in nodes if host.node != gone])
    assert after == tuple(node for node in before if node != gone)


def test_over_many_models_nodes_are_first_about_equally_often():
    nodes = [Host(f"n{i}") for i in range(10)]
    first = Counter(ranking(f"model {number}", nodes)[0] for number in range(2000))
    assert len(first) == 10
    assert max(first.values()) < 1.4 * 200


@given(st.integers(0, 40), st.integers(-2, 8))
def test_turns_come_in_the_order_of_ranks_and_ever_quicker(rank, needed):
    turn, following = turn_seconds(rank, needed), turn_seconds(rank + 1, needed)
    assert turn <= following
    assert (turn == 0) == (rank < needed)
    assert (turn == math.inf) == (needed <= 0)


def test_whoever_is_no_candidate_has_no_turn():
    found = verdict(Scene(MODEL, {"x": 9}, (), [Host("other")]), "own")
    assert (found.rank, found.turn_seconds) == (NOBODY, math.inf)
    assert str(found) == "no candidate, 1 replica wanted, 0 live"


def test_the_first_comes_alone_and_then_they_double_while_the_queue_lasts():
    scene = Scene(MODEL, {"x": 64, "y": 64, "z": 64})
    assert wanted_replicas(scene) == 1
    for count, expected in ((1, 2), (2, 4), (4, 8), (8, 12), (12, 12)):
        warm = [Replica(str(number)) for number in range(count)]
        assert wanted_replicas(Scene(MODEL, scene.waiting, warm)) == expected


def test_one_that_is_on_its_way_counts_but_does_not_double():
    coming = [Replica("a", warm=False)]
    scene = Scene(MODEL, {"x": 64}, coming, [Host("b"), Host("c")])
    found = verdict(scene, "b")
    assert (found.wanted, found.live, found.turn_seconds) == (1, 1, math.inf)


def test_a_short_queue_of_many_slots_wants_one_more():
    warm = [Replica("a", slots=8), Replica("b", slots=8)]
    assert wanted_replicas(Scene(MODEL, {"x": 3}, warm)) == 3


def test_while_one_has_a_slot_free_no_more_are_wanted():
    warm = [Replica("a"), Replica("b", full=False)]
    assert wanted_replicas(Scene(MODEL, {"x": 64}, warm)) == 2


def test_that_one_has_slots_free_is_not_believed_while_requests_wait_all_the_same():
    liar, waits = [Replica("liar", slots=64, full=False)], {"x": 3}
    believed = LIMITS.placement_believed_seconds
    assert wanted_replicas(Scene(MODEL, waits, liar, waited_seconds=believed - 1)) == 1
    assert wanted_replicas(Scene(MODEL, waits, liar, waited_seconds=believed)) == 2
    assert wanted_replicas(Scene(MODEL, {}, liar, waited_seconds=believed)) == 0


@given(st.integers(1, 10**9))
def test_one_member_is_given_few_replicas_whatever_it_says(count):
    warm = [Replica(str(number)) for number in range(LIMITS.replicas_per_asker)]
    assert wanted_replicas(Scene(MODEL, {"liar": count}, warm)) == LIMITS.replicas_per_asker


@given(names, st.integers(0, 14))
def test_those_that_retire_are_the_last_ranked_and_one_stays(replicas, wanted):
    going = to_retire(MODEL, replicas, wanted)
    ranked = ranking(MODEL, [Host(name) for name in replicas])
    assert len(replicas) - len(going) == min(len(replicas), max(1, wanted))
    assert going == ranked[::-1][: len(going)]


@given(names, st.integers(0, 5))
def test_when_one_has_retired_those_that_are_left_are_to_go_as_before(replicas, wanted):
    going = to_retire(MODEL, replicas, wanted)
    if going:
        assert to_retire(MODEL, replicas - {going[0]}, wanted) == going[1:]


def test_files_that_nobody_has_are_not_waited_for():
    assert [too_few(seeds, 2) for seeds in (0, 1, 2, 3)] == [0, 1, 0, 0]
