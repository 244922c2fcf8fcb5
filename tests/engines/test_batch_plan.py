"""What a batch computes next, and in which rows."""

from hypothesis import given
from hypothesis import strategies as st

from aigrid.engines.batch_plan import Held, best_row, next_run, side_by_side

ROWS = 6
SETS = st.sets(st.integers(0, ROWS - 1))
WAITING = st.lists(st.booleans(), max_size=8)


@given(SETS.filter(bool), SETS)
def test_rows_come_side_by_side_and_what_is_fixed_stays(wanted: set[int], fixed: set[int]) -> None:
    fixed -= wanted
    layout = side_by_side(wanted, fixed, ROWS)
    rows = list(range(ROWS))
    for one, other in layout.swaps:
        rows[one], rows[other] = rows[other], rows[one]
    computed = [rows[first + n] for first, count in layout.spans for n in range(count)]
    assert sorted(computed) == sorted(wanted)
    assert all(rows[row] == row for row in fixed)
    if not fixed:
        assert len(layout.spans) == 1
    assert all(count > 0 for _, count in layout.spans)


def test_as_few_rows_as_possible_are_moved() -> None:
    assert side_by_side({0, 5, 6, 7}, {1}, 8).swaps == ((0, 4),)
    assert side_by_side({2, 3}, set(), 8).swaps == ()
    assert side_by_side({0, 2}, {1}, 3).spans == ((0, 1), (2, 1))


@given(WAITING, st.booleans(), st.booleans())
def test_a_chunk_is_computed_alone_and_tokens_together(
    waiting: list[bool], expected: bool, after_chunk: bool
) -> None:
    picked = next_run(waiting, expected=expected, after_chunk=after_chunk)
    if picked is None:
        assert expected or not waiting
        return
    kinds = [waiting[n] for n in picked]
    assert kinds == [True] or not any(kinds)
    if not any(kinds):
        assert len(kinds) == waiting.count(False)


@given(WAITING.filter(lambda waiting: False in waiting), st.booleans())
def test_after_a_chunk_those_who_write_have_their_turn(waiting: list[bool], expected: bool) -> None:
    picked = next_run(waiting, expected=expected, after_chunk=True)
    assert picked is None or not waiting[picked[0]]


@given(WAITING.filter(lambda waiting: True in waiting), st.booleans())
def test_after_a_token_the_prompt_that_came_first_has_its_turn(
    waiting: list[bool], expected: bool
) -> None:
    picked = next_run(waiting, expected=expected, after_chunk=False)
    assert picked == (waiting.index(True),)


def test_a_prompt_alone_waits_for_nobody() -> None:
    assert next_run([True], expected=False, after_chunk=True) == (0,)


def test_a_conversation_that_goes_on_finds_its_row() -> None:
    kept = tuple(range(8))
    rows = [Held((), free=True, used=0), Held(kept, free=True, used=2), Held(kept, False, 3)]
    assert best_row(rows, [*kept, 9], chunk=4) == (1, 8)
    assert best_row(rows, [9, 9, 9], chunk=4) == (0, 0)
    assert best_row([rows[2]], kept, chunk=4) is None


def test_of_equal_rows_the_one_unused_for_longest_is_taken() -> None:
    rows = [Held((1, 2), free=True, used=5), Held((3, 4), free=True, used=4)]
    assert best_row(rows, [9, 9, 9], chunk=2) == (1, 0)
