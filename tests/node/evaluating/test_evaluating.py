"""Evaluations over whole nodes in virtual time: who is asked, what is signed, and who knows it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.node.commands.test_commands import Console
from tests.simulation.harness import Simulation, eventually

from aigrid.engines.echo import EchoEngine
from aigrid.node.evaluating import evaluations as evaluations_module
from aigrid.node.workers import inline as inline_workers
from aigrid.protocol.errors import AigridError, Code, LocalError, NoCandidateError, UsageError
from aigrid.protocol.evidence import EvaluationBody
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.kinds import Kind, Served
from aigrid.protocol.limits import Limits
from aigrid.protocol.model import ModelDescription

WORDS = ("one", "two words", "three words here", "four")


class Half(EchoEngine):
    """Repeats what has fewer than two words, and says something else of the rest."""

    name = "half"

    def probe(self):
        return replace(super().probe(), engine=self.name, formats=("half",))

    def estimate(self, source):
        return super().estimate(replace(source, format="echo"))

    def answer(self, request, cancel):
        assert isinstance(request, TextRequest)
        if " " in request.messages[-1].content:
            request = TextRequest(prompt="none of that")
        return super().answer(request, cancel)


@pytest.fixture
async def sim(tmp_path, monkeypatch):
    monkeypatch.setattr(inline_workers, "ENGINES", {"echo": EchoEngine, "half": Half})
    async with trio.open_nursery() as nursery:
        yield Simulation(17, tmp_path, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    path = tmp_path / "items.jsonl"
    items = ({"input": _said(text), "expected": text} for text in WORDS)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def _said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def publish_half(sim: Simulation, node: str, name: str = "half", **more: Any) -> str:
    description = ModelDescription("half", "text-generation", ())
    capabilities = {"capabilities": ("text-generation",), **more}
    published = await sim.nodes[node].node.hosting.add(
        description, {}, name=name, license_id="", **capabilities
    )
    return published.model


async def two(sim: Simulation) -> tuple[Console, Console]:
    """`a` asks; `b` has a model that answers right, and one that does so half of the time."""
    for name in ("a", "b"):
        await sim.start(name)
    await sim.join("b", "a")
    await sim.publish_echo("b", "parrot")
    await publish_half(sim, "b")
    a, b = (Console(sim.nodes[name].node) for name in ("a", "b"))
    await eventually(lambda: len(a.node.router.models()) == 2, seconds=30)
    return a, b


async def test_each_model_is_measured_and_every_node_knows_it(sim, dataset, autojump_clock):
    a, b = await two(sim)
    found = await a("evaluate", capability="text-generation", path=dataset)
    assert (found["metric"], found["items"]) == ("exact_match", len(WORDS))
    best, other = found["models"]
    assert (best["name"], best["value"], best["high"]) == ("parrot", 1.0, 1.0)
    assert (other["name"], other["value"]) == ("half", 0.5)
    assert other["low"] < 0.5 < other["high"]
    assert best["node"] == b.node.identity.peer_id
    assert any("4 of 4 items" in event["progress"] for event in a.events)

    async def seen_by(console):
        return (await console("evaluations", capability="text"))["evaluations"]

    await eventually(lambda: len(b.node.graph.store.of_kind(Kind.EVALUATION)) == 2, seconds=60)
    assert await seen_by(b) == await seen_by(a)
    shown = await b("models_show", model="half")
    (said,) = shown["model"]["evaluations"]
    assert (said["record"], said["value"]) == (other["record"], 0.5)
    assert (said["issuer"], said["owner"]) == (a.node.identity.did, False)


async def test_measuring_again_replaces_what_was_said(sim, dataset, autojump_clock):
    a, _ = await two(sim)
    first = await a("evaluate", capability="text-generation", path=dataset, models=("half",))
    again = await a("evaluate", capability="text-generation", path=dataset, models=("half",))
    assert [one["value"] for one in again["models"]] == [one["value"] for one in first["models"]]
    (known,) = (await a("evaluations"))["evaluations"]
    assert known["record"] == again["models"][0]["record"] != first["models"][0]["record"]
    await a("evaluate", capability="text-generation", path=dataset, metric="chrf", sign=False)
    assert len((await a("evaluations"))["evaluations"]) == 1
    await a("evaluate", capability="text-generation", path=dataset, metric="chrf")
    assert len((await a("evaluations", model="half"))["evaluations"]) == 2


async def test_parameters_choose_models_and_narrow_what_is_said(sim, dataset, autojump_clock):
    await sim.start("a")
    a = Console(sim.nodes["a"].node)
    served = (Served("text-generation", {"style": ("plain",), "source": ("en",)}),)
    await publish_half(sim, "a", serves=served)
    await sim.publish_echo("a", "parrot")
    chosen = {"style": "plain", "source": "en"}
    found = await a("evaluate", capability="text-generation", path=dataset, parameters=chosen)
    assert [one["name"] for one in found["models"]] == ["half"]
    (record,) = a.node.graph.store.of_kind(Kind.EVALUATION)
    assert isinstance(record.body, EvaluationBody)
    assert record.body.parameters == chosen
    for name in ("max_tokens", "sorce"):
        with pytest.raises(UsageError, match=f"states '{name}'"):
            await a("evaluate", capability="text-generation", path=dataset, parameters={name: "2"})
    assert len(a.node.graph.store.of_kind(Kind.EVALUATION)) == 1
    with pytest.raises(NoCandidateError, match="style fancy"):
        await a(
            "evaluate", capability="text-generation", path=dataset, parameters={"style": "fancy"}
        )


async def test_another_holder_goes_on_where_one_is_lost(sim, dataset, autojump_clock):
    for name in ("a", "b", "c"):
        await sim.start(name)
        if name != "a":
            await sim.join(name, "a")
            await sim.publish_echo(name, "parrot", delay_ms=2000.0)
    a = Console(sim.nodes["a"].node)
    await eventually(lambda: len(a.node.router.offers()) == 2, seconds=30)
    found: list[dict[str, Any]] = []

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            found.append(await a("evaluate", capability="text-generation", path=dataset))

        nursery.start_soon(run)
        await eventually(lambda: bool(a.events), seconds=60)
        serving = next(n for n in ("b", "c") if sim.nodes[n].node.serving.running)
        lost = sim.nodes[serving].node.identity.peer_id
        sim.kill(serving)
    ((one,),) = (result["models"] for result in found)
    assert (one["value"], one["unanswered"]) == (1.0, 0)
    assert one["node"] != lost


async def test_what_cannot_be_done_is_said(sim, dataset, tmp_path, autojump_clock, monkeypatch):
    a, _ = await two(sim)
    text = {"capability": "text-generation"}
    with pytest.raises(UsageError, match="cannot read the dataset"):
        await a("evaluate", **text, path=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="use `--metric`"):
        await a("evaluate", **text, path=dataset, metric="auc")
    with pytest.raises(AigridError, match="poetry"):
        await a("evaluate", capability="poetry", path=dataset)
    assert await a.refused("evaluate", **text, path=dataset, models=("x",)) is Code.MODEL_NOT_FOUND
    assert await a.refused("evaluations", capability="poetry") is Code.USAGE
    assert await a.refused("evaluations", model="x") is Code.MODEL_NOT_FOUND
    monkeypatch.setattr(evaluations_module, "LIMITS", Limits(evaluations_own_max=1))
    found = await a("evaluate", **text, path=dataset)
    problems = [one["problem"] for one in found["models"] if "problem" in one]
    assert len(problems) == 1
    assert "as many as it may" in problems[0]
    with pytest.raises(LocalError) as refused:
        await a("evaluate", **text, path=dataset, metric="chrf")
    assert refused.value.code is Code.OVER_QUOTA


async def test_where_all_holders_are_lost_it_says_how_far_it_came(sim, dataset, autojump_clock):
    for name in ("a", "b"):
        await sim.start(name)
    await sim.join("b", "a")
    await sim.publish_echo("b", "parrot", delay_ms=2000.0)
    a = Console(sim.nodes["a"].node)
    await eventually(lambda: len(a.node.router.offers()) == 1, seconds=30)
    refused: list[AigridError] = []

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(AigridError) as caught:
                await a("evaluate", capability="text-generation", path=dataset)
            refused.append(caught.value)

        nursery.start_soon(run)
        await eventually(lambda: bool(a.events), seconds=60)
        sim.kill("b")
    (error,) = refused
    assert "of 4 items no holder of the model answers" in error.message
    assert "nothing was signed of it" in error.message
    assert "`aigrid models`" in error.message
    assert not a.node.graph.store.of_kind(Kind.EVALUATION)


async def test_a_line_that_no_model_takes_is_named(sim, tmp_path, autojump_clock):
    await sim.start("a")
    await sim.publish_echo("a", "parrot")
    a = Console(sim.nodes["a"].node)
    path = tmp_path / "long.jsonl"
    path.write_text("\n" + json.dumps({"input": _said("word " * 5000), "expected": "word"}))
    with pytest.raises(UsageError, match="line 2 of the dataset: 5001 words leave no room"):
        await a("evaluate", capability="text-generation", path=str(path))


async def test_what_is_measured_is_told_at_once(sim, dataset, autojump_clock):
    a, _ = await two(sim)
    found = await a("evaluate", capability="text-generation", path=dataset)
    told = [event["measured"] for event in a.events if "measured" in event]
    assert sorted(row["name"] for row in told) == ["half", "parrot"]
    assert all(row in found["models"] for row in told)


async def test_what_is_withdrawn_makes_room(sim, dataset, autojump_clock, monkeypatch):
    await sim.start("a")
    await sim.publish_echo("a", "parrot")
    a = Console(sim.nodes["a"].node)
    graph, identity = a.node.graph, a.node.identity
    monkeypatch.setattr(evaluations_module, "LIMITS", Limits(evaluations_own_max=1))
    text = {"capability": "text-generation", "path": dataset}
    await a("evaluate", **text)
    assert await a.refused("evaluate", **text, metric="chrf") is Code.OVER_QUOTA
    (record,) = graph.store.of_kind(Kind.EVALUATION)
    graph.withdraw(Kind.EVALUATION, record.subject, identity, now_ms=a.node.now_ms())
    (other,) = (await a("evaluate", **text, metric="chrf"))["models"]
    assert other["record"]


async def test_a_group_is_not_evaluated(sim, dataset, autojump_clock):
    await sim.start("a")
    a = Console(sim.nodes["a"].node)
    with pytest.raises(AigridError, match="is a group of capabilities"):
        await a("evaluate", capability="text", path=dataset)


async def test_unknown_capabilities_are_wrong_usage_and_own_ones_have_short_names(
    sim, dataset, autojump_clock
):
    await sim.start("a")
    await sim.publish_echo("a", "parrot")
    a = Console(sim.nodes["a"].node)
    text: dict[str, Any] = {"text": "hi"}
    for command, more in (
        ("run", text),
        ("evaluate", {"path": dataset}),
        ("evaluations", {}),
        ("find", {}),
    ):
        assert await a.refused(command, capability="poetry", **more) is Code.USAGE
    assert await a.refused("capability_show", name="poetry") is Code.USAGE
    broader = ("text-generation",)
    made = await a("capability_publish", name="verse", broader=broader, labels={"en": "Verse"})
    shown = await a("capability_show", name="verse")
    assert shown["name"] == made["capability"]
    model = await publish_half(sim, "a", "verse", capabilities=(made["capability"],))
    found = await a("run", capability="verse", text="hi")
    assert found["aigrid"]["model"] == model
    (one,) = (await a("find", capability="verse"))["candidates"]
    assert one["model"] == model
    measured = await a("evaluate", capability="verse", path=dataset)
    assert measured["capability"] == made["capability"]
    assert len((await a("evaluations", capability="verse"))["evaluations"]) == 1
