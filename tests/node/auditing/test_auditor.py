"""Answers are watched, drawn and checked: without a grid, over an inference that is told what to say."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.node.auditing.auditor import Auditor, Surroundings
from aigrid.node.auditing.inference import Audited
from aigrid.node.mesh.routing.answer import Answer, ModelView, Segment
from aigrid.node.policy.caller import OPERATOR, Caller
from aigrid.protocol.errors import EngineError, NoCandidateError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    TaskChunk,
    TaskRequest,
    TextChunk,
    TextRequest,
    TokenLogprob,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.receipt import seeded

SALT = b"salt"
TASK = TaskRequest("translation", b'"good morning"')
HOLDERS = ("a", "b", "c")
Outputs = dict[str, bytes]


class Grid:
    """Every holder says what `says` has of it; `asked` are the nodes in order."""

    def __init__(self, says: Outputs, first: str = "a") -> None:
        self.says = says
        self.first = first
        self.reason: Any = "stop"
        self.text = "some text"
        self.busy: set[str] = set()
        self.segments: list[Segment] = []
        self.asked: list[str] = []
        self.requests: list[tuple[InferRequest, Caller, Preferences]] = []

    def models(self) -> tuple[ModelView, ...]:
        return ()

    @asynccontextmanager
    async def infer(
        self,
        model: str,
        request: InferRequest,
        *,
        caller: Caller,
        preferences: Preferences = ANY,
        **_: Any,
    ) -> AsyncIterator[Answer]:
        node = preferences.pinned or self.first
        if node in self.busy:
            raise NoCandidateError("it is busy")
        self.asked.append(node)
        self.requests.append((request, caller, preferences))

        async def chunks() -> AsyncIterator[tuple[InferChunk, ...]]:
            yield (self._said(node, request), Finish(self.reason))

        answer = Answer("id", "model", "name", node, chunks())
        answer.segments += self.segments if not preferences.pinned else []
        answer.segments = answer.segments or [Segment(node, "model", 0)]
        answer.sent = seeded(request, SALT)
        yield answer

    def _said(self, node: str, request: InferRequest) -> InferChunk:
        said = self.says[node]
        if isinstance(request, TaskRequest):
            return TaskChunk(said)
        assert isinstance(request, TextRequest)
        if request.checks:
            return checked(request, said)
        return TextChunk(self.text, tuple(said))


def checked(request: TextRequest, said: bytes) -> TextChunk:
    """By one that would have said `said`, of which the first is the text and nothing else is."""
    pairs = zip(request.continued_ids, said, strict=False)
    logprobs = [TokenLogprob(t, "", -1.0, ((own, "", -1.0),)) for t, own in pairs]
    if request.max_tokens != 0:
        ends = len(request.continued_ids) >= len(said)
        logprobs.append(TokenLogprob(None, "", -0.1 if ends else -50.0))
    return TextChunk("some text", (), tuple(logprobs))


class World:
    def __init__(self, grid: Grid, *, least_share: float = 1.0, own: str = "me") -> None:
        self.grid = grid
        self.found: list[tuple[str, bool]] = []
        self.standings: dict[str, float] = {}
        self.withheld: list[str] = []
        around = Surroundings(
            own_peer_id=own,
            holders=lambda _, wanted: tuple(n for n in grid.says if n not in wanted.ignore),
            same_everywhere=lambda model: model == "model",
            standing=lambda node: self.standings.get(node, float(LIMITS.audit_standing_max)),
            withheld=self.withheld.append,
            found=lambda node, _model, _capability, wrong: self.found.append((node, wrong)),
            token=lambda: "another-id",
        )
        rng = random.Random(3)
        self.auditor = Auditor(grid, around, least_share=least_share, rng=rng)
        self.audited = Audited(grid, self.auditor)

    async def ask(self, request: InferRequest = TASK, **more: Any) -> list[InferChunk]:
        chunks: list[InferChunk] = []
        async with self.audited.infer(
            "model", request, request_id="id", caller=OPERATOR, **more
        ) as answer:
            async for batch in answer.chunks:
                chunks += batch
        await wait_all_tasks_blocked()
        return chunks


@pytest.fixture
async def start(nursery: trio.Nursery) -> Callable[..., Any]:
    async def started(says: Outputs, **options: Any) -> World:
        world = World(Grid(says), **options)
        await nursery.start(world.auditor.run)
        return world

    return started


async def test_one_that_agrees_is_enough(start) -> None:
    world = await start(dict.fromkeys(HOLDERS, b'"bonjour"'))
    assert (await world.ask())[0] == TaskChunk(b'"bonjour"')
    assert len(world.grid.asked) == 2
    assert sorted(wrong for _, wrong in world.found) == [False, False]
    assert world.auditor.results == {"right": 1}


async def test_a_second_decides_who_was_wrong(start) -> None:
    for cheat, result in (("a", "wrong"), ("b", "right"), ("c", "right")):
        world = await start(dict.fromkeys(HOLDERS, b'"bonjour"') | {cheat: b'"au revoir"'})
        for _ in range(8):
            await world.ask()
        assert {name for name, wrong in world.found if wrong} == {cheat}
        assert set(world.auditor.results) == {result}


async def test_where_all_differ_nobody_is_blamed(start) -> None:
    world = await start({"a": b"1", "b": b"2", "c": b"3"})
    await world.ask()
    assert world.found == []
    assert world.auditor.results == {"unsettled": 1}


async def test_this_node_believes_itself(start) -> None:
    world = await start({"a": b"1", "b": b"1", "me": b"2"})
    await world.ask()
    assert world.grid.asked == ["a", "me"]
    assert world.found == [("a", True)]


async def test_what_only_one_holds_is_not_checked(start) -> None:
    world = await start({"a": b"1"})
    await world.ask()
    assert world.grid.asked == ["a"]
    assert not world.auditor.results


async def test_without_a_share_nothing_is(start) -> None:
    world = await start(dict.fromkeys(HOLDERS, b"1"), least_share=0.0)
    for _ in range(20):
        await world.ask()
    assert world.grid.asked == ["a"] * 20


async def test_a_check_is_asked_as_the_request_was(start) -> None:
    world = await start(dict.fromkeys(HOLDERS, b"1"))
    wanted = Preferences(only=("a", "b"), ignore=("z",), precisions=("q4",))
    caller = Caller("ann", "key", purpose="research")
    async with world.audited.infer(
        "model", TASK, request_id="id", caller=caller, preferences=wanted
    ) as answer:
        async for _ in answer.chunks:
            pass
    await wait_all_tasks_blocked()
    (_, _, first), (request, by, then) = world.grid.requests
    assert (request, by) == (TASK, caller)
    assert first == wanted
    assert (then.only, then.precisions) == (wanted.only, wanted.precisions)
    assert then.ignore == ("z",)
    assert then.pinned in {"b", "c"}
    assert not then.allow_fallbacks


async def test_a_text_is_checked_by_its_tokens_with_a_seed_of_its_own(start) -> None:
    tokens = bytes(range(40))
    world = await start({"a": tokens, "b": tokens, "c": tokens})
    asked = TextRequest(prompt="go on", max_tokens=40, stop=("x",))
    assert (await world.ask(asked))[0] == TextChunk("some text", tuple(tokens))
    (first, _, _), (check, _, _) = world.grid.requests
    assert first == asked, "what is drawn is told by nothing that the node sees"
    sent = seeded(asked, SALT)
    assert isinstance(sent, TextRequest)
    assert check.seed == sent.seed
    assert (check.continued_ids, check.checks, check.max_tokens) == (tuple(tokens), True, 0)
    assert check.stop == ("x",)
    assert world.auditor.results == {"right": 1}


async def test_a_text_of_another_model_is_found_out(start) -> None:
    tokens, others = bytes(range(40)), bytes([*range(8), *range(60, 92)])
    world = await start({"a": others, "b": tokens, "c": tokens})
    await world.ask(TextRequest(prompt="go on", max_tokens=40))
    assert ("a", True) in world.found
    assert len(world.grid.asked) == 3


async def test_a_text_that_its_tokens_do_not_come_to_is_found_out(start) -> None:
    tokens = bytes(range(40))
    world = await start(dict.fromkeys(HOLDERS, tokens))
    world.grid.text = "some text, and what somebody wants to be read"
    await world.ask(TextRequest(prompt="go on", max_tokens=40))
    assert ("a", True) in world.found


async def test_a_text_that_ends_too_soon_is_found_out(start) -> None:
    tokens = bytes(range(40))
    for reason in ("stop", "length"):
        world = await start({"a": tokens[:10], "b": tokens, "c": tokens})
        world.grid.reason = reason
        await world.ask(TextRequest(prompt="go on", max_tokens=40))
        assert ("a", True) in world.found


async def test_a_text_of_nothing_is_found_out(start) -> None:
    tokens = bytes(range(40))
    world = await start({"a": b"", "b": tokens, "c": tokens})
    world.grid.text = ""
    await world.ask(TextRequest(prompt="go on", max_tokens=40))
    assert ("a", True) in world.found


async def test_a_text_without_tokens_is_no_lie_and_uses_up_a_good_name(start) -> None:
    world = await start(dict.fromkeys(HOLDERS, b""))
    await world.ask(TextRequest(prompt="go on", max_tokens=40))
    assert world.grid.asked == ["a"]
    assert world.auditor.results == {"withheld": 1}
    assert (world.withheld, world.found) == (["a"], [])


@pytest.mark.parametrize(
    "request_",
    [
        TextRequest(prompt="p", continued_ids=(1,), max_tokens=40),
        TextRequest(prompt="p", max_tokens=40, more=b'{"tools":[]}'),
        TextRequest(prompt="p", continued_ids=(1,), max_tokens=0, checks=True, seed=1),
    ],
)
async def test_what_cannot_be_checked_is_not(start, request_: TextRequest) -> None:
    world = await start(dict.fromkeys(HOLDERS, b"\1"))
    await world.ask(request_)
    assert world.grid.asked == ["a"]


async def test_an_answer_that_is_left_is_not_checked(start) -> None:
    world = await start(dict.fromkeys(HOLDERS, b"1"))
    async with world.audited.infer("model", TASK, request_id="id", caller=OPERATOR):
        pass
    await wait_all_tasks_blocked()
    assert world.grid.asked == ["a"]


async def test_what_there_is_no_room_for_is_dropped_and_counted(autojump_clock: MockClock) -> None:
    world = World(Grid(dict.fromkeys(HOLDERS, b"1")))  # nobody works it off
    for _ in range(LIMITS.audit_queue_max + 3):
        await world.ask()
    assert world.auditor.results == {"dropped": 3}


async def test_what_is_too_large_is_let_go_and_holds_nothing(start) -> None:
    large = b'"' + b"x" * LIMITS.audit_held_max_bytes + b'"'
    world = await start(dict.fromkeys(HOLDERS, large))
    assert (await world.ask())[0] == TaskChunk(large)
    assert world.grid.asked == ["a"]
    await world.ask(TaskRequest("translation", large))
    assert world.grid.asked == ["a", "a"]
    assert world.auditor.room.left_bytes == LIMITS.audit_held_max_bytes


async def test_an_answer_filled_up_with_spaces_is_checked(start) -> None:
    world = await start({"a": b"1" + b" " * 2_000_000, "b": b"1", "c": b"1"})
    await world.ask()
    assert world.auditor.results == {"wrong": 1}
    assert world.auditor.room.left_bytes == LIMITS.audit_held_max_bytes


async def test_what_waits_to_be_checked_is_bounded_in_bytes(autojump_clock: MockClock) -> None:
    world = World(Grid(dict.fromkeys(HOLDERS, b"1")))  # nobody works it off
    large = TaskRequest("translation", b'"' + b"x" * (LIMITS.audit_held_max_bytes // 4) + b'"')
    for _ in range(6):
        await world.ask(large)
        assert world.auditor.room.left_bytes >= 0
    assert world.auditor._receive.statistics().current_buffer_used == 3


async def test_a_node_that_breaks_off_is_checked_for_what_it_has_said(start) -> None:
    tokens, lies = bytes(range(40)), bytes(range(100, 120))
    world = await start(dict.fromkeys(HOLDERS, tokens))
    told = lies + tokens[20:]
    say = world.grid._said

    def broken(node: str, request: InferRequest) -> InferChunk:
        if isinstance(request, TextRequest) and request.checks:
            own = tokens[: len(request.continued_ids)]
            return checked(msgspec.structs.replace(request, max_tokens=0), own)
        return (
            TextChunk("text", tuple(told))
            if isinstance(request, TextRequest)
            else say(node, request)
        )

    world.grid._said = broken
    world.grid.segments = [Segment("a", "model", 20), Segment("b", "model", 20)]
    await world.ask(TextRequest(prompt="go on", max_tokens=40))
    wrong = {node for node, wrong in world.found if wrong}
    assert wrong == {"a"}
    assert ("b", False) in world.found
    assert world.auditor.room.left_bytes == LIMITS.audit_held_max_bytes


async def test_who_did_not_check_what_it_was_asked_to_says_nothing(start) -> None:
    tokens = bytes(range(40))
    world = await start({"a": tokens, "b": tokens})
    say = world.grid._said

    def too_little(node: str, request: InferRequest) -> InferChunk:
        chunk = say(node, request)
        if isinstance(chunk, TextChunk) and chunk.logprobs:
            return TextChunk("", (), chunk.logprobs[:-1])
        return chunk

    world.grid._said = too_little
    await world.ask(TextRequest(prompt="go on", max_tokens=40))
    assert world.found == []
    assert world.auditor.results == {"unsettled": 1}


async def test_one_that_refuses_to_check_does_not_end_the_audit(start) -> None:
    world = await start({"a": b"1", "b": b"2", "c": b"2", "d": b"2"})
    say = world.grid._said

    def breaking(node: str, request: InferRequest) -> InferChunk:
        if node == "b":
            raise EngineError("broke off")
        return say(node, request)

    world.grid._said = breaking
    for _ in range(20):
        await world.ask()
    assert world.auditor.results == {"wrong": 20}
    assert {node for node, wrong in world.found if wrong} == {"a"}


async def test_a_holder_that_was_asked_by_itself_is_checked_by_others(start) -> None:
    world = await start({"a": b"1", "b": b"2", "c": b"2"})
    await world.ask(preferences=Preferences(pinned="a"))
    assert {node for node, wrong in world.found if wrong} == {"a"}
    assert all(preferences.pinned != "a" for _, _, preferences in world.grid.requests[1:])


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "length"])
async def test_no_end_hides_an_answer_from_audits(start, reason: str) -> None:
    world = await start({"a": b"1", "b": b"2", "c": b"2"})
    world.grid.reason = reason
    await world.ask()
    assert {node for node, wrong in world.found if wrong} == {"a"}


async def test_who_decides_is_nobodys_choice_where_the_one_drawn_is_busy(start) -> None:
    """Two liars without standing are never asked in the place of known ones."""
    names = ("x", "k1", "k2", "k3")
    world = await start(dict.fromkeys(names, b"1") | dict.fromkeys(("a1", "a2"), b"2"))
    world.grid.first, world.grid.busy = "x", {"k1", "k2"}
    world.standings = {"a1": 0.0, "a2": 0.0}
    for _ in range(20):
        await world.ask()
    assert world.auditor.results == {"right": 20}
    assert {node for node, wrong in world.found if wrong} <= {"a1", "a2"}


async def test_one_without_standing_confirms_nothing_and_is_judged_by_what_is_known(start) -> None:
    world = await start({"x": b"2", "friend": b"2", "k1": b"1", "k2": b"1", "new": b"1"})
    world.grid.first = "x"
    world.standings = {"friend": 0.0, "new": 0.0}
    for _ in range(40):
        await world.ask()
    assert world.auditor.results == {"wrong": 40}
    said = {
        node: {wrong for name, wrong in world.found if name == node} for node in world.grid.says
    }
    assert said == {"x": {True}, "friend": {True}, "k1": {False}, "k2": {False}, "new": {False}}


async def test_where_nobody_is_known_new_ones_check_each_other(start) -> None:
    world = await start(dict.fromkeys(HOLDERS, b"1"))
    world.standings = dict.fromkeys(HOLDERS, 0.0)
    await world.ask()
    assert world.auditor.results == {"right": 1}
    assert len(world.grid.asked) == 2


async def test_who_only_agrees_comes_to_no_standing_by_texts(start) -> None:
    tokens = bytes(range(40))
    world = await start(dict.fromkeys(("a", "known", "lazy", "new"), tokens))
    world.standings = {"lazy": 0.0, "new": 0.0}
    say = world.grid._said

    def agreeing(node: str, request: InferRequest) -> InferChunk:
        if node == "lazy" and isinstance(request, TextRequest):
            return checked(request, bytes(request.continued_ids))
        return say(node, request)

    world.grid._said = agreeing
    for _ in range(60):
        await world.ask(TextRequest(prompt="go on", max_tokens=40))
    assert world.auditor.results == {"right": 60}
    judged = {node: {wrong for name, wrong in world.found if name == node} for node in HOLDERS[:1]}
    assert judged == {"a": {False}}
    assert {wrong for name, wrong in world.found if name == "new"} == {False}
    assert {wrong for name, wrong in world.found if name == "lazy"} == {False, True}


@pytest.mark.parametrize("said", [b'"\xff"', b"[" * 100_000, b"", b"{"])
async def test_no_answer_ends_the_audits(start, said: bytes) -> None:
    world = await start({"a": said, "b": b"1", "c": b"1"})
    await world.ask()
    assert world.auditor.results == {"wrong": 1}
    world = await start({"a": b"1", "b": said, "c": b"1", "d": b"1"})
    for _ in range(5):
        await world.ask()
    assert world.auditor.results == {"right": 5}


async def test_an_audit_that_fails_is_not_the_end_of_the_next(start) -> None:
    world = await start(dict.fromkeys(HOLDERS, b"1"))
    say, failures = world.grid._said, iter([ValueError("odd")])

    def failing(node: str, request: InferRequest) -> InferChunk:
        if world.grid.requests[-1][2].pinned and (error := next(failures, None)):
            raise error
        return say(node, request)

    world.grid._said = failing
    for _ in range(2):
        await world.ask()
    assert world.auditor.results == {"right": 1}


async def test_a_checker_that_says_too_much_has_said_nothing(start) -> None:
    large = b'"' + b"x" * 2_000_000 + b'"'
    world = await start({"a": b"1", "b": large, "c": b"1"})
    for _ in range(4):
        await world.ask()
    assert world.auditor.results == {"right": 4}
    assert not any(wrong for _, wrong in world.found)
