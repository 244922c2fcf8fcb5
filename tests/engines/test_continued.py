"""What whoever goes on with an answer computes anew, and how."""

import pytest
from tests.engines.speller import VOCABULARY, Loaded, speller

from aigrid.engines import text_generate
from aigrid.engines.base import CancelToken
from aigrid.engines.counting import Tally
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, TextChunk, TextRequest
from aigrid.protocol.limits import LIMITS

MOST = LIMITS.continued_exact_tokens


@pytest.mark.parametrize(
    ("continued", "calls"),
    [
        (0, [5]),
        (3, [5, 1, 1, 1]),
        (MOST, [5] + [1] * MOST),
        (MOST + 1, [5 + MOST + 1]),
    ],
)
def test_a_short_answer_is_computed_as_it_was_and_a_long_one_quickly(
    continued: int, calls: list[int]
) -> None:
    request = TextRequest(
        prompt="hello", continued_ids=(97,) * continued, max_tokens=1, temperature=0.0
    )
    decoder = speller(request, b"a" * 200)
    answer = text_generate.answer(
        Loaded(decoder), request, CancelToken(), Tally(), vocabulary=VOCABULARY
    )
    assert list(answer) == [TextChunk("a", (97,)), Finish("length", 5, 1)]
    assert decoder.calls == calls


def test_an_answer_that_is_complete_is_not_computed_at_all() -> None:
    request = TextRequest(prompt="hello", continued_ids=(97, 98), max_tokens=0, stop=("bx",))
    decoder = speller(request, b"abx")
    answer = text_generate.answer(
        Loaded(decoder), request, CancelToken(), Tally(), vocabulary=VOCABULARY
    )
    assert list(answer) == [TextChunk("b"), Finish("length", 5, 0)]  # it was held back
    assert decoder.calls == []


def test_an_answer_of_no_tokens_is_asked_for_only_at_its_end() -> None:
    request = TextRequest(prompt="hello", max_tokens=0)
    answer = text_generate.answer(
        Loaded(speller(request, b"a")), request, CancelToken(), Tally(), vocabulary=VOCABULARY
    )
    with pytest.raises(EngineError) as caught:
        next(answer)
    assert caught.value.code is Code.INVALID_REQUEST
