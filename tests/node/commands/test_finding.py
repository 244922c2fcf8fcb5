"""`find` on whole nodes in virtual time, and what it says when nothing is left."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from tests.metagraph.world import ANN, NOW, OWN, with_members
from tests.node.commands.test_commands import Console
from tests.simulation.harness import Simulation, eventually

from aigrid.node.commands.commands import NodeCommands
from aigrid.protocol.errors import NoCandidateError, UsageError
from aigrid.protocol.kinds import CapabilityBody, Kind

INTERFACE = {"model", "name", "record", "node", "signer", "state", "valid_until"}


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(11, tmp_path, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def here(sim, autojump_clock):
    """A node that offers one echo model, and the console of another member."""
    await sim.start("a")
    await sim.start("b")
    await sim.join("b", "a")
    await sim.publish_echo("b", "parrot")
    node = sim.nodes["a"].node
    await eventually(node.router.models, seconds=10)
    return Console(node)


async def test_filters_keep_what_fits(here):
    did = here.node.router.offers()[0].signer
    for filters in (
        {},
        {"format": "ECHO", "license": "apache-2.0"},
        {"issuer": did, "signer": did},
    ):
        (found,) = (await here("find", capability="text", **filters))["candidates"]
        assert found.keys() == INTERFACE


async def test_an_explanation_is_of_every_offer_considered(here):
    answer = await here("find", capability="text", format="echo", explain=True)
    (found,) = answer["candidates"]
    assert found.keys() == INTERFACE | {"reasons"}
    assert found["reasons"][:2] == ["text-generation is narrower than text", "format: echo"]
    assert "answers" in found["reasons"]
    assert (answer["dropped"], answer["removed"]) == ([], {})
    answer = await here("find", capability="text", format="gguf", warm=True, explain=True)
    (dropped,) = answer["dropped"]
    assert dropped.keys() == INTERFACE | {"reason", "reasons"}
    assert (answer["candidates"], answer["removed"]) == ([], {"format": 1})
    assert (dropped["reason"], dropped["reasons"][1:]) == (
        "format",
        ["format: echo, wanted gguf", "warm: on disk, wanted warm"],
    )


async def test_filters_that_leave_nothing_are_counted(here):
    with pytest.raises(NoCandidateError) as caught:
        await here("find", capability="text", warm=True)
    assert "of 1 offers the filters leave none: warm removed 1; " in caught.value.message


async def test_offers_that_fit_and_do_not_answer_are_told_apart(here, sim):
    await sim.publish_echo("a", "crow")
    await eventually(lambda: len(here.node.router.models()) == 2, seconds=10)
    peer = sim.nodes["b"].node.identity.peer_id
    await eventually(lambda: here.node.peers.alive(peer), seconds=10)
    sim.kill("b")
    await eventually(lambda: not here.node.peers.alive(peer), seconds=5)
    other = here.node.graph.own_did
    assert (await here("find", capability="text"))["candidates"][0]["signer"] == other
    with pytest.raises(NoCandidateError) as caught:
        await here("find", capability="text", region="eu")
    assert "region removed 2" in caught.value.message
    lost = next(c.signer for c in here.node.graph.index.candidates(sim.now_ms()) if c.node == peer)
    answer = await here("find", capability="text", signer=lost, explain=True)
    assert (answer["candidates"], answer["removed"]) == ([], {"signer": 1})
    assert {one["node"]: one["reason"] for one in answer["dropped"]}[peer] == "dead"
    with pytest.raises(NoCandidateError) as caught:
        await here("find", capability="text", signer=lost)
    assert "signer removed 1, 1 cannot serve now" in caught.value.message


def graph_alone() -> tuple[NodeCommands, Any]:
    """The commands of a node of which nothing but its graph is there."""
    graph = with_members()
    queries = SimpleNamespace(look_for=nobody_knows)
    node: Any = SimpleNamespace(graph=graph, typed_queries=queries, now_ms=lambda: NOW)
    return NodeCommands(node), graph


async def nobody_knows(*_args: Any, **_options: Any) -> None:
    pass


async def ignore(_event: dict[str, Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("text-generatoin", "did you mean `text-generation`"),
        ("translate", "`translation`"),
        ("zzz", "look under `audio`"),
        (f"{ANN.did}#visual-question-answers", "`visual-question-answering`"),
    ],
)
async def test_an_unknown_capability_is_answered_with_what_may_be_meant(name, meant):
    node, _ = graph_alone()
    with pytest.raises(UsageError) as caught:
        await node.call("find", {"capability": name}, ignore)
    assert meant in caught.value.message
    with pytest.raises(UsageError) as refused:  # publishing under it is a mistake
        await node.call("publish", {"path": "/nowhere", "capability": name}, ignore)
    assert meant in refused.value.message


async def test_a_published_capability_is_suggested_by_its_iri_while_it_is_known():
    node, graph = graph_alone()
    for name, broader in (("legal-summaries", "summarization"), ("legal-summarx", "nowhere")):
        body = CapabilityBody(id=f"{OWN.did}#{name}", broader=(broader,), labels={"en": "x"})
        graph.issue(Kind.CAPABILITY, body, OWN, now_ms=NOW, ttl_ms=1000)
    with pytest.raises(UsageError) as caught:
        await node.call("find", {"capability": "legal-summary"}, ignore)
    assert f"`{OWN.did}#legal-summaries`" in caught.value.message
    assert "#legal-summarx" not in caught.value.message


@pytest.mark.parametrize(
    "wrong",
    [
        {"capability": "Text Generation"},
        {"language": "english language"},
        {"latency_ms_max": "fast"},
        {"latency_ms_max": -1},
        {"issuer": "me"},
        {"warm": "yes"},
        {"colour": "blue"},
    ],
)
async def test_what_cannot_be_meant_is_usage(wrong):
    node, _ = graph_alone()
    with pytest.raises(UsageError):
        await node.call("find", {"capability": "text", **wrong}, ignore)


async def test_languages_and_region_are_what_their_operators_state(sim, autojump_clock, tmp_path):
    node = (await sim.start("a", region="EU-west")).node
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    console = Console(node)
    with pytest.raises(UsageError, match="language"):
        await console("publish", path=str(path), capability="text-generation", languages=["en_GB"])
    many = [f"x-{n}" for n in range(65)]
    with pytest.raises(UsageError, match="at most 64"):
        await console("publish", path=str(path), capability="text-generation", languages=many)
    await sim.publish_echo("a", "parrot", languages=("en-GB",))
    await eventually(node.router.models, seconds=3)
    found = await NodeCommands(node).call(
        "find", {"capability": "text", "language": "en", "region": "eu-west"}, console.emit
    )
    assert [one["name"] for one in found["candidates"]] == ["parrot"]
