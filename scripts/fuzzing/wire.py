"""What peers send: frames, messages, reconciliation, announcements, and the lines around them."""

import sys
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import msgspec
from scripts.fuzzing import vectors
from scripts.fuzzing.mutations import Bytes, Text, mutated
from scripts.fuzzing.target import Mutator, RefusedError, Target
from scripts.fuzzing.trees import MSGPACK, Tree

from aigrid.node.network import negotiation
from aigrid.node.network.nearby import encode_text, parse_text
from aigrid.node.network.tcp import parse_address
from aigrid.protocol import framing, messages, reconcile
from aigrid.protocol.errors import InvalidRequestError, RemoteError
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import (
    InferRequest,
    TensorRequest,
    TextRequest,
    check_tensor,
    check_text,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import check_more, needed
from aigrid.protocol.reconcile_items import Items, item

_PAYLOAD_MAX_BYTES = 65536
_SINGLY = 64


def _frames(data: bytes) -> None:
    """However they are cut, the same frames come out, and behind them the same error."""
    whole, error = _cut_frames([data], singly=_SINGLY)
    at = len(data) // 3
    pieces = [data[:at], data[at : 2 * at], data[2 * at :]]
    for way, singly in (([data], 0), (pieces, 0), (pieces, _SINGLY)):
        found, other = _cut_frames(way, singly=singly)
        assert (error and (error.code, error.message)) == (other and (other.code, other.message))
        # With an error go the frames that were fed together with what is wrong.
        pairs = zip(found, whole, strict=error is None)
        assert all(one == same for one, same in pairs), "cut elsewhere, other frames"
    refused = error
    for kind, body in whole:
        try:
            if kind is framing.FrameKind.ERROR:
                framing.decode_error(body)
            elif kind is framing.FrameKind.CREDIT:
                framing.decode_credit(body)
        except RemoteError as unread:
            refused = unread
    if refused is not None:
        raise refused


def _cut_frames(
    pieces: list[bytes], *, singly: int
) -> tuple[list[framing.Frame], RemoteError | None]:
    """The frames, and what ended them. The first few are taken one by one: each of them a feed."""
    decoder = framing.FrameDecoder()
    found: list[framing.Frame] = []
    for piece in pieces:
        left = piece
        while left:
            try:
                found += decoder.feed(left, 1 if len(found) < singly else sys.maxsize)
            except RemoteError as error:
                return found, error
            left = decoder.left
            assert decoder.held_bytes <= LIMITS.frame_max_bytes + framing.HEADER_BYTES
    return found, None


def _frame_seeds() -> list[bytes]:
    cases = vectors.vector("frames")
    single = [bytes.fromhex(case["bytes"]) for case in (*cases["frames"], *cases["refused"])]
    return [*single, b"".join(single[:8]), single[3] * 20]


def _errors(data: bytes) -> None:
    error = framing.decode_error(data)
    framing.encode_error(error)


def _error_seeds() -> list[bytes]:
    said = {"code": "busy", "message": "Try later.", "retry_after_seconds": 2.0}
    return [msgspec.msgpack.encode(said), msgspec.msgpack.encode({"code": "x", "message": ""})]


def _message(decode: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        """What is taken can be sent on, and reads there as it read here."""
        said = decode(data)
        again = decode(messages.encode(said))
        assert msgspec.msgpack.encode(again) == messages.encode(said)
        if isinstance(said, messages.Infer):
            _request(said.request)

    return run


def _request(request: InferRequest) -> None:
    """What a serving node looks at before anything else; each look announces its own errors."""
    refused: Exception | None = None
    if isinstance(request, TensorRequest):
        try:
            for tensor in request.inputs.values():
                check_tensor(tensor, 4)
        except ValueError as error:
            refused = error
    looks: list[Callable[[], object]] = [lambda: check_more(request), lambda: needed(request)]
    if isinstance(request, TextRequest):
        looks.append(lambda: check_text(request))
    for look in looks:
        try:
            look()
        except InvalidRequestError as error:
            refused = error
    if refused is not None:
        raise RefusedError from refused


def _messages(conversation: str) -> Callable[[], Mutator]:
    return lambda: Tree(vectors.messages(conversation), MSGPACK)


def _asked() -> list[bytes]:
    """Requests as the gateway makes them of what clients say: what `more` may hold, and tensors."""
    from scripts.fuzzing import bodies
    from scripts.fuzzing.dialects import decoded_of

    found = [
        messages.encode(messages.Infer("req_00000001", "m", "m", request, bytes(16), b""))
        for request in decoded_of(bodies.CHAT, bodies.COMPLETION, bodies.INFER, bodies.TASKS)
    ]
    return [*vectors.messages("rpc_request"), *(one for one in found if len(one) < 8192)]


def _gossip_seeds() -> list[bytes]:
    raws = vectors.records()
    return [
        messages.encode(messages.Records(raws[:3])),
        messages.encode(messages.Records(raws[3:20])),
        messages.encode(messages.Records(())),
    ]


_HELD = Items(
    item(1_790_000_000_000 + n // 3, bytes([n % 251, n // 251]) * 16) for n in range(3000)
)
_FEW = Items(item(1_790_000_000_000 + n, bytes([n]) * 32) for n in range(20))


def _reconcile(data: bytes) -> None:
    """As responder and as initiator, with much and with little; an answer is within its size."""
    for items in (_HELD, _FEW):
        step = reconcile.Reconciler(items).reconcile(data)
        assert step.reply is not None
        assert len(step.reply) <= LIMITS.reconcile_max_bytes
        asking = reconcile.Reconciler(items)
        asking.initiate()
        step = asking.reconcile(data)
        assert step.reply is None or len(step.reply) <= LIMITS.reconcile_max_bytes


def _reconcile_seeds() -> list[bytes]:
    said = vectors.vector("reconcile")
    found = [bytes.fromhex(m) for case in said["conversations"] for m in case["messages"]]
    found += [bytes.fromhex(case["bytes"]) for case in said["refused"]]
    first, second = reconcile.Reconciler(_HELD), reconcile.Reconciler(_FEW)
    message: bytes | None = first.initiate()
    while message is not None:
        found.append(message)
        answer = second.reconcile(message).reply
        assert answer is not None
        found.append(answer)
        message = first.reconcile(answer).reply
    return [one for one in found if len(one) < _PAYLOAD_MAX_BYTES]


class _Fed:
    """A stream on which somebody said this, and then left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.said = 0

    async def read(self, n: int | None = None) -> bytes:
        if not self._data:
            raise RemoteError("the peer left")
        piece, self._data = self._data[: n or 1], self._data[n or 1 :]
        return piece

    async def write(self, data: bytes) -> None:
        self.said += len(data)


def _negotiation(data: bytes) -> None:
    ours = ("/aigrid/rpc/1", "/aigrid/join/1")
    sides: tuple[Callable[[_Fed], Coroutine[Any, Any, object]], ...] = (
        lambda stream: negotiation.offer(stream, ours),
        lambda stream: negotiation.select(stream, ours[0]),
    )
    refused, agreed = None, False
    for side in sides:
        stream = _Fed(data)
        talk = side(stream)
        try:
            talk.send(None)
        except StopIteration:
            agreed = True
        except RemoteError as error:
            refused = error
        else:
            raise AssertionError("negotiation waits for something else than its stream")
        assert stream.said <= 64 * len(data) + 1024
    if refused is not None and not agreed:
        raise refused


def _negotiation_seeds() -> list[bytes]:
    line = negotiation.encode_line
    head = line(negotiation.HEADER)
    return [
        head + line("/aigrid/rpc/1"),
        head + line("/nothing/1") + line("ls") + line("/aigrid/join/1"),
        head + line(negotiation.NOT_AVAILABLE),
    ]


def _nearby_seeds() -> list[bytes]:
    who = Identity(bytes(32))
    said = [f"id={who.peer_id}", f"grid={who.did}", "name=a laptop"]
    return [
        encode_text([*said, "a0=/ip4/192.0.2.1/tcp/4001", "a1=/ip6/2001:db8::1/tcp/4001"]),
        encode_text([*said, "a0=/dns4/example.org/tcp/1/p2p/x"]),
    ]


def _nearby(data: bytes) -> None:
    found = parse_text(data)
    if found is None:
        raise RefusedError
    assert found.name.isprintable()
    assert len(found.peer.addresses) <= LIMITS.nearby_addresses_max


_ADDRESSES = (
    *(b"/ip4/192.0.2.1/tcp/4001", b"/ip6/2001:db8::1/tcp/4001", b"/dns4/example.org/tcp/443"),
    b"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
)


def _address(data: bytes) -> None:
    parsed = parse_address(data.decode("utf-8", "replace"))
    try:
        again = parse_address(str(parsed))
    except ValueError as error:
        raise AssertionError(f"{parsed} is not taken again") from error
    assert again == parsed


class _Framed:
    """Messages of the conversations and errors within frames, both mutated."""

    def __init__(self) -> None:
        self._messages = Tree(
            [*vectors.messages("rpc_request"), *vectors.messages("rpc_answer")], MSGPACK
        )
        self._errors = Tree(_error_seeds(), MSGPACK)

    def make(self, rng: Random) -> bytes:
        frames = [self._frame(rng) for _ in range(1 + rng.getrandbits(2))]
        data = b"".join(frames)
        return mutated(rng, data, frames) if rng.getrandbits(3) == 0 else data

    def _frame(self, rng: Random) -> bytes:
        kind = rng.choice(list(framing.FrameKind))
        if kind is framing.FrameKind.ERROR and rng.getrandbits(3):
            return framing.encode(kind, self._errors.make(rng)[:60_000])
        if kind is framing.FrameKind.CREDIT and rng.getrandbits(3):
            return framing.encode(kind, rng.randbytes(rng.choice((4, 4, 4, 3, 5))))
        return framing.encode(kind, self._messages.make(rng)[:60_000])


REMOTE = (RemoteError,)
TARGETS = (
    Target("frames", lambda: Bytes(_frame_seeds()), _frames, REMOTE),
    Target("framed-messages", _Framed, _frames, REMOTE),
    Target("error-frames", lambda: Tree(_error_seeds(), MSGPACK), _errors, REMOTE),
    Target(
        "rpc-requests",
        lambda: Tree(_asked(), MSGPACK),
        _message(messages.decode_rpc_request),
        REMOTE,
    ),
    Target("rpc-answers", _messages("rpc_answer"), _message(messages.decode_rpc_answer), REMOTE),
    Target(
        "join-requests", _messages("join_request"), _message(messages.decode_join_request), REMOTE
    ),
    Target("join-answers", _messages("join_answer"), _message(messages.decode_join_answer), REMOTE),
    Target(
        "gossip", lambda: Tree(_gossip_seeds(), MSGPACK), _message(messages.decode_records), REMOTE
    ),
    Target("reconciliation", lambda: Bytes(_reconcile_seeds()), _reconcile, REMOTE),
    Target("negotiation", lambda: Bytes(_negotiation_seeds()), _negotiation, REMOTE),
    Target("nearby", lambda: Bytes(_nearby_seeds()), _nearby, ()),
    Target("multiaddrs", lambda: Text(_ADDRESSES, (), b"/"), _address, (ValueError,)),
)
