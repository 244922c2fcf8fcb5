"""Overhead is what was neither the engine's nor the client's."""

import pytest
import trio
from tests.node.gateway.double import MODEL, NAME, NODE
from trio.testing import MockClock

from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.observing.course import Course
from aigrid.protocol.errors import Code
from aigrid.protocol.inference import Finish

pytestmark = pytest.mark.trio


async def nothing():
    yield ()


def answer(*nodes: str) -> Answer:
    segments = [Segment(node, MODEL, 1) for node in nodes]
    return Answer("request_1", MODEL, NAME, NODE, nothing(), 1, segments)


async def test_engine_and_client_are_taken_off(autojump_clock: MockClock) -> None:
    course = Course("request_1")
    await trio.sleep(1)
    course.begin()
    await trio.sleep(2)
    course.waited(0.4)
    course.waited(0.009)  # that was not the client
    course.answered(answer())
    await trio.sleep(1)
    course.ended(answer(NODE, "other"), Finish("stop", 7, 3), 2.5)
    assert course.overhead_ms == pytest.approx(100)
    assert course.first_seconds == pytest.approx(2)
    assert course.continued == 1
    course.over()
    await trio.sleep(5)
    assert course.overhead_ms == pytest.approx(100)


async def test_of_choices_made_at_once_the_longest_wait_counts(autojump_clock: MockClock) -> None:
    course = Course("request_1")
    course.begin()
    await trio.sleep(3)
    for engine_seconds in (2.0, 3.0, 1.0):
        course.answered(answer())
        course.ended(answer(NODE), Finish("stop", 7, 3), engine_seconds)
    assert course.overhead_ms == 0
    assert (course.prompt_tokens, course.completion_tokens, course.attempts) == (21, 9, 3)


async def test_it_is_never_below_nothing(autojump_clock: MockClock) -> None:
    course = Course("request_1")
    course.begin()
    course.ended(answer(NODE), Finish("stop", 7, 3), 9.0)
    assert course.overhead_ms == 0


async def test_who_leaves_once_all_is_written_has_cancelled_nothing(
    autojump_clock: MockClock,
) -> None:
    course = Course("request_1")
    course.status, course.written = 200, True
    course.client_gone()
    assert (course.status, course.code) == (200, None)
    course.written = False
    course.client_gone()
    assert (course.status, course.code) == (200, Code.CANCELLED)


async def test_of_answers_made_one_after_the_other_each_wait_counts(
    autojump_clock: MockClock,
) -> None:
    course = Course("request_1")
    course.begin()
    began = trio.current_time()
    await trio.sleep(3)
    for engine_seconds in (1.0, 3.0):  # at once
        course.ended(answer(NODE), Finish("stop", 7, 3), engine_seconds, since_seconds=began)
    began = trio.current_time()
    await trio.sleep(2)
    course.ended(answer(NODE), Finish("stop", 7, 3), 1.5, since_seconds=began)
    assert course.engine_seconds == 4.5
    assert course.overhead_ms == pytest.approx(500)
