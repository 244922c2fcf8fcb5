"""The rounding of another machine is no difference, and any other work is one."""

import dataclasses
import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aigrid.engines.text_stream import TextStream
from aigrid.node.auditing.comparing import (
    Reread,
    Written,
    outputs,
    tail,
    tensors,
    texts,
    tokens,
    tokens_of,
)
from aigrid.protocol.inference import Tensor, TokenLogprob
from aigrid.protocol.limits import LIMITS

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def verdict(one: object, other: object) -> str:
    return outputs(msgspec.json.encode(one), msgspec.json.encode(other))


@given(values)
def test_anything_is_the_same_as_itself(value):
    assert verdict(value, value) == "same"


@given(values, values)
def test_it_does_not_matter_who_was_asked_first(one, other):
    assert verdict(one, other) == verdict(other, one)


@given(st.floats(-1e9, 1e9), st.floats(-0.9, 0.9), st.floats(2.1, 9))
def test_numbers_may_differ_by_the_tolerance_and_no_more(number, within, beyond):
    most = LIMITS.audit_absolute + LIMITS.audit_relative * abs(number)
    assert verdict([number], [number + within * most]) == "same"
    assert verdict([number], [number + beyond * most]) == "different"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"text": "le chat"}, {"text": "Le chat"}),
        ([1, 2], [1, 2, 3]),
        ({"a": 1}, {"b": 1}),
        ([True], [1]),
        ([3], [4]),
        ([None], [0]),
        ([0.5], ["0.5"]),
        ([10**400], [1.5]),
        ([{"label": "a", "score": 0.9}], [{"label": "b", "score": 0.9}]),
    ],
)
def test_other_work_is_different(one, other):
    assert outputs(*(str_json(each) for each in (one, other))) == "different"


def str_json(value: object) -> bytes:
    import json

    return json.dumps(value).encode()


def test_labels_near_a_tie_may_come_in_either_order():
    rows = [{"label": name, "score": score} for name, score in (("a", 0.30001), ("b", 0.3))]
    swapped = [{"label": name, "score": score} for name, score in (("b", 0.30001), ("a", 0.3))]
    assert verdict(rows, swapped) == "same"
    assert verdict(rows, [{"label": "b", "score": 0.6}, rows[0]]) == "different"


def test_what_is_no_json_is_no_answer_and_no_check():
    assert outputs(b"{", b"1") == "different"
    assert outputs(b"1", b"{") == "unclear"


def tensor(values: list[float], dtype: str) -> Tensor:
    made = np.array(values, dtype=np.float32)
    if dtype == "bfloat16":
        data = (made.view("<u4") >> 16).astype("<u2").tobytes()
    else:
        data = made.astype(dtype).tobytes()
    return Tensor(dtype, (len(values),), data)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_are_compared_as_coarsely_as_they_are(dtype):
    said = {"y": tensor([0.5, -3.0, 100.0], dtype)}
    assert tensors(said, {"y": tensor([0.5001, -3.001, 100.05], dtype)}) == "same"
    assert tensors(said, {"y": tensor([0.6, -3.0, 100.0], dtype)}) == "different"
    assert tensors(said, {}) == "different"
    assert tensors(said, {"y": tensor([0.5, -3.0], dtype)}) == "different"


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_is_like_itself_alone(odd):
    said = {"y": tensor([odd, 1.0], "float32")}
    assert tensors(said, said) == "same"
    assert tensors(said, {"y": tensor([5.0, 1.0], "float32")}) == "different"


def test_a_tensor_with_too_few_bytes_is_different():
    whole = tensor([1.0, 2.0], "float32")
    assert tensors({"y": whole}, {"y": Tensor("float32", (2,), whole.data[:5])}) == "different"


def test_integers_are_exact():
    one, other = (Tensor("int64", (1,), n.to_bytes(8, "little")) for n in (1, 2))
    assert tensors({"y": one}, {"y": one}) == "same"
    assert tensors({"y": one}, {"y": other}) == "different"


def answer(flags: list[bool]) -> list[TokenLogprob]:
    return [TokenLogprob(1, "a", -1.0, ((2 if off else 1, "b", -1.0),)) for off in flags]


def test_a_few_tokens_may_fall_the_other_way_and_many_may_not():
    assert tokens(answer([False] * 64)) == "same"
    assert tokens(answer([True] * 3 + [False] * 61)) == "same"
    assert tokens(answer([True] * 32 + [False] * 32)) == "different"
    assert tokens(answer([False] * (LIMITS.audit_tokens_min - 1))) == "unclear"
    assert tokens(answer([True] * LIMITS.audit_tokens_min)) == "different"


def test_tokens_without_an_id_say_nothing():
    assert tokens([TokenLogprob(None, "a", -1.0, ((None, "a", -1.0),))] * 64) == "unclear"


@pytest.mark.parametrize("count", [8, 64, 256])
def test_honest_texts_raise_no_more_false_alarms_than_stated(count):
    most = next(
        k
        for k in range(count + 2)
        if tail(count, k, LIMITS.audit_token_noise) < LIMITS.audit_false_alarm
    )
    rng = random.Random(count)
    alarms = sum(
        sum(rng.random() < LIMITS.audit_token_noise for _ in range(count)) >= most
        for _ in range(2000)
    )
    assert alarms <= 1


@given(st.integers(1, 300), st.integers(0, 301), st.floats(0.001, 0.5))
def test_a_tail_is_the_sum_of_what_it_is_the_sum_of(n, least, chance):
    exact = math.fsum(
        math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(least, n + 1)
    )
    assert tail(n, least, chance) == pytest.approx(exact, rel=1e-6, abs=1e-200)


def test_what_is_no_tensor_is_compared_as_bytes():
    torn = {"x": Tensor("float32", (1,), b"abc")}
    assert tensors(torn, torn) == "same"
    assert tensors(torn, {"x": Tensor("float32", (1,), b"abd")}) == "different"


PIECES = ("a", "b", " ", "ab", "\u00e9", "\U0001f600", "ba")


@given(
    said=st.lists(
        st.sampled_from([*PIECES, *"\u00e9".encode("latin-1"), *"\u20ac".encode()]), max_size=20
    ),
    stops=st.lists(st.sampled_from(["abb", "\u00e9", "b b"]), max_size=2).map(tuple),
    most=st.integers(1, 20),
)
def test_a_text_is_the_same_wherever_its_tokens_are_cut(said, stops, most):
    """Pieces of tokens are bytes, and may be halves of characters."""
    pieces = [one.encode() if isinstance(one, str) else bytes([one]) for one in said]
    whole, ids = TextStream(stops), tuple(range(len(pieces)))
    text, given = "", 0
    for piece in pieces:
        one = whole.feed(piece)
        text, given = text + one.text, given + 1
        if one.stopped:
            break
    text += whole.end().text
    checked = TextStream(stops)
    again = "".join(checked.feed(piece).text for piece in pieces[: min(given, most)])
    again += checked.end().text
    written = Written((), ids[: min(given, most)], given <= most, text, "stop", stops, 0.0)
    right = tuple(TokenLogprob(t, "", -1.0, ((t, "", -1.0),)) for t in written.tokens)
    assert texts(written, Reread(right, again, None)) != "different"
    if written.whole:
        longer = dataclasses.replace(written, text=text + "!")
        assert texts(longer, Reread(right, again, None)) == "different"


@pytest.mark.parametrize(
    ("reason", "end", "temperature", "verdict"),
    [
        ("stop", None, 0.0, "same"),
        ("stop", -5.0, 0.0, "same"),
        ("stop", -30.0, 1.0, "different"),
        ("stop", -30.0, 2.0, "same"),
        ("length", None, 0.0, "same"),
        ("length", -0.1, 0.0, "different"),
    ],
)
def test_an_end_that_honest_work_does_not_come_to(reason, end, temperature, verdict):
    written = Written((), tuple(range(40)), True, "text", reason, (), temperature)
    right = tuple(TokenLogprob(t, "", -1.0, ((t, "", -1.0),)) for t in written.tokens)
    assert texts(written, Reread(right, "text", end)) == verdict
    assert texts(dataclasses.replace(written, whole=False), Reread(right, "text", end)) == "same"


def test_a_space_at_the_beginning_is_passed_over():
    written = Written((), tuple(range(40)), True, " text", "stop", (), 0.0)
    right = tuple(TokenLogprob(t, "", -1.0, ((t, "", -1.0),)) for t in written.tokens)
    assert texts(written, Reread(right, "text", None)) == "same"
    assert texts(written, Reread(right[:-1], "text", None)) == "unclear"


@given(st.binary(max_size=40), st.binary(max_size=40))
@example(b'"\xff"', b"1")
@example(b"1", b'"\xff"')
@example(b"[" * 5000, b"[" * 5000)
def test_no_answer_is_too_odd_to_compare(said, again):
    assert outputs(said, again) in {"same", "different", "unclear"}


def test_rows_in_rows_are_compared_in_no_time():
    """With twice the time for each level, this would not end."""
    said = b"1"
    for _ in range(100):
        said = b'[{"label":"a","score":' + said + b"}]"
    assert outputs(said, said) == "same"
    assert outputs(said, said.replace(b"1", b"2")) == "unclear"
    deeper = b"[" * (LIMITS.audit_depth_max + 2) + b"]" * (LIMITS.audit_depth_max + 2)
    assert outputs(deeper, b" " + deeper) == "unclear"
    assert outputs(deeper, b"1") == "different"


def test_an_answer_that_is_filled_up_is_none():
    said = b'{"label":"a"}'
    assert outputs(said + b" " * 2_000_000, said) == "different"
    assert outputs(said + b" " * 200, said) == "same"
    long = b"[" + b"1.0," * (LIMITS.capability_answer_values_max + 1) + b"1]"
    assert outputs(long, long) == "same"
    assert outputs(long, long.replace(b"1]", b"2]")) == "unclear"


def test_of_what_came_before_it_nothing_is_held_against_it():
    written = Written((7, 7, 7), tuple(range(40)), True, "", "length", (), 0.0)
    wrong = tuple(TokenLogprob(7, "", -1.0, ((8, "", -1.0),)) for _ in range(3))
    right = tuple(TokenLogprob(t, "", -1.0, ((t, "", -1.0),)) for t in range(40))
    assert tokens_of(written, Reread((*wrong, *right), "", None)) == "same"
    assert tokens_of(written, Reread(right, "", None)) == "unclear"


@pytest.mark.parametrize("differing", [0, 1])
def test_a_short_text_holds_if_nothing_of_it_differs(differing):
    written = Written((), (1, 2, 3), True, "text", "stop", (), 0.0)
    own = [1, 2, 3 + differing]
    again = tuple(
        TokenLogprob(t, "", -1.0, ((o, "", -1.0),))
        for t, o in zip(written.tokens, own, strict=True)
    )
    expected = "unclear" if differing else "same"
    assert texts(written, Reread(again, "text", -0.1)) == expected
    part = dataclasses.replace(written, whole=False)
    assert texts(part, Reread(again, "text", None)) == "unclear"
    nothing = dataclasses.replace(written, tokens=(), text="")
    assert texts(nothing, Reread((), "", -0.1)) == "unclear"
