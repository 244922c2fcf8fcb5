"""Which branches a node replicates, what it says of that, and what it gathers of its peers."""

import pytest
from tests.metagraph import world

from aigrid.metagraph.branches import BRANCHES
from aigrid.node.discovery.interests import Interests
from aigrid.protocol.kinds import Kind, NodeBody
from aigrid.protocol.messages import EVERYBODY

ALL = frozenset(BRANCHES)
TEXT, VISION = frozenset({"text"}), frozenset({"vision"})


def interests(chosen=None, graph=None):
    graph = graph or world.with_members(world.OWN, world.ANN)
    return Interests(graph, chosen=chosen, now_ms=lambda: world.NOW + 2)


def publish(graph, n, capability):
    body = world.model_body(n, capabilities=(capability,))
    graph.issue(Kind.MODEL, body, world.OWN, now_ms=world.NOW, ttl_ms=world.DAY_MS)


def say_of_ann(graph, *named, later_ms=0):
    body = NodeBody(
        id=world.ANN.did,
        protocol_version=1,
        software="t",
        addresses=(),
        engines=(),
        devices=(),
        branches=named,
    )
    record = world.signed(body, Kind.NODE, world.ANN, world.NOW + later_ms)
    graph.ingest(record.raw, now_ms=world.NOW + 1, received_from=None)


@pytest.mark.parametrize(
    ("chosen", "announced"),
    [(None, ()), (ALL, ()), (TEXT | VISION, ("text", "vision")), (frozenset(), ("none",))],
)
def test_a_node_record_says_what_was_chosen(chosen, announced):
    assert interests(chosen).announced() == announced


def test_a_node_takes_part_in_what_it_speaks_of_while_it_does():
    graph = world.with_members(world.OWN)
    publish(graph, 0, "translation")
    ours = interests(VISION, graph)
    assert ours.branches == TEXT | VISION  # also what it said before it was started again
    heard = []
    ours.listeners.append(lambda: heard.append(ours.branches))
    publish(graph, 1, "text-to-speech")
    publish(graph, 2, "audio-to-audio")  # adds nothing
    graph.withdraw(Kind.MODEL, world.manifest(world.OWN).subject, world.OWN, now_ms=world.NOW + 1)
    assert heard == [TEXT | VISION | {"audio"}, VISION | {"audio"}]
    assert ours.announced() == ("audio", "vision")
    assert [ours.takes_part(branch) for branch in ("audio", EVERYBODY)] == [True, True]
    assert [ours.takes_part(branch) for branch in ("text", "none", "x")] == [False] * 3


def test_what_others_say_changes_nothing():
    graph = world.with_members(world.OWN, world.ANN)
    ours = interests(frozenset(), graph)
    graph.ingest(world.manifest(world.ANN).raw, now_ms=world.NOW, received_from=None)
    assert ours.branches == frozenset()


@pytest.mark.parametrize(
    ("chosen", "theirs", "shared"),
    [
        (None, None, (None,)),
        (None, (), (None,)),
        (None, ("text",), (EVERYBODY, "text")),
        (None, ("none",), (EVERYBODY,)),
        (TEXT | VISION, None, (EVERYBODY, "text", "vision")),
        (TEXT | VISION, (), (EVERYBODY, "text", "vision")),
        (TEXT | VISION, ("audio", "vision"), (EVERYBODY, "vision")),
        (TEXT, ("vision",), (EVERYBODY,)),
        (frozenset(), None, (EVERYBODY,)),
        (TEXT, ("of-tomorrow", "text"), (EVERYBODY, "text")),
    ],
)
def test_peers_compare_what_both_replicate(chosen, theirs, shared):
    graph = world.with_members(world.OWN, world.ANN)
    if theirs is not None:
        say_of_ann(graph, *theirs)
    assert interests(chosen, graph).shared(world.ANN.peer_id) == shared


def test_everything_is_pushed_only_to_a_peer_that_wants_everything():
    graph = world.with_members(world.OWN, world.ANN)
    ours = interests(None, graph)
    assert not ours.may_push(world.ANN.peer_id, None)  # nothing is known of it yet
    say_of_ann(graph, "text")
    assert not ours.may_push(world.ANN.peer_id, None)
    assert ours.may_push(world.ANN.peer_id, "text")
    say_of_ann(graph, later_ms=1)
    assert ours.may_push(world.ANN.peer_id, None)


def test_a_node_record_that_ended_says_nothing_any_more():
    graph = world.with_members(world.OWN, world.ANN)
    say_of_ann(graph, "text")
    ours = Interests(graph, chosen=None, now_ms=lambda: world.NOW + world.DAY_MS)
    assert ours.of_peer(world.ANN.peer_id) is None
