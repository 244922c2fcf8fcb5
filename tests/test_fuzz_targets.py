"""Targets see what a decoder should not do, and that one takes nothing any more."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from scripts.fuzzing import files, names, wire
from scripts.fuzzing.table import target_of
from scripts.fuzzing.target import Ends, execute, input_of

from aigrid.engines import ipc
from aigrid.engines.upstream.body import Body
from aigrid.node.network import identify_messages, negotiation
from aigrid.node.network.peer_records import PeerRecords
from aigrid.protocol import framing
from aigrid.protocol.errors import Code, RemoteError, VerificationError

SEED, EXECUTIONS = 7, 300
feed = framing.FrameDecoder.feed


def _raising(error: Exception) -> Callable[..., Any]:
    def decode(*_: Any, **__: Any) -> Any:
        raise error

    return decode


def _run(name: str, executions: int = EXECUTIONS) -> tuple[list[BaseException], Ends]:
    target, ends = target_of(name), Ends()
    mutator = target.inputs()
    made = (input_of(target, mutator, SEED, index) for index in range(executions))
    return [wrong for one in made if (wrong := execute(target, one, ends)) is not None], ends


@pytest.mark.parametrize("look", ["check_text", "check_more", "needed"])
def test_a_look_at_a_request_announces_its_own_errors_alone(
    look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, look, _raising(ValueError("of tensors alone")))
    found, _ = _run("rpc-requests")
    assert {str(one) for one in found} == {"of tensors alone"}


@pytest.mark.parametrize("name", ["public_key_of_did", "public_key_of_peer_id", "parse_ms"])
def test_two_texts_that_stand_for_the_same_are_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = getattr(names, name)
    monkeypatch.setattr(names, name, lambda text: read(text.rstrip(" \n")))
    found, _ = _run("names-and-times")
    assert {str(one) for one in found} == {"two texts stand for the same"}


def _other_code(
    decoder: framing.FrameDecoder, data: bytes, most: int = sys.maxsize
) -> list[framing.Frame]:
    held = decoder.held_bytes
    try:
        return feed(decoder, data, most)
    except RemoteError as error:
        raise RemoteError(error.message, Code.BUSY if held else error.code) from None


def _other_frames(
    decoder: framing.FrameDecoder, data: bytes, most: int = sys.maxsize
) -> list[framing.Frame]:
    held = decoder.held_bytes
    return [framing.Frame(kind, b"" if held else body) for kind, body in feed(decoder, data, most)]


UNKNOWN = (1).to_bytes(4, "big") + b"\xff"  # a frame of no kind, behind which nothing can be read


@pytest.mark.parametrize("fault", [_other_code, _other_frames])
def test_frames_that_depend_on_the_cutting_are_found_before_an_error_too(
    fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = framing.encode(framing.FrameKind.DATA, bytes(30)) + UNKNOWN
    assert execute(target_of("frames"), data) is None
    monkeypatch.setattr(framing.FrameDecoder, "feed", fault)
    assert isinstance(execute(target_of("frames"), data), AssertionError)


def test_frames_before_an_error_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = framing.encode(framing.FrameKind.CREDIT, b"1234") + UNKNOWN
    assert execute(target_of("frames"), data) is None
    monkeypatch.setattr(framing, "decode_credit", _raising(KeyError("not announced")))
    assert isinstance(execute(target_of("frames"), data), KeyError)


def test_identify_that_is_not_bounded_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify_messages, "_keep", lambda *_: False)
    found, _ = _run("identify")
    assert {type(one) for one in found} == {AssertionError}


def test_calls_to_the_repository_are_refused_for_each_reason() -> None:
    found, ends = _run("repository-calls")
    assert not found
    assert {end.rpartition(" ")[0] for end in ends.by_name()} == {
        "",
        "InvalidRequestError invalid_request",
        "InvalidRequestError unsupported_parameter",
    }


def _nothing(*_: Any, **__: Any) -> None:
    return None


REMOTE = _raising(RemoteError("nothing is taken"))
VALUE = _raising(ValueError("nothing is taken"))
SHUT: tuple[tuple[str, tuple[tuple[Any, str], ...], Callable[..., Any]], ...] = (
    ("framed-messages", ((framing.FrameDecoder, "feed"),), REMOTE),
    ("negotiation", ((negotiation, "read_line"),), REMOTE),
    ("nearby", ((wire, "parse_text"),), _nothing),
    ("peer-records", ((PeerRecords, "accept"),), _nothing),
    ("model-cards", ((files, "read_card"),), _nothing),
    ("key-files", ((files, "read_key_file"),), _nothing),
    ("upstream-chunks", ((Body, "feed"),), VALUE),
    ("engine-reports", ((ipc, "decode_report"),), VALUE),
    (
        "names-and-times",
        tuple((names, name) for name in ("public_key_of_did", "public_key_of_peer_id", "parse_ms")),
        _raising(VerificationError("nothing is taken")),
    ),
)


@pytest.mark.parametrize(
    ("name", "shut", "refuse"), [pytest.param(*case, id=case[0]) for case in SHUT]
)
def test_a_target_is_seen_to_take_nothing_where_its_decoder_refuses_all(
    name: str,
    shut: tuple[tuple[Any, str], ...],
    refuse: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target_of(name).inputs()  # seeds are made by code that is sound
    for module, what in shut:
        monkeypatch.setattr(module, what, refuse)
    found, ends = _run(name, 60)
    assert not found
    assert "taken" not in ends.by_name()
