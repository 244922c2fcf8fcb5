"""Who is asked, over whole nodes: by evidence, by what was learned, and explained."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.metagraph.selection import (
    STRATEGIES,
    Criteria,
    Filters,
    Reason,
    Strategy,
    Weights,
)
from aigrid.node.app import Node
from aigrid.node.commands.experience import Experience, experience
from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.mesh.routing.candidates import Sought
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.evidence import AuditBody, EvaluationBody, evaluation_id
from aigrid.protocol.inference import ChatMessage, TextRequest
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import DAY

pytestmark = pytest.mark.trio
TEXT = "text-generation"
HELLO = TextRequest(messages=(ChatMessage("user", "one two"),))
QUALITY = Strategy(weights=Weights(quality=1))


@pytest.fixture
async def sim(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        yield Simulation(11, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(sim: Simulation, *names: str, **options: Any) -> dict[str, str]:
    """Node "asker", and a node of each name that offers a model of that name; the model ids."""
    asker = (await sim.start("asker")).node
    models = {}
    for name in names:
        await sim.start(name)
        await sim.join(name, "asker")
        models[name] = await sim.publish_echo(name, name, **options)
    await everywhere(sim, lambda node: len(node.router.models()) == len(names))
    assert asker.router.models()
    return models


async def everywhere(sim: Simulation, holds: Any) -> None:
    nodes = [one.node for one in sim.nodes.values()]
    await eventually(lambda: all(map(holds, nodes)), seconds=60)


def evaluate(by: Node, model: str, value: str, *, items: int = 200) -> None:
    of = (model, TEXT, dict[str, str](), "accuracy", "0" * 64)
    body = EvaluationBody(
        id=evaluation_id(*of),
        model=model,
        capability=TEXT,
        metric="accuracy",
        dataset="0" * 64,
        items=items,
        value=value,
        low="0",
        high="1",
    )
    ttl_ms = 30 * DAY * 1000
    by.graph.issue(Kind.EVALUATION, body, by.identity, now_ms=by.now_ms(), ttl_ms=ttl_ms)


async def ask(node: Node, criteria: Criteria, model: str = "") -> Answer:
    asked = node.router.infer(
        model, HELLO, request_id="request-1", caller=OPERATOR, capability=TEXT, criteria=criteria
    )
    async with asked as answer:
        async for _ in answer.chunks:
            pass
    return answer


async def test_better_evaluations_take_over_and_the_owners_claims_do_not(sim, autojump_clock):
    models = await grid(sim, "old", "new", "boaster")
    asker = sim.nodes["asker"].node
    evaluate(asker, models["old"], "0.7")
    evaluate(sim.nodes["boaster"].node, models["boaster"], "1", items=10**9)
    await everywhere(sim, lambda node: len(node.graph.index.claims) == 2)
    before = await ask(asker, Criteria(strategy=QUALITY))
    assert before.model == models["old"]
    evaluate(asker, models["new"], "0.95")
    after = await ask(asker, Criteria(strategy=QUALITY))
    assert after.model == models["new"]
    told = await asker.router.explain(Sought((), TEXT, criteria=Criteria(strategy=QUALITY)))
    assert [one.model for one in told] == [models[name] for name in ("new", "old", "boaster")]
    assert all(one.evidence for one in told)


async def test_the_same_is_chosen_on_every_node_and_every_candidate_is_explained(
    sim, autojump_clock
):
    models = await grid(sim, "a", "b", "c", "d")
    for name, value in (("a", "0.5"), ("b", "0.9"), ("c", "0.6")):
        evaluate(sim.nodes["asker"].node, models[name], value)
    await everywhere(sim, lambda node: len(node.graph.index.claims) == 3)
    rng = random.Random(5)
    for _ in range(200):
        weights = Weights(quality=rng.random(), warmth=rng.random(), locality=0)
        criteria = Criteria(
            Filters(capability=TEXT), Strategy(weights=weights, exploration=0.3), rng.randrange(99)
        )
        told = [
            await one.node.router.explain(Sought((), TEXT, criteria=criteria))
            for one in sim.nodes.values()
        ]
        assert {len(one) for one in told} == {4}
        assert len({tuple(each.record for each in one) for one in told}) == 1


async def test_the_nearest_miss_is_named_where_constraints_leave_nobody(sim, autojump_clock):
    await grid(sim, "near", languages=("de",))
    asker = sim.nodes["asker"].node
    criteria = Criteria(Filters(capability=TEXT, language="fr"), STRATEGIES["balanced"])
    began = trio.current_time()
    with pytest.raises(AigridError) as caught:
        await ask(asker, criteria)
    assert caught.value.code is Code.NO_CANDIDATE
    assert "nearest is 'near'" in str(caught.value)
    assert "language: de, wanted fr" in str(caught.value)
    assert str(caught.value).endswith("ask for language de")
    assert trio.current_time() - began < 5
    (told,) = await asker.router.explain(Sought((), TEXT, criteria=criteria))
    assert (told.reason, told.place) == (Reason.LANGUAGE.value, None)


async def test_what_was_learned_outlives_a_restart_and_can_be_told(sim, autojump_clock):
    models = await grid(sim, "good", "bad")
    asker, bad = sim.nodes["asker"].node, sim.nodes["bad"].node
    only = Criteria(strategy=Strategy(weights=Weights(success=1)))

    def broken(*_: Any, **_more: Any) -> Any:
        raise EngineError("broken", Code.ENGINE_FAILED)

    bad.serving.infer = broken
    for _ in range(3):
        with pytest.raises(AigridError):
            await ask(asker, Criteria(), "bad")
        await trio.sleep(120)
    served = await ask(asker, only)
    assert served.model == models["good"]
    learned = asker.learning.outcomes(bad.identity.peer_id, TEXT)[models["bad"]]
    assert learned.failed > 2.9
    record = asker.learning.tell(bad.identity.peer_id)
    assert record is not None
    assert isinstance(record.body, AuditBody)
    assert (record.body.id, record.body.findings[0].failed) == (bad.identity.did, 3)
    shown = await experience(asker, Experience(tell=True), None)  # type: ignore[arg-type]
    assert {one["node"] for one in shown["experience"]} == set(asker.learning.ledger.peers())
    assert len(shown["told"]) == 2
    assert shown["untold"] == 0
    sim.kill("asker")
    again = (await sim.start("asker", incarnation=1, with_authority=True)).node
    assert again.learning.outcomes(bad.identity.peer_id, TEXT)[models["bad"]].failed > 2.9
