"""Frames that carry nothing: how many a Yamux session bears, and which are none of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.node.network.yamux_said import last_violation, listener, opening, piece, sent_by

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.yamux_events import Violation
from aigrid.node.network.yamux_session import Session
from aigrid.protocol.limits import LIMITS

SYN, ACK, FIN, RST = frames.SYN, frames.ACK, frames.FIN, frames.RST

FLOODS: dict[str, Callable[[int], bytes]] = {
    "pings": lambda _n: frames.ping(1, SYN),
    "resets": lambda n: opening(2 * n + 1) + frames.window_update(2 * n + 1, 0, RST),
    "resets of nothing": lambda _n: frames.window_update(1, 0, RST),
    "empty data": lambda _n: frames.HEADER.pack(0, 0, 0, 1, 0),
    "empty updates": lambda _n: frames.window_update(1, 0),
    "updates for nothing": lambda n: frames.window_update(1, 1) if n else opening(1),
    "updates of nothing": lambda _n: frames.window_update(1, 1),
    "more streams than allowed": lambda n: opening(2 * n + 1),
    "pongs nobody asked for": lambda _n: frames.ping(1, ACK),
    "empty data with an ACK": lambda n: piece(1, b"", ACK) if n else opening(1),
    "empty data with a FIN": lambda n: piece(1, b"", FIN) if n else opening(1),
    "empty updates with both": lambda n: frames.window_update(1, 0, ACK | FIN | (0 if n else SYN)),
    "messages of nothing": lambda _n: b"",
    "ends of nothing": lambda _n: frames.window_update(1, 0, FIN),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_flood_ends_the_session_though_every_answer_is_read(flood: str) -> None:
    session = listener()
    for n in range(2 * LIMITS.mux_provocations_max):
        violation = last_violation(session, FLOODS[flood](n))
        sent_by(session)
        assert len(session.streams) <= LIMITS.mux_streams_max
        if violation is not None:
            break
    assert violation is Violation.FLOOD
    assert n >= LIMITS.mux_provocations_max


def test_flood_of_streams_that_are_opened_and_ended_with_nothing_in_them() -> None:
    for payload in (b"", b"x"):
        session = listener()
        for n in range(LIMITS.mux_provocations_max + 1):
            violation = last_violation(session, opening(2 * n + 1) + piece(2 * n + 1, payload, FIN))
            assert (violation is None) is (bool(payload) or n < LIMITS.mux_provocations_max)
            for stream in list(session.streams.values()):
                session.end(stream)
            sent_by(session)


def test_flood_of_acknowledgements_of_a_stream_of_ours() -> None:
    session = Session(is_initiator=True)
    session.open()
    for n in range(LIMITS.mux_provocations_max + 2):
        violation = last_violation(session, frames.window_update(1, 0, ACK))
        assert (violation is None) is (n <= LIMITS.mux_provocations_max)


def test_answers_acknowledgements_and_ends_are_no_flood_however_many() -> None:
    session, other = Session(is_initiator=True), listener()
    for n in range(2 * LIMITS.mux_provocations_max):
        session.ping(n)
        stream = session.open()
        said = piece(stream.stream_id, b"", ACK) + frames.ping(n, ACK)
        assert last_violation(session, said + piece(stream.stream_id, b"", FIN)) is None
        session.end(stream)
        late = session.open()
        session.reset(late)
        for flags in (ACK, FIN):
            assert last_violation(session, frames.window_update(late.stream_id, 0, flags)) is None
        sent_by(session)
        used = opening(2 * n + 1) + piece(2 * n + 1, b"x") + piece(2 * n + 1, b"", FIN)
        assert last_violation(other, used) is None
        other.end(other.streams[2 * n + 1])
        sent_by(other)
    assert not session.streams
    assert not other.streams


@pytest.mark.parametrize("flood", ["pings", "resets", "more streams than allowed"])
def test_peer_that_reads_no_answer_is_cut_off(flood: str) -> None:
    patient = replace(LIMITS, mux_provocations_max=1_000_000)
    session = Session(is_initiator=False, limits=patient)
    for n in range(LIMITS.mux_control_max_bytes):
        violation = last_violation(session, FLOODS[flood](n))
        assert session.unsent_bytes <= LIMITS.mux_control_max_bytes
        if violation is not None:
            break
    assert violation is Violation.UNREAD_ANSWERS


def test_what_our_own_streams_cause_while_the_link_is_full_is_no_fault_of_the_peer() -> None:
    session, opened = Session(is_initiator=True), 0
    while session.may_open:
        stream = session.open()
        session.end(stream)
        session.reset(stream)
        opened += 1
    assert opened * 3 * frames.HEADER_BYTES > LIMITS.mux_control_max_bytes
    assert session.violated is None
    assert last_violation(session, frames.ping(1, SYN)) is None
    sent_by(session)
    assert session.may_open


def test_ends_of_the_streams_that_it_opened_are_no_fault_of_the_peer_either() -> None:
    session = listener()
    for n in range(LIMITS.mux_control_max_bytes // frames.HEADER_BYTES):
        assert last_violation(session, opening(2 * n + 1)) is None
        session.reset(session.streams[2 * n + 1])
    assert session.violated is None
    again = 2 * LIMITS.mux_control_max_bytes + 1
    assert last_violation(session, opening(again)) is Violation.UNREAD_ANSWERS


def test_updates_for_data_of_a_peer_that_reads_nothing_are_answers() -> None:
    session = Session(is_initiator=True)
    stream = session.open()
    half = session.window_bytes // 2
    for _ in range(LIMITS.mux_control_max_bytes // frames.HEADER_BYTES):
        assert last_violation(session, piece(1, bytes(half))) is None
        session.consumed(stream, half)
    assert session.violated is None
    session.receive(piece(1, bytes(half)), 0.0)
    session.consumed(stream, half)
    assert session.violated is not None


def test_the_same_frames_at_a_bearable_rate_are_no_flood() -> None:
    session = listener()
    for n in range(4 * LIMITS.mux_provocations_max):
        now = n / LIMITS.mux_provocations_per_second
        assert last_violation(session, FLOODS["pings"](n), now) is None
        sent_by(session)
