"""Frames: any split gives the same frames, and whatever a peer sends is refused with a code."""

import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from aigrid.protocol.errors import Code, LocalError, RemoteError
from aigrid.protocol.framing import (
    HEADER_BYTES,
    Frame,
    FrameDecoder,
    FrameKind,
    decode_credit,
    decode_error,
    encode,
    encode_credit,
    encode_error,
    header,
)
from aigrid.protocol.limits import LIMITS

frames = st.lists(st.builds(Frame, st.sampled_from(FrameKind), st.binary(max_size=40)), max_size=8)


@given(frames, st.data())
def test_frames_survive_any_split(sent: list[Frame], data: st.DataObject) -> None:
    wire = b"".join(encode(*frame) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    decoder = FrameDecoder(40)
    received: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        received += decoder.feed(wire[start:end])
        assert decoder.held_bytes < HEADER_BYTES + 40
    assert received == sent
    assert decoder.held_bytes == 0


@given(frames, st.integers(1, 4), st.integers(0, 50))
def test_frames_looked_at_some_at_a_time_are_the_same(
    sent: list[Frame], frames_max: int, cut: int
) -> None:
    wire = b"".join(encode(*frame) for frame in sent)
    decoder = FrameDecoder(40)
    received: list[Frame] = []
    for piece in (wire[:cut], wire[cut:]):
        left = piece
        while left:
            some = decoder.feed(left, frames_max)
            assert len(some) <= frames_max
            received, left = received + some, decoder.left
            assert not (left and len(some) < frames_max)
    assert received == sent
    assert decoder.held_bytes == 0


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_random_bytes_never_raise_anything_but_remote_error(chunks: list[bytes]) -> None:
    decoder = FrameDecoder(64)
    try:
        for chunk in chunks:
            decoder.feed(chunk)
            assert decoder.held_bytes < HEADER_BYTES + 64
    except RemoteError as error:
        event(error.code)


def test_the_wire_form_is_length_kind_body() -> None:
    assert encode(FrameKind.DATA, b"ab") == b"\x00\x00\x00\x03\x03ab"
    assert header(FrameKind.DATA, 2) + b"ab" == encode(FrameKind.DATA, b"ab")
    assert encode(FrameKind.CREDIT, encode_credit(258)) == b"\x00\x00\x00\x05\x07\x00\x00\x01\x02"


def test_a_length_is_refused_before_the_body_arrives() -> None:
    decoder = FrameDecoder(10)
    with pytest.raises(RemoteError) as caught:
        decoder.feed(header(FrameKind.DATA, 11))
    assert caught.value.code is Code.FRAME_TOO_LARGE
    assert decoder.held_bytes == 0


def test_the_largest_frame_passes() -> None:
    assert FrameDecoder(10).feed(encode(FrameKind.DATA, bytes(10))) == [(FrameKind.DATA, bytes(10))]


@pytest.mark.parametrize("wire", [b"\0\0\0\1\0", b"\0\0\0\1\x08", b"\0\0\0\1\xff", b"\0\0\0\0\3"])
def test_unknown_kinds_and_empty_frames_are_violations(wire: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        FrameDecoder(10).feed(wire)
    assert caught.value.code is Code.PROTOCOL_VIOLATION


def test_a_decoder_stays_broken() -> None:
    decoder = FrameDecoder(10)
    with pytest.raises(RemoteError):
        decoder.feed(b"\0\0\0\1\xff")
    with pytest.raises(RemoteError):
        decoder.feed(encode(FrameKind.END))


@given(st.sampled_from(Code), st.text(), st.none() | st.floats(0, 1000))
def test_errors_cross_the_wire(code: Code, message: str, after: float | None) -> None:
    body = encode_error(LocalError(message, code, retry_after_seconds=after))
    assert len(body) <= LIMITS.error_body_max_bytes
    error = decode_error(body)
    assert (error.code, error.retry_after_seconds) == (code, after)
    assert error.message == message[: LIMITS.error_message_max_chars]


def test_a_message_that_is_no_unicode_still_crosses() -> None:
    assert decode_error(encode_error(LocalError("a\ud800b"))).message == "a?b"


def test_an_unknown_code_becomes_internal() -> None:
    body = msgspec.msgpack.encode({"code": "from_2031", "message": "m"})
    assert decode_error(body).code is Code.INTERNAL


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (-1.0, 0.0),
        (1e9, LIMITS.retry_after_max_seconds),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_a_strange_retry_after_is_brought_into_bounds(said: float, kept: float | None) -> None:
    body = {"code": "busy", "message": "", "retry_after_seconds": said}
    assert decode_error(msgspec.msgpack.encode(body)).retry_after_seconds == kept


def test_an_overlong_error_body_is_a_violation() -> None:
    body = msgspec.msgpack.encode({"code": "busy", "message": "m" * LIMITS.error_body_max_bytes})
    with pytest.raises(RemoteError) as caught:
        decode_error(body)
    assert caught.value.code is Code.PROTOCOL_VIOLATION


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda b: b"\x82\xa4code" + b))
def test_random_error_bodies_never_raise_anything_but_remote_error(body: bytes) -> None:
    try:
        decode_error(body)
    except RemoteError as error:
        event(error.code)


@pytest.mark.parametrize(
    "body", [b"\x81\xa1x" + b"\x91" * 3000, b"\x82\xa4code\xa2\xff\xfe\xa7message\xa0"]
)
def test_deep_nesting_and_broken_text_in_an_error_are_violations(body: bytes) -> None:
    with pytest.raises(RemoteError):
        decode_error(body)


@given(st.integers(1, 2**32 - 1))
def test_credit_round_trip(count: int) -> None:
    assert decode_credit(encode_credit(count)) == count


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"\0\0\1", b"\0\0\0\0\1"])
def test_a_credit_that_is_empty_or_of_another_size_is_a_violation(body: bytes) -> None:
    with pytest.raises(RemoteError):
        decode_credit(body)
