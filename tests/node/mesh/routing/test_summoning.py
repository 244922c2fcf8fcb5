"""When nobody serves: who is told so, and what the client hears. Whole nodes in virtual time."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.metagraph.world import candidate
from tests.node.mesh.routing.test_attempts import HELLO, ask, grid, refused, refusing
from tests.simulation.harness import Simulation
from trio.testing import MockClock

from aigrid.metagraph.selection import Dropped, Ranking, Reason
from aigrid.node.mesh.routing.summoning import Place, Summon, Unmet
from aigrid.node.mesh.routing.verdict import more_telling, unmet
from aigrid.protocol.errors import AigridError, Code, LocalError, RemoteError
from aigrid.protocol.limits import LIMITS


@pytest.fixture
async def sim(tmp_path: Path):
    async with trio.open_nursery() as nursery:
        yield Simulation(8, tmp_path, nursery)
        nursery.cancel_scope.cancel()


class Summoned(Summon):
    """Remembers what was wanted, does something about it, and says so."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self.wanted: list[Unmet] = []
        self.deadlines: list[float] = []
        self._acts = list(acts)

    async def __call__(self, unmet: Unmet, place: Place, *, deadline: float) -> bool:
        self.wanted.append(unmet)
        self.deadlines.append(deadline)
        await trio.sleep(1)
        if not self._acts:
            return False
        made = self._acts.pop(0)()
        if made is not None:
            await made  # type: ignore[misc]
        return True


async def test_a_model_that_nobody_offers_is_summoned_and_then_served(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, _ = await grid(sim, 1)
    (view,) = asker.router.models()
    sim.kill("h0")
    asker.router._summon = summon = Summoned(lambda: sim.publish_echo("asker", "parrot"))
    began = trio.current_time()
    answer, _ = await ask(asker, patience_seconds=20)
    assert answer.node == asker.identity.peer_id
    assert summon.wanted == [Unmet(view.model, "", "parrot", "nobody offers")]
    assert began - 1e-6 <= summon.deadlines[0] - 20 < began + 10


async def test_a_capability_is_summoned_as_such(sim: Simulation, autojump_clock: MockClock) -> None:
    asker, _ = await grid(sim, 1)
    asker.router._summon = summon = Summoned()
    assert (await refused(asker, "", capability="fill-mask")).code is Code.NO_CANDIDATE
    assert summon.wanted == [Unmet("", "fill-mask", "", "nobody offers")]


async def test_when_all_are_busy_somebody_is_summoned(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, holders = await grid(sim, 2)
    calls: list[str] = []
    for node in holders.values():
        node.serving.infer = refusing(LocalError("", Code.BUSY, retry_after_seconds=30), calls)
    asker.router._summon = summon = Summoned(lambda: None)
    error = await refused(asker)
    assert [one.reason for one in summon.wanted] == ["busy", "busy"]
    assert len(calls) == 2  # nobody is asked before the time it named
    assert error.code is Code.BUSY
    assert 25 < error.retry_after_seconds < 30


async def test_who_said_busy_is_asked_again_in_time(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, holders = await grid(sim, 1)
    (node,) = holders.values()
    serve = node.serving.infer
    calls: list[str] = []
    node.serving.infer = refusing(LocalError("full", Code.BUSY, retry_after_seconds=5), calls)
    assert (await refused(asker)).code is Code.BUSY
    node.serving.infer = serve
    error = await refused(asker)
    assert (error.code, len(calls)) == (Code.BUSY, 1)
    assert 0 < error.retry_after_seconds <= 5
    await trio.sleep(5)
    assert (await ask(asker))[0].node in holders


async def test_an_endless_summoner_ends(sim: Simulation, autojump_clock: MockClock) -> None:
    asker, _ = await grid(sim, 1)
    sim.kill("h0")
    await trio.sleep(1)
    asker.router._summon = summon = Summoned(*[lambda: None] * 1000)
    assert (await refused(asker)).code is Code.NO_CANDIDATE
    often = math.ceil(LIMITS.patience_seconds / LIMITS.summon_retry_seconds)
    assert len(summon.wanted) == LIMITS.summons_max + often


async def test_who_is_more_patient_is_summoned_for_more_often(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, _ = await grid(sim, 1)
    sim.kill("h0")
    await trio.sleep(1)

    async def busy_for_long() -> None:
        await trio.sleep(LIMITS.summon_retry_seconds - 1)

    asker.router._summon = Summoned(*[busy_for_long] * 1000)
    began = trio.current_time()
    with pytest.raises(AigridError):
        await ask(asker, patience_seconds=240)
    assert trio.current_time() - began > 200


async def test_our_requests_count_against_a_peer_at_once(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, holders = await grid(sim, 2, delay_ms=1000, slots=1)
    for name in ("h0", "h1"):
        await sim.ask(name, "parrot", "x")
    await trio.sleep(5)
    nodes: list[str] = []

    async def once(number: int) -> None:
        async with asker.router.infer("parrot", HELLO, request_id=f"request-{number}") as answer:
            nodes.append(answer.node)
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(once, 1)
        nursery.start_soon(once, 2)
    assert set(nodes) == holders.keys()
    assert not any(asker.peers.observation(peer).running for peer in holders)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (None, "nobody offers"),
        (RemoteError("", Code.CONNECTION_LOST), "nobody offers"),
        (RemoteError("", Code.BUSY), "busy"),
        (RemoteError("", Code.OUT_OF_MEMORY), "busy"),
        (RemoteError("", Code.QUARANTINED), "busy"),
        (RemoteError("", Code.NOT_SERVED), None),
        (RemoteError("", Code.ENGINE_FAILED), None),
        (RemoteError("", Code.PROTOCOL_VIOLATION), None),
        (RemoteError("", Code.FRAME_TOO_LARGE), None),
        (RemoteError("", Code.INTERNAL), None),
        (RemoteError("", Code.INVALID_REQUEST), None),
    ],
)
def test_what_is_worth_summoning_somebody_for(
    problem: AigridError | None, reason: str | None
) -> None:
    wanted = unmet(Ranking((), ()), problem, model="m", capability="", name="n")
    assert (wanted.reason if wanted else None) == reason


@pytest.mark.parametrize(
    "code", [Code.OUT_OF_MEMORY, Code.UNSUPPORTED_MODEL, Code.UNSUPPORTED_QUANTISATION]
)
def test_nobody_is_summoned_for_what_fails_alike_wherever_it_runs(code: Code) -> None:
    problem = RemoteError("", code)
    assert unmet(Ranking((), ()), problem, model="m", capability="", name="n", ran=True) is None


@pytest.mark.parametrize("lost", [Code.CONNECTION_LOST, Code.UNREACHABLE, Code.TIMEOUT, Code.BUSY])
def test_who_may_come_back_counts_before_who_breaks_the_protocol(lost: Code) -> None:
    broke, gone = RemoteError("", Code.PROTOCOL_VIOLATION), RemoteError("", lost)
    assert more_telling(broke, gone) is gone
    assert more_telling(gone, broke) is gone


@pytest.mark.parametrize(
    ("reasons", "waits"),
    [
        ([Reason.BROKEN, Reason.BROKEN], False),
        ([Reason.BROKEN, Reason.DEADLINE], False),
        ([Reason.BROKEN, Reason.DEAD], True),
        ([Reason.BROKEN, Reason.COOLING], True),
    ],
)
def test_nobody_waits_for_those_who_broke_the_protocol_again_and_again(
    reasons: list[Reason], waits: bool
) -> None:
    dropped = tuple(
        Dropped(candidate(node), one, ("",)) for node, one in zip("ab", reasons, strict=True)
    )
    wanted = unmet(Ranking((), dropped), None, model="m", capability="", name="n")
    assert (wanted is not None) == waits


def test_who_is_left_alone_for_a_while_is_busy() -> None:
    ranking = Ranking((), (Dropped(candidate("a"), Reason.BUSY, ("",), 1.0),))
    wanted = unmet(ranking, None, model="m", capability="", name="n")
    assert wanted is not None
    assert wanted.reason == "busy"
