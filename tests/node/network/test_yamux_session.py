"""The Yamux session alone: any cutting, any bytes, two of them joined, and every bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts import fuzz_yamux
from tests.node.network.yamux_said import last_violation, listener, opening, piece, sent_by

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.yamux_events import (
    Ended,
    Fault,
    GoneAway,
    Opened,
    Pong,
    Received,
    Violated,
    Violation,
    WasReset,
    Writable,
)
from aigrid.node.network.yamux_session import Session
from aigrid.protocol.limits import LIMITS, MIB

SYN, ACK, FIN, RST = frames.SYN, frames.ACK, frames.FIN, frames.RST
WINDOW = frames.INITIAL_WINDOW_BYTES


# What is allowed


def test_a_stream_from_its_opening_to_its_end() -> None:
    session = listener()
    assert session.receive(opening() + piece(1, b"hello"), 0.0) == [
        Opened(1),
        Received(1, b"hello"),
    ]
    assert sent_by(session) == [(frames.WINDOW_UPDATE, ACK, 1, 0)]
    stream = session.streams[1]
    assert session.send(stream, memoryview(b"answer"), 100) == 6
    assert session.receive(piece(1, b"bye", FIN), 0.0) == [Received(1, b"bye"), Ended(1)]
    session.end(stream)
    assert sent_by(session) == [(frames.DATA, 0, 1, 6), (frames.WINDOW_UPDATE, FIN, 1, 0)]
    assert not session.streams
    assert session.unread_bytes == 0


def test_opened_and_ended_by_one_frame() -> None:
    session = listener()
    assert session.receive(piece(1, b"all", SYN | FIN), 0.0) == [
        Opened(1),
        Received(1, b"all"),
        Ended(1),
    ]


def test_pings_are_answered_and_answers_told_of() -> None:
    session = listener()
    assert session.receive(frames.ping(7, SYN) + frames.ping(9, ACK), 0.0) == [Pong(9)]
    assert sent_by(session) == [(frames.PING, ACK, 0, 7)]


def test_going_away_is_told_of() -> None:
    assert listener().receive(frames.go_away(2), 0.0) == [GoneAway(2)]


def test_what_stands_behind_a_go_away_is_not_looked_at_however_it_is_cut() -> None:
    before, behind = opening() + piece(1, b"before"), piece(1, b"behind") + opening(0)
    said = before + frames.go_away(0) + behind
    for size in (len(said), len(before) + frames.HEADER_BYTES, 1):
        session = listener()
        pieces = [said[at : at + size] for at in range(0, len(said), size)]
        assert fuzz_yamux.normal(fuzz_yamux.feed(session, pieces)) == [
            Opened(1),
            Received(1, b"before"),
            GoneAway(0),
        ]
        assert session.violated is None
        assert not session.has_more


def test_nothing_is_sent_beyond_the_window() -> None:
    session = Session(is_initiator=True)
    stream = session.open()
    data = memoryview(bytes(WINDOW + 10))
    assert session.send(stream, data, MIB) == WINDOW
    assert session.send(stream, data[WINDOW:], MIB) == 0
    assert session.receive(frames.window_update(1, 4), 0.0) == [Writable(1)]
    assert session.send(stream, data[WINDOW:], MIB) == 4


def test_window_is_given_back_by_halves_and_raised_when_it_may() -> None:
    session = listener()
    session.receive(opening() + piece(1, bytes(WINDOW // 2)), 0.0)
    sent_by(session)
    stream = session.streams[1]
    session.consumed(stream, WINDOW // 2 - 1)
    assert sent_by(session) == []
    session.consumed(stream, 1)
    assert sent_by(session) == [(frames.WINDOW_UPDATE, 0, 1, WINDOW // 2)]
    session.window_bytes = MIB
    session.receive(piece(1, b"x"), 0.0)
    session.consumed(stream, 1)
    assert sent_by(session) == [(frames.WINDOW_UPDATE, 0, 1, MIB - WINDOW + 1)]


def test_frames_beyond_a_number_are_left_for_the_next_call() -> None:
    session = listener()
    data = opening() + frames.window_update(1, 1) * 300
    events, calls = session.receive(data[:-5], 0.0), 1
    while session.has_more:
        assert len(events) <= 32 * calls
        events += session.receive(data[-5:] if calls == 1 else b"", 0.0)
        calls += 1
    assert events == [Opened(1), *[Writable(1)] * 300]
    assert calls == 10


def test_late_frames_of_a_stream_that_is_over_mean_nothing() -> None:
    session = Session(is_initiator=True)
    stream = session.open()
    session.reset(stream)
    late = piece(1, b"late") + frames.window_update(1, 9) + frames.window_update(1, 0, RST)
    assert session.receive(late, 0.0) == []


def test_who_reads_byte_by_byte_may_say_so_each_time() -> None:
    session = Session(is_initiator=True)
    stream, most = session.open(), 2 * LIMITS.mux_provocations_max
    assert session.send(stream, memoryview(bytes(most)), most) == most
    sent_by(session)
    assert last_violation(session, frames.window_update(1, 1) * 200) is None
    for _ in range(most):
        assert last_violation(session, frames.window_update(1, 1)) is None


def test_who_reads_byte_by_byte_after_both_have_ended_may_say_so_too() -> None:
    session, most = listener(), 2 * LIMITS.mux_provocations_max
    session.receive(opening() + frames.window_update(1, 0, FIN), 0.0)
    stream = session.streams[1]
    assert session.send(stream, memoryview(bytes(most)), most) == most
    session.end(stream)
    sent_by(session)
    assert not session.streams
    for _ in range(most):
        assert last_violation(session, frames.window_update(1, 1)) is None


# What is not


def test_data_of_a_stream_that_is_over_is_counted_against_what_it_was_allowed() -> None:
    session = Session(is_initiator=True)
    session.reset(session.open())
    for _ in range(10_000):
        assert last_violation(session, piece(1, b"x")) is None
    assert last_violation(session, piece(1, bytes(WINDOW - 10_000))) is None
    assert last_violation(session, piece(1, bytes(WINDOW))) is None, "and a window more"
    assert last_violation(session, piece(1, b"x")) is Violation.WINDOW_OVERRUN


def test_streams_that_are_given_up_bring_no_endless_allowance() -> None:
    session = listener()
    for n in range(2 * LIMITS.mux_streams_max):
        assert last_violation(session, opening(2 * n + 1)) is None
        session.reset(session.streams[2 * n + 1])
        sent_by(session)
    sent = 0
    while last_violation(session, piece(1, bytes(WINDOW))) is None:
        sent += WINDOW
    assert sent == session.window_bytes * LIMITS.mux_streams_max


@pytest.mark.parametrize(
    ("data", "violation"),
    [
        (frames.HEADER.pack(1, 0, 0, 1, 0), Violation.VERSION),
        (frames.HEADER.pack(0, 4, 0, 1, 0), Violation.TYPE),
        (frames.HEADER.pack(0, 0, 0x10, 1, 0), Violation.FLAGS),
        (frames.HEADER.pack(0, frames.PING, SYN | ACK, 0, 0), Violation.FLAGS),
        (frames.HEADER.pack(0, frames.PING, 0, 0, 0), Violation.FLAGS),
        (opening(2), Violation.STREAM_ID),  # not an id of the dialer
        (opening(0), Violation.STREAM_ID),
        (opening() * 2, Violation.STREAM_ID),
        (piece(2, b"x"), Violation.STREAM_ID),  # ours, and never opened
        (piece(0, b"x"), Violation.STREAM_ID),
        (
            opening() + frames.HEADER.pack(0, 0, 0, 1, LIMITS.mux_window_bytes + 1),
            Violation.FRAME_TOO_LARGE,
        ),
        (frames.HEADER.pack(0, 0, 0, 99, 0xFFFF_FFFF), Violation.FRAME_TOO_LARGE),
        (opening() + frames.HEADER.pack(0, 0, 0, 1, WINDOW + 1), Violation.WINDOW_OVERRUN),
        (
            opening() + piece(1, bytes(WINDOW)) + frames.HEADER.pack(0, 0, 0, 1, 1),
            Violation.WINDOW_OVERRUN,
        ),
    ],
)
def test_violation_is_named_ends_the_session_and_is_said(data: bytes, violation: Violation) -> None:
    session = listener()
    assert last_violation(session, data) is violation
    assert sent_by(session) == [(frames.GO_AWAY, 0, 0, frames.GO_AWAY_VIOLATION)]
    assert session.receive(opening(9), 0.0) == []


def test_data_after_the_end_resets_that_stream_alone() -> None:
    session = listener()
    events = session.receive(
        opening(1)
        + opening(3)
        + frames.window_update(1, 0, FIN)
        + piece(1, b"more")
        + piece(3, b"x"),
        0.0,
    )
    assert events[2:] == [Ended(1), WasReset(1, Fault.DATA_AFTER_END), Received(3, b"x")]
    assert (frames.WINDOW_UPDATE, RST, 1, 0) in sent_by(session)


def test_stream_beyond_the_allowed_number_is_refused_and_a_later_one_is_not() -> None:
    session = listener()
    count = LIMITS.mux_streams_max
    for n in range(count + 1):
        events = session.receive(opening(2 * n + 1), 0.0)
        assert events == ([Opened(2 * n + 1)] if n < count else [])
    assert sent_by(session)[-1] == (frames.WINDOW_UPDATE, RST, 2 * count + 1, 0)
    assert session.receive(piece(2 * count + 1, b"of the refused one"), 0.0) == []
    session.receive(frames.window_update(1, 0, RST), 0.0)
    assert session.receive(opening(2 * count + 3), 0.0) == [Opened(2 * count + 3)]


def test_unread_bytes_of_a_connection_are_bounded() -> None:
    """Each stream may fill its window; the one that would pass the bound of all is reset."""
    session = listener()
    room = session.memory_max_bytes // WINDOW
    for n in range(room + 1):
        stream_id = 2 * n + 1
        events = session.receive(opening(stream_id) + piece(stream_id, bytes(WINDOW)), 0.0)
        assert session.unread_bytes <= session.memory_max_bytes
    assert events == [Opened(stream_id), WasReset(stream_id, Fault.MEMORY)]
    session.consumed(session.streams[1], WINDOW)
    again = opening(stream_id + 2) + piece(stream_id + 2, bytes(WINDOW))
    assert session.receive(again, 0.0)[-1] == Received(stream_id + 2, bytes(WINDOW))


def test_windows_are_not_raised_beyond_the_memory_of_the_connection() -> None:
    session = listener()
    session.window_bytes = MIB
    for n in range(LIMITS.mux_streams_max):
        session.receive(opening(2 * n + 1), 0.0)
    granted = [length for _, _, _, length in sent_by(session)]
    assert granted[:10] == [MIB - WINDOW] * 10
    assert granted[-1] == 0
    assert sum(granted) <= session.memory_max_bytes
    for stream in list(session.streams.values()):
        session.reset(stream)
    sent_by(session)
    session.receive(opening(9001), 0.0)
    assert sent_by(session) == [(frames.WINDOW_UPDATE, ACK, 9001, MIB - WINDOW)]


def test_what_is_thrown_away_takes_no_memory() -> None:
    session = listener()
    session.receive(opening() + piece(1, bytes(1000)), 0.0)
    session.discard(session.streams[1])
    assert session.unread_bytes == 0
    assert session.receive(piece(1, bytes(1000), FIN), 0.0) == [Ended(1)]
    assert session.unread_bytes == 0


def test_stream_that_is_over_does_not_take_the_next_of_its_id_along() -> None:
    session = listener()
    session.receive(piece(1, b"hello", SYN | FIN), 0.0)
    over = session.streams[1]
    session.end(over)
    assert session.receive(piece(1, b"again", SYN), 0.0) == [Opened(1), Received(1, b"again")]
    after = session.streams[1]
    for late in (session.reset, session.end, session.discard):
        late(over)
    assert session.streams == {1: after}
    assert session.unread_bytes == after.unread_bytes == 5
    assert session._inbound == 1
    assert session.receive(piece(1, b"more"), 0.0) == [Received(1, b"more")]


def test_stream_opened_again_unnoticed_does_not_upset_the_books() -> None:
    session = listener()
    again = opening() + piece(1, bytes(1000)) + frames.window_update(1, 0, RST) + opening()
    session.receive(again, 0.0)
    session.consumed(session.streams[1], 1000)
    assert session.unread_bytes == 0


# Any bytes, any cutting


def frame_of(stream_ids: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    flags = st.sampled_from([0, 0, 0, 0, FIN, RST, ACK, SYN, SYN | FIN])
    return st.one_of(
        st.builds(piece, stream_ids, st.binary(max_size=300), flags),
        st.builds(frames.window_update, stream_ids, st.sampled_from([0, 1, 1 << 31]), flags),
        st.builds(frames.ping, st.integers(0, 99), st.sampled_from([SYN, ACK])),
        st.builds(frames.go_away, st.integers(0, 3)),
        st.builds(opening, stream_ids),
    )


@given(
    st.lists(frame_of(st.sampled_from([1, 3, 5, 2])), max_size=30),
    st.lists(st.integers(1, 60), min_size=1, max_size=50),
)
def test_any_cutting_gives_the_same_events(sent: list[bytes], cuts: list[int]) -> None:
    data, position = b"".join(sent), 0
    pieces: list[bytes] = []
    while position < len(data):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(data[position : position + size])
        position += size
    one, two = listener(), listener()
    assert fuzz_yamux.normal(fuzz_yamux.feed(one, pieces)) == fuzz_yamux.normal(
        fuzz_yamux.feed(two, [data])
    )
    assert sent_by(one) == sent_by(two)


@given(st.lists(st.one_of(st.binary(max_size=200), frame_of(st.integers(0, 9)))))
def test_no_bytes_raise_anything(pieces: list[bytes]) -> None:
    session = listener()
    events = fuzz_yamux.feed(session, pieces)
    assert len([e for e in events if isinstance(e, Violated)]) == (session.violated is not None)
    fuzz_yamux.check(session, LIMITS)


def test_fuzzing_finds_nothing_and_reaches_both_outcomes() -> None:
    tally = fuzz_yamux.fuzz(2000, seed=3)
    assert tally.executions == 2000
    assert 200 < tally.violations < 1800
