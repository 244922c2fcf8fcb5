"""The exchange machine: what it sends, what it refuses, where it stops."""

from dataclasses import replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from aigrid.protocol.errors import Code, InvalidRequestError, LocalError, RemoteError
from aigrid.protocol.exchange import Cancelled, Credit, Data, Ended, Event, Failed, RequestReceived
from aigrid.protocol.exchange_client import ClientExchange, ClientState
from aigrid.protocol.exchange_server import RequestBudget, ServerExchange, ServerState
from aigrid.protocol.framing import HEADER_BYTES, FrameKind, encode, encode_credit, header
from aigrid.protocol.limits import LIMITS

FRAME, REQUEST, WINDOW = 128, 960, 512
SMALL = replace(
    LIMITS,
    frame_max_bytes=FRAME,
    request_part_least_bytes=1,
    request_max_bytes=REQUEST,
    stream_credit_bytes=WINDOW,
)
BODY = b"0123456789" * 8


def answering(request: bytes = b"r") -> tuple[ClientExchange, ServerExchange]:
    client, server = ClientExchange(SMALL), ServerExchange(SMALL)
    client.start(request)
    assert server.receive(client.data_to_send()) == [RequestReceived(request)]
    return client, server


def fill(server: ServerExchange) -> int:
    """Send until the credit is used up; bytes on the wire."""
    sent = 0
    while server.can_send:
        server.send(BODY)
        sent += HEADER_BYTES + len(BODY)
    return sent


def test_an_exchange_and_the_next_on_the_same_stream() -> None:
    client, server = answering()
    for answer in (b"one", b"two"):
        server.send(answer)
        server.end()
        assert client.receive(server.data_to_send()) == [Data(answer), Ended()]
        assert client.idle
        client.start(b"again")
        assert server.receive(client.data_to_send()) == [RequestReceived(b"again")]


def test_of_a_large_request_more_is_asked_for_while_the_rest_is_under_way() -> None:
    client, server = ClientExchange(), ServerExchange()
    request = bytes(2 * LIMITS.request_max_bytes // 3)
    client.start(request)
    under_way = client.data_to_send()
    assert len(under_way) >= LIMITS.stream_credit_bytes
    part = LIMITS.stream_credit_bytes // 8
    for arrived in range(part, len(under_way) + part, part):
        assert server.receive(under_way[arrived - part : arrived]) == []
        if server.unsent_bytes:
            break
    assert arrived < len(under_way) * 3 // 4, "the sender need not wait for the last byte"
    client.receive(server.data_to_send())
    events = server.receive(under_way[arrived:])
    while not events:
        events = server.receive(client.data_to_send())
        client.receive(server.data_to_send())
    assert events == [RequestReceived(request)]


def test_an_error_ends_the_exchange_with_its_code() -> None:
    client, server = answering()
    server.end(LocalError("full", Code.BUSY, retry_after_seconds=3.0))
    (failed,) = client.receive(server.data_to_send())
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.retry_after_seconds) == (Code.BUSY, 3.0)
    assert client.idle


def test_a_cancel_stops_the_work_and_is_acknowledged() -> None:
    client, server = answering()
    client.cancel()
    assert server.receive(client.data_to_send()) == [Cancelled()]
    server.send(b"nobody reads this")
    assert server.unsent_bytes == 0
    server.end(LocalError("nor this"))
    assert client.receive(server.data_to_send()) == [Cancelled()]
    assert client.idle


def test_a_cancel_that_crosses_the_end_leaves_both_idle_and_the_next_request_is_served() -> None:
    client, server = answering()
    server.end()
    client.cancel()
    assert client.receive(server.data_to_send()) == [Cancelled()]
    client.start(b"next")
    assert server.receive(client.data_to_send()) == [RequestReceived(b"next")]
    server.end()
    assert client.receive(server.data_to_send()) == [Ended()]


def test_data_on_its_way_when_the_client_cancels_is_ignored() -> None:
    client, server = answering()
    server.send(b"late")
    client.cancel()
    assert client.receive(server.data_to_send()) == []
    assert client.state is ClientState.CANCELLING


def test_a_second_cancel_outside_an_exchange_is_a_violation() -> None:
    _, server = answering()
    server.end()
    cancel = encode(FrameKind.CANCEL)
    assert server.receive(cancel) == []
    with pytest.raises(RemoteError):
        server.receive(cancel)


def test_a_cancel_in_the_middle_of_a_request_is_acknowledged_at_once() -> None:
    client, server = ClientExchange(SMALL), ServerExchange(SMALL)
    client.start(bytes(900))
    client.cancel()
    assert server.receive(client.data_to_send()) == []
    assert client.receive(server.data_to_send())[-1] == Cancelled()
    assert client.idle
    assert server.state is ServerState.IDLE


def test_a_large_request_waits_for_credit_and_arrives_whole() -> None:
    client, server = ClientExchange(SMALL), ServerExchange(SMALL)
    request = bytes(range(240)) * 4
    client.start(request)
    first = client.data_to_send()
    assert len(first) < WINDOW + FRAME + HEADER_BYTES
    events = server.receive(first)
    while not events:
        assert set(client.receive(server.data_to_send())) == {Credit()}
        events = server.receive(client.data_to_send())
    assert events == [RequestReceived(request)]


def test_a_sender_stops_at_one_window_and_goes_on_when_bodies_are_consumed() -> None:
    client, server = answering()
    assert WINDOW <= fill(server) < WINDOW + FRAME + HEADER_BYTES
    for _ in client.receive(server.data_to_send()):
        client.consumed(len(BODY))
    assert set(server.receive(client.data_to_send())) == {Credit()}
    assert server.can_send


def test_credit_comes_back_in_half_windows() -> None:
    client, server = answering()
    fill(server)
    client.receive(server.data_to_send())
    client.consumed(len(BODY))
    assert client.unsent_bytes == 0
    client.consumed(len(BODY))
    client.consumed(len(BODY))
    client.consumed(len(BODY))
    assert client.unsent_bytes == HEADER_BYTES + 4


def test_empty_bodies_cost_credit_too() -> None:
    _, server = answering()
    count = 0
    while server.can_send:
        server.send(b"")
        count += 1
    assert count == -(-WINDOW // HEADER_BYTES)


@pytest.mark.parametrize("cancelled", [False, True])
def test_data_beyond_the_credit_is_a_violation(*, cancelled: bool) -> None:
    client, _ = answering()
    if cancelled:
        client.cancel()
    with pytest.raises(RemoteError) as caught:
        client.receive(encode(FrameKind.DATA, BODY) * 8)
    assert caught.value.code is Code.PROTOCOL_VIOLATION


def test_request_parts_beyond_the_credit_are_a_violation() -> None:
    server = ServerExchange(replace(SMALL, request_part_least_bytes=1, request_max_bytes=100))
    with pytest.raises(RemoteError) as caught:
        server.receive(encode(FrameKind.REQUEST_PART, BODY) * 9)
    assert caught.value.code is Code.PROTOCOL_VIOLATION


def test_credit_that_was_never_used_is_a_violation() -> None:
    _, server = answering()
    with pytest.raises(RemoteError):
        server.receive(encode(FrameKind.CREDIT, encode_credit(1)))


def test_sending_without_credit_is_our_own_mistake() -> None:
    _, server = answering()
    fill(server)
    with pytest.raises(LocalError):
        server.send(b"x")


def test_a_body_larger_than_a_frame_is_our_own_mistake() -> None:
    _, server = answering()
    with pytest.raises(LocalError) as caught:
        server.send(bytes(FRAME + 1))
    assert caught.value.code is Code.FRAME_TOO_LARGE


def test_a_request_that_is_too_large_is_not_begun() -> None:
    client = ClientExchange(SMALL)
    with pytest.raises(InvalidRequestError) as caught:
        client.start(bytes(REQUEST + 1))
    assert caught.value.code is Code.BODY_TOO_LARGE
    assert client.idle


def stingy(free_bytes: int) -> tuple[ClientExchange, ServerExchange]:
    """A client whose idea of the largest request is larger than the server's, or its budget."""
    client = ClientExchange(replace(SMALL, request_part_least_bytes=1, request_max_bytes=8000))
    return client, ServerExchange(SMALL, RequestBudget(free_bytes))


@pytest.mark.parametrize(("free", "code"), [(8000, Code.BODY_TOO_LARGE), (160, Code.BUSY)])
def test_a_refused_request_ends_early_and_the_stream_is_usable(free: int, code: Code) -> None:
    client, server = stingy(free)
    client.start(bytes(1600))
    events: list[Event] = []
    for _ in range(20):
        assert server.receive(client.data_to_send()) == []
        events += client.receive(server.data_to_send())
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code is code
    assert server.state is ServerState.IDLE
    client.start(b"short")
    assert server.receive(client.data_to_send()) == [RequestReceived(b"short")]


def test_a_refused_request_whose_client_cancels_meanwhile_ends_once() -> None:
    client, server = stingy(10)
    client.start(bytes(300))  # three frames, all sent at once
    client.cancel()
    server.receive(client.data_to_send())
    assert client.receive(server.data_to_send()) == [Cancelled()]
    client.start(b"short")
    assert server.receive(client.data_to_send()) == [RequestReceived(b"short")]


def test_the_budget_is_given_back_at_the_end_and_on_close() -> None:
    budget = RequestBudget(20)
    first, second = ServerExchange(SMALL, budget), ServerExchange(SMALL, budget)
    first.receive(encode(FrameKind.REQUEST, bytes(15)))
    assert not budget.take(6)
    first.end()
    second.receive(encode(FrameKind.REQUEST_PART, bytes(15)))
    assert not budget.take(6)
    second.close()
    assert budget.take(20)


def test_a_peer_that_sends_but_never_reads_is_given_up() -> None:
    server = ServerExchange(SMALL)
    knock = (encode(FrameKind.REQUEST_PART, b"x") + encode(FrameKind.CANCEL)) * 14000
    with pytest.raises(RemoteError):
        server.receive(knock)


@pytest.mark.parametrize("kind", [FrameKind.DATA, FrameKind.END, FrameKind.ERROR, FrameKind.CANCEL])
def test_a_client_outside_an_exchange_expects_nothing(kind: FrameKind) -> None:
    with pytest.raises(RemoteError):
        ClientExchange(SMALL).receive(encode(kind))


@pytest.mark.parametrize("kind", [FrameKind.REQUEST, FrameKind.REQUEST_PART])
def test_a_second_request_within_an_exchange_is_a_violation(kind: FrameKind) -> None:
    _, server = answering()
    with pytest.raises(RemoteError):
        server.receive(encode(kind))


@pytest.mark.parametrize("kind", [FrameKind.END, FrameKind.CANCEL])
def test_final_frames_have_no_body(kind: FrameKind) -> None:
    client, _ = answering()
    client.cancel()
    with pytest.raises(RemoteError):
        client.receive(encode(kind, b"x"))


frames = st.tuples(st.sampled_from(FrameKind), st.binary(max_size=FRAME))
noise = st.one_of(
    st.binary(max_size=20),
    frames.map(lambda frame: encode(*frame)),
    frames.map(lambda frame: header(frame[0], len(frame[1]) + 1) + frame[1]),
)


@given(st.lists(st.tuples(noise, st.integers(0, 6)), max_size=12), st.booleans())
def test_garbage_never_raises_anything_but_remote_error(
    chunks: list[tuple[bytes, int]], as_client: bool
) -> None:
    client, server = ClientExchange(SMALL), ServerExchange(SMALL)
    try:
        for chunk, choice in chunks:
            if as_client:
                _act_as_client(client, choice)
                client.receive(chunk)
            else:
                _act_as_server(server, choice)
                server.receive(chunk)
    except RemoteError as error:
        event(error.code)


def _act_as_server(server: ServerExchange, choice: int) -> None:
    if server.state in {ServerState.ANSWERING, ServerState.CANCELLING} and choice < 2:
        server.end(LocalError("x") if choice else None)


def _act_as_client(client: ClientExchange, choice: int) -> None:
    if client.idle and choice < 5:
        client.start(bytes(200 * choice))
    elif choice == 6:
        client.cancel()


def test_parts_with_nothing_in_them_are_no_endless_request() -> None:
    limits = replace(LIMITS, request_max_bytes=LIMITS.request_part_least_bytes * 1000)
    server, refused = ServerExchange(limits), 0
    part = encode(FrameKind.REQUEST_PART)
    for _ in range(1100):
        server.receive(part)
        refused += server.state is ServerState.DISCARDING
    assert refused == 100
