"""Modes over candidates that are slow, dead or wrong, in virtual time."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from aigrid.metagraph.selection import ANYTHING
from aigrid.node.outcome.asking import (
    Failure,
    NoAgreementError,
    NobodyAnsweredError,
    Outcome,
    Reply,
    Target,
    Want,
    cascade,
    fallback,
    race,
    vote,
)
from aigrid.node.outcome.contract import Contract
from aigrid.node.outcome.modes import Cascade, Race, Vote
from aigrid.protocol.errors import (
    AigridError,
    Code,
    EngineError,
    InvalidRequestError,
    NoCandidateError,
)
from aigrid.protocol.inference import TaskRequest

pytestmark = pytest.mark.trio
WANT = Want(Contract("x", "X", "x", ()), TaskRequest("x", b'"in"'), ANYTHING)
DEAD = EngineError("it has crashed", Code.ENGINE_CRASHED)


def labelled(label: str, score: float = 0.9) -> list[dict[str, Any]]:
    return [{"label": label, "score": score}]


@dataclass
class Doubles:
    """Candidates by node: how long each takes, and what it says, or why it does not."""

    nodes: dict[str, tuple[float, Any]]
    models: dict[str, tuple[str, int]] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def candidates(self, want: Want) -> Sequence[Target]:
        return [Target(node, *self.models.get(node, ("m", 0))) for node in self.nodes]

    def late_after_seconds(self, target: Target) -> float | None:
        return self.usual.get(target.node)

    async def ask(self, want: Want, target: Target | None) -> Reply:
        if target is None:
            found = [await self._outcome(one) for one in await self.candidates(want)]
            if not found:
                raise NoCandidateError("nobody")
            return next(one for one in found if isinstance(one, Reply))
        outcome = await self._outcome(target)
        if isinstance(outcome, AigridError):
            raise outcome
        return outcome

    async def _outcome(self, target: Target) -> Reply | AigridError:
        self.asked.append(target.node)
        seconds, said = self.nodes[target.node]
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled.append(target.node)
            raise
        if isinstance(said, AigridError):
            return said
        return Reply(target, msgspec.json.encode(said), said)


async def timed(work: Callable[[], Awaitable[Outcome]]) -> tuple[Outcome, Any]:
    start = trio.current_time()
    outcome = await work()
    return outcome, pytest.approx(trio.current_time() - start, abs=1e-6)


async def test_a_race_asks_a_second_one_only_when_the_first_is_late(
    autojump_clock: MockClock,
) -> None:
    quick = Doubles({"a": (0.4, "one"), "b": (0.1, "two")}, usual={"a": 0.5})
    outcome, seconds = await timed(lambda: race(quick, WANT, Race()))
    assert (outcome.reply.value, seconds, quick.asked) == ("one", 0.4, ["a"])
    assert outcome.told == {"asked": 1}

    slow = Doubles({"a": (9, "one"), "b": (0.1, "two")}, usual={"a": 0.5})
    outcome, seconds = await timed(lambda: race(slow, WANT, Race()))
    assert (outcome.reply.value, seconds) == ("two", 0.6)
    assert slow.cancelled == ["a"]
    assert outcome.told == {"asked": 2}

    told = Doubles({"a": (9, "one"), "b": (0.1, "two")}, usual={"a": 0.5})
    _, seconds = await timed(lambda: race(told, WANT, Race(after_ms=50)))
    assert seconds == 0.15


async def test_a_race_goes_on_at_once_where_one_fails_and_ends_where_all_do(
    autojump_clock: MockClock,
) -> None:
    doubles = Doubles({"a": (0.1, DEAD), "b": (0.1, "two"), "c": (0, "three")})
    outcome, seconds = await timed(lambda: race(doubles, WANT, Race()))
    assert (outcome.reply.value, seconds) == ("two", 0.2)
    assert outcome.failures == [Failure(Target("a", "m"), DEAD)]

    dead = Doubles({"a": (0.1, DEAD), "b": (5, EngineError("second"))})
    with pytest.raises(NobodyAnsweredError) as raised:
        await race(dead, WANT, Race(after_ms=0))
    assert raised.value.code is DEAD.code
    assert raised.value.message == (
        "it has crashed. Failed: a (engine_crashed), b (engine_failed)."
    )
    assert [one.target.node for one in raised.value.failures] == ["a", "b"]

    late = Doubles({"a": (3, "one"), "b": (0.1, DEAD)})
    outcome, seconds = await timed(lambda: race(late, WANT, Race(after_ms=50)))
    assert (outcome.reply.value, seconds) == ("one", 3)


async def test_in_a_race_another_takes_the_place_of_each_that_failed(
    autojump_clock: MockClock,
) -> None:
    doubles = Doubles({"a": (0.1, DEAD), "b": (0.2, DEAD), "c": (0.3, "three"), "d": (9, "four")})
    outcome, seconds = await timed(lambda: race(doubles, WANT, Race(after_ms=0)))
    assert (outcome.reply.value, seconds) == ("three", 0.4)
    assert [one.target.node for one in outcome.failures] == ["a", "b"]
    assert (outcome.told, doubles.asked) == ({"asked": 4}, ["a", "b", "c", "d"])

    several = Doubles({node: (1, node) for node in "abcd"})
    outcome, _ = await timed(lambda: race(several, WANT, Race(after_ms=0, of=3)))
    assert several.asked == ["a", "b", "c"]  # no more at once, however late they are


async def test_a_vote_is_over_once_enough_agree(autojump_clock: MockClock) -> None:
    doubles = Doubles(
        {"a": (0.2, labelled("cat")), "b": (0.1, labelled("dog")), "c": (0.3, labelled("cat"))}
    )
    outcome, seconds = await timed(lambda: vote(doubles, WANT, Vote()))
    assert (outcome.reply.value, seconds) == (labelled("cat"), 0.3)
    assert outcome.told == {
        "asked": 3,
        "answered": 3,
        "agreed": 2,
        "needed": 2,
        "dissenting": [{"node": "b", "model": "m"}],
    }
    assert [one.target.node for one in outcome.others] == ["b", "c"]


async def test_a_vote_does_not_wait_for_one_that_is_not_needed(autojump_clock: MockClock) -> None:
    doubles = Doubles({"a": (0.1, "yes"), "b": (99, "no"), "c": (0.1, "Yes")})
    outcome, seconds = await timed(lambda: vote(doubles, WANT, Vote()))
    assert (outcome.reply.value, seconds, doubles.cancelled) == ("yes", 0.1, ["b"])
    assert outcome.told["asked"] == 3


async def test_another_votes_for_one_that_failed_and_nobody_votes_twice(
    autojump_clock: MockClock,
) -> None:
    doubles = Doubles({"a": (0.1, DEAD), "b": (0.1, "yes"), "c": (0.1, "yes"), "d": (0.1, "yes")})
    outcome = await vote(doubles, WANT, Vote(3, 3))
    assert outcome.told["agreed"] == 3
    assert sorted(doubles.asked) == ["a", "b", "c", "d"]


async def test_a_vote_without_agreement_says_how_it_stood(autojump_clock: MockClock) -> None:
    doubles = Doubles({"a": (0.1, "one"), "b": (0.1, "two"), "c": (0.1, "three")})
    with pytest.raises(NoAgreementError, match="3 answers 1") as raised:
        await vote(doubles, WANT, Vote())
    assert raised.value.code is Code.NO_AGREEMENT
    with pytest.raises(NoCandidateError, match="lower `agree`"):
        await vote(Doubles({"a": (0, "one")}), WANT, Vote())


async def test_a_vote_in_vain_names_those_that_failed_of_many_the_first(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(NobodyAnsweredError) as dead:
        await vote(Doubles({"a": (0, DEAD), "b": (1, DEAD)}), WANT, Vote(2))
    assert dead.value.code is DEAD.code
    assert dead.value.message.endswith("Failed: a (engine_crashed), b (engine_crashed).")

    doubles = Doubles({"a": (0, "one"), "b": (1, DEAD), "c": (2, EngineError("x"))})
    with pytest.raises(NoAgreementError) as alone:
        await vote(doubles, WANT, Vote())
    assert "Of 1 answers 1 say the same" in alone.value.message
    assert alone.value.message.endswith("Failed: b (engine_crashed), c (engine_failed).")
    assert [one.target.node for one in alone.value.failures] == ["b", "c"]

    many = Doubles({f"n{place}": (place, DEAD) for place in range(6)})
    with pytest.raises(NobodyAnsweredError, match=r"n3 \(engine_crashed\) and 2 more\.") as all_:
        await vote(many, WANT, Vote())
    assert len(all_.value.failures) == 6


async def test_a_cascade_of_which_nobody_answers_names_all(autojump_clock: MockClock) -> None:
    full = EngineError("no room", Code.BUSY, retry_after_seconds=3)
    doubles = Doubles({"a": (0, full), "b": (0, DEAD)}, models={"a": ("s", 1), "b": ("l", 9)})
    with pytest.raises(NobodyAnsweredError, match="no room") as refused:
        await cascade(doubles, WANT, Cascade())
    assert (refused.value.code, refused.value.retry_after_seconds) == (Code.BUSY, 3)
    assert [one.target.node for one in refused.value.failures] == ["a", "b"]


async def test_a_cascade_goes_to_larger_models_while_it_is_not_sure(
    autojump_clock: MockClock,
) -> None:
    doubles = Doubles(
        {
            "big": (1, labelled("cat", 0.99)),
            "small": (0.1, labelled("dog", 0.5)),
            "middle": (0.2, labelled("cat", 0.85)),
        },
        models={"big": ("l", 900), "small": ("s", 10), "middle": ("m", 100)},
    )
    outcome, seconds = await timed(lambda: cascade(doubles, WANT, Cascade(0.8)))
    assert (outcome.reply.target.node, seconds) == ("middle", 0.3)
    assert outcome.told == {
        "steps": [{"model": "s", "confidence": 0.5}, {"model": "m", "confidence": 0.85}]
    }
    outcome = await cascade(doubles, WANT, Cascade(0.995))
    assert outcome.reply.target.node == "big"  # however sure
    assert len(outcome.others) == 2


async def test_a_cascade_asks_another_holder_and_passes_over_a_model_that_nobody_answers_with(
    autojump_clock: MockClock,
) -> None:
    doubles = Doubles(
        {"a": (0.1, DEAD), "b": (0.1, labelled("x")), "c": (0.1, DEAD)},
        models={"a": ("m", 5), "b": ("m", 5), "c": ("tiny", 1)},
    )
    outcome = await cascade(doubles, WANT, Cascade())
    assert outcome.reply.target.node == "b"
    assert [one.target.node for one in outcome.failures] == ["c", "a"]


async def test_a_cascade_passes_over_answers_that_say_nothing_or_not_how_sure_they_are(
    autojump_clock: MockClock,
) -> None:
    entities = [{"entity": "P", "start": 0, "end": 2, "score": 0.9}]
    sizes = {"a": ("a", 1), "b": ("b", 2), "c": ("c", 3)}
    nothing = Doubles({"a": (0, []), "b": (0, entities)}, models=sizes)
    outcome = await cascade(nothing, WANT, Cascade())
    assert outcome.reply.value == entities
    assert outcome.told["steps"][0] == {"model": "a", "confidence": 0.0}

    unsaid = [{"label": "x"}]
    mixed = Doubles({"a": (0, labelled("y", 0.5)), "b": (0, unsaid), "c": (0, unsaid)}, sizes)
    outcome = await cascade(mixed, WANT, Cascade())
    assert outcome.reply.value == labelled("y", 0.5)
    assert [one.target.node for one in outcome.others] == ["b", "c"]  # they are paid for
    assert [one["confidence"] for one in outcome.told["steps"]] == [0.5, None, None]

    found_nothing = Doubles({"a": (0, []), "b": (0, [])}, models=sizes)
    assert (await cascade(found_nothing, WANT, Cascade())).reply.value == []


async def test_a_model_of_unknown_size_is_asked_last(autojump_clock: MockClock) -> None:
    doubles = Doubles(
        {"server": (0, labelled("x")), "here": (0, labelled("y"))},
        models={"server": ("upstream", 0), "here": ("s", 1000)},
    )
    outcome = await cascade(doubles, WANT, Cascade())
    assert (outcome.reply.target.node, doubles.asked) == ("here", ["here"])


async def test_no_cascade_of_answers_that_do_not_say_how_sure_they_are(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(InvalidRequestError, match="`vote`") as refused:
        await cascade(Doubles({"a": (0, "text")}), WANT, Cascade())
    assert refused.value.param == "mode"


async def test_where_nobody_is_there_the_mesh_itself_says_so(autojump_clock: MockClock) -> None:
    for asked in (
        fallback(Doubles({}), WANT),
        race(Doubles({}), WANT, Race()),
        cascade(Doubles({}), WANT, Cascade()),
    ):
        with pytest.raises(NoCandidateError, match="nobody"):
            await asked
