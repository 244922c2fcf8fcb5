"""Times as Ollama's clients write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.settings.keep_alive import keep_alive_seconds
from aigrid.protocol.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        *((0, 0.0), (300, 300.0), (1.5, 1.5), (-1, math.inf), ("0", 0.0), ("-1", math.inf)),
        *(("5m", 300.0), ("1h30m", 5400.0), ("90s", 90.0), ("-1m", math.inf), (" 2h ", 7200.0)),
        *(("500ms", 0.5), ("1.5h", 5400.0), ("300", 300.0)),
        *(("-0", 0.0), ("-0s", 0.0), ("-0.0", 0.0), (-0.0, 0.0)),  # no time below 0
    ],
)
def test_times_that_are_understood(said: str | float, seconds: float) -> None:
    assert keep_alive_seconds(said) == seconds


@pytest.mark.parametrize(
    "said",
    ["", "-", "m", "5 m", "5x", "m5", "٣m", "1" * 40, "1e3", "inf", 10**400, "9999h", "-9999h"],
)
def test_what_is_no_time_names_the_field(said: str | float) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        keep_alive_seconds(said)
    assert caught.value.param == "keep_alive"


@given(st.text(max_size=40) | st.floats(allow_nan=False) | st.integers())
def test_anything_is_a_time_or_refused(said: str | float) -> None:
    try:
        assert keep_alive_seconds(said) >= 0
    except InvalidRequestError:
        pass
