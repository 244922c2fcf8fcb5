"""Times on the wire."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.protocol.errors import VerificationError
from aigrid.protocol.timestamp import format_ms, parse_ms

FIRST_MS = -62_135_596_800_000
LAST_MS = 253_402_300_799_999


@given(st.integers(FIRST_MS, LAST_MS))
def test_times_round_trip_and_sort_as_text(time_ms: int) -> None:
    text = format_ms(time_ms)
    assert parse_ms(text) == time_ms
    assert len(text) == 24
    if time_ms < LAST_MS:
        assert text < format_ms(time_ms + 1)


def test_known_times() -> None:
    assert format_ms(0) == "1970-01-01T00:00:00.000Z"
    assert format_ms(FIRST_MS) == "0001-01-01T00:00:00.000Z"
    assert format_ms(LAST_MS) == "9999-12-31T23:59:59.999Z"
    moment = datetime(2026, 2, 28, 12, 30, 15, 7000, tzinfo=UTC)
    assert parse_ms("2026-02-28T12:30:15.007Z") == round(moment.timestamp() * 1000)


@pytest.mark.parametrize("time_ms", [FIRST_MS - 1, LAST_MS + 1, 10**18, -(10**30)])
def test_times_without_a_spelling_are_refused(time_ms: int) -> None:
    with pytest.raises(VerificationError):
        format_ms(time_ms)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.00Z",
        "2026-01-01T00:00:00.0000Z",
        "2026-01-01T00:00:00.000z",
        "2026-01-01t00:00:00.000Z",
        "2026-01-01 00:00:00.000Z",
        "2026-01-01T00:00:00.000+00:00",
        "2026-01-01T00:00:00,000Z",
        "2026-01-01T00:00:00.000Z\n",
        " 2026-01-01T00:00:00.000Z",
        "0000-01-01T00:00:00.000Z",
        "2026-00-01T00:00:00.000Z",
        "2026-13-01T00:00:00.000Z",
        "2026-02-29T00:00:00.000Z",
        "2026-01-01T24:00:00.000Z",
        "2026-01-01T23:60:00.000Z",
        "2026-06-30T23:59:60.000Z",
        "12026-01-01T00:00:00.000Z",
        "-026-01-01T00:00:00.000Z",
        "\uff12026-01-01T00:00:00.000Z",
        "\u0662026-01-01T00:00:00.000Z",
        "",
        None,
        0,
        True,
        1767225600000,
        1.5,
        [],
        {},
        b"2026-01-01T00:00:00.000Z",
    ],
)
def test_other_spellings_are_refused(value: object) -> None:
    with pytest.raises(VerificationError):
        parse_ms(value)


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fullmatch=True))
def test_what_is_read_is_written_the_same(text: str) -> None:
    try:
        time_ms = parse_ms(text)
    except VerificationError:
        return
    assert format_ms(time_ms) == text
