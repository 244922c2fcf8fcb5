"""What a waiting request knows of a load, and when its patience ends."""

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.mesh.pool.progress import LoadProgress
from aigrid.node.mesh.routing.waiting import (
    IN_LINE,
    NotReadyError,
    Said,
    Waiting,
    following,
    left_seconds,
    telling,
)
from aigrid.protocol.errors import Code, EngineError, NoCandidateError, RemoteError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Loading, decode_rpc_answer, encode, loading

ANY_TEXT = st.text(max_size=400)


@pytest.mark.parametrize(
    ("first", "last", "left"),
    [
        (("n", "building: 10 %", 0.0), ("n", "building: 60 %", 5.0), 4.0),
        (("n", "loading 0%", 10.0), ("n", "loading 100%", 20.0), 0.0),
        (("n", "building: 10 %", 0.0), ("n", "building: 10 %", 5.0), None),
        (("n", "building: 60 %", 0.0), ("n", "building: 10 %", 5.0), None),
        (("n", "building: 10 %", 0.0), ("m", "building: 60 %", 5.0), None),
        (("n", "building: 10 %", 0.0), ("n", "fetching: 60 %", 5.0), None),
        (("n", "starting", 0.0), ("n", "starting", 5.0), None),
    ],
)
def test_the_time_that_is_left(
    first: tuple[str, str, float], last: tuple[str, str, float], left: float | None
) -> None:
    assert left_seconds(Said(*first), Said(*last)) == left


@given(ANY_TEXT, ANY_TEXT, st.floats(0, 1e6), st.floats(0, 1e6))
def test_whatever_is_said_the_time_to_come_back_is_within_bounds(
    one: str, other: str, begin: float, more: float
) -> None:
    async def main() -> None:
        waiting = Waiting()
        waiting.tell("n", one)
        waiting._first = Said("n", one, begin)
        waiting.said = Said("n", other, begin + more)
        error = waiting.problem()
        assert error.retry_after_seconds is not None
        least, most = LIMITS.retry_after_seconds, LIMITS.loading_retry_max_seconds
        assert least <= error.retry_after_seconds <= most
        assert 0 <= error.progress.get("percent", 0) <= 100

    trio.run(main)


@given(ANY_TEXT)
def test_any_text_can_be_said(text: str) -> None:
    said = loading(text + "\ud800")
    assert decode_rpc_answer(encode(said)) == said
    assert isinstance(said, Loading)
    assert len(said.text) <= LIMITS.loading_text_max_chars


async def test_patience_counts_while_a_load_is_waited_for_alone(autojump_clock: object) -> None:
    waiting = Waiting()

    async def work() -> float:
        await trio.sleep(3)
        waiting.tell("n", "loading: 1 %")
        await trio.sleep(3)
        waiting.over()  # another node is asked, and is at it for long
        await trio.sleep(30)
        return trio.current_time()

    assert await waiting.patiently(work(), 10.0) >= 36


async def test_a_load_that_begins_after_patience_ends_it_at_once(autojump_clock: object) -> None:
    waiting = Waiting()

    async def work() -> None:
        await trio.sleep(30)
        waiting.tell("n", "loading: 1 %")
        await trio.sleep(math.inf)

    started = trio.current_time()
    with pytest.raises(NotReadyError) as caught:
        await waiting.patiently(work(), 10.0)
    assert caught.value.code is Code.LOADING
    assert trio.current_time() - started == pytest.approx(30)


async def test_who_finds_nobody_in_time_hears_how_far_it_was(autojump_clock: object) -> None:
    waiting = Waiting()

    async def summon(seconds: float) -> None:
        waiting.tell("n", "fetching: 40 %")
        await trio.sleep(seconds)
        raise NoCandidateError("nobody")

    with pytest.raises(NoCandidateError):
        await waiting.patiently(summon(3.0), 10.0)
    with pytest.raises(NotReadyError, match="40 %"):
        await waiting.patiently(summon(10.0), 10.0)


async def test_what_failed_on_one_node_is_not_told_of_the_next(autojump_clock: object) -> None:
    waiting = Waiting()

    def fails() -> None:
        with waiting.at("n") as told:
            told("loading: 9 %")
            raise EngineError("no")

    with pytest.raises(EngineError):
        fails()
    assert waiting.said is None


async def test_a_lease_is_waited_for_with_words(autojump_clock: object) -> None:
    board, heard = LoadProgress(), []

    async def lease() -> str:
        await trio.sleep(1.5)
        board.tell("m", "loading: 50 %\n")
        await trio.sleep(1)
        board.over("m")
        await trio.sleep(1)
        return "worker"

    async def tell(text: str) -> None:
        heard.append(text)

    assert await telling(lease(), board, "m", tell) == "worker"
    assert heard == [IN_LINE, "loading: 50 %", IN_LINE]


async def test_errors_and_cancellation_come_as_they_are(autojump_clock: object) -> None:
    board = LoadProgress()

    async def gone(_text: str) -> None:
        raise RemoteError("gone")

    async def fails() -> None:
        await trio.sleep(3)
        raise EngineError("no")

    async def sleeps() -> None:
        await trio.sleep(9)

    with pytest.raises(EngineError):
        await telling(fails(), board, "m", gone)
    with pytest.raises(EngineError):
        await following(fails(), Waiting(), gone)
    kinds = []
    with trio.move_on_after(2):
        try:
            await telling(sleeps(), board, "m", gone)
        except BaseException as error:
            kinds.append(type(error))
            raise
    assert kinds == [trio.Cancelled]  # and no group of them, which whoever pays by it would miss
