"""What peers say to each other, as msgpack (msgspec Structs tagged by `type`).

Three conversations: RPC requests and their DATA bodies (`/aigrid/rpc/1`, members), the join
protocol (`/aigrid/join/1`, one message each way, strangers too) and gossip batches (topics
`records` and, for each branch of the capabilities, `records/BRANCH`).
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from aigrid.protocol.chunks import Part
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.inference import InferChunk, InferRequest
from aigrid.protocol.kinds import CapabilityName
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.message import Message as _Message
from aigrid.protocol.names import PRINTABLE, UNPRINTABLE
from aigrid.protocol.receipt import Salt
from aigrid.protocol.vitals import Examine, Vitals

PROTOCOL_VERSION = 1
RECORDS_TOPIC = "records"
EVERYBODY = "everybody"

RequestId = Annotated[str, Meta(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9_-]+\Z")]
TraceParent = Annotated[
    str, Meta(max_length=55, pattern=r"^(00-[0-9a-f]{32}-[0-9a-f]{16}-0[01])?\Z")
]
CidText = Annotated[str, Meta(max_length=64)]
RawRecord = Annotated[bytes, Meta(max_length=LIMITS.record_max_bytes)]
StatusLists = Annotated[tuple[RawRecord, ...], Meta(max_length=LIMITS.status_delegates_max + 1)]
RecordBatch = Annotated[tuple[RawRecord, ...], Meta(max_length=1024)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
ReconcileMessage = Annotated[bytes, Meta(min_length=1, max_length=LIMITS.reconcile_max_bytes)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=32)]


# --- RPC requests (client to server) and what comes back as DATA


class Ping(_Message, frozen=True, tag="ping"):
    """Are you alive? Answered by one `Pong`."""


class Pong(_Message, frozen=True, tag="pong"):
    """`wall_ms` is the answering node's clock; `running` its requests, `waiting` those in line."""

    wall_ms: Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
    running: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    waiting: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Reconcile(_Message, frozen=True, tag="reconcile"):
    """One message of reconciliation, from the initiator. Answered by one `Reconciled`.

    Only records of `branch` are compared, or with `EVERYBODY` those of no branch; None: all.
    """

    message: ReconcileMessage
    branch: CapabilityName | None = None


class Reconciled(_Message, frozen=True, tag="reconciled"):
    """The responder's message; one without ranges where it takes no part in the branch."""

    message: ReconcileMessage


class Fetch(_Message, frozen=True, tag="fetch"):
    """Send me these records: `ids` are their SHA-256. Answered by `Records` batches."""

    ids: Annotated[tuple[Digest, ...], Meta(max_length=LIMITS.sync_ids_max)]


class Push(_Message, frozen=True, tag="push"):
    """Here are records that you lack. Answered by one `Pushed`."""

    records: RecordBatch


class Pushed(_Message, frozen=True, tag="pushed"):
    """How many of them were news."""

    changed: Annotated[int, Meta(ge=0, le=1024)]


class Find(_Message, frozen=True, tag="find"):
    """Who offers this? Answered by `Records` batches, at most `limit` records in all.

    `name` is a capability's name or IRI, or a model's id or name.
    """

    by: Literal["capability", "model"]
    name: Annotated[
        str, Meta(min_length=1, max_length=LIMITS.capability_max_chars, pattern=PRINTABLE)
    ]
    limit: Annotated[int, Meta(ge=1, le=LIMITS.find_records_max)]


class Records(_Message, frozen=True, tag="records"):
    """A batch of signed records, each in canonical form. Also the body of a gossip message."""

    records: RecordBatch


class Infer(_Message, frozen=True, tag="infer"):
    """Serve this request. Answered by `Chunks` until one holds `Finish`, then one `Receipted`.

    `manifest` is the content id of the manifest under which the caller asks, `presentation` what
    entitles it to. `salt` is in the hashes that bind the one to the other: see `receipt`.
    `keep_alive_seconds`: how long the model should stay loaded after it; None leaves it to the
    node, which need not do as it is told.
    `trace`: the W3C traceparent that the work belongs under, or "": random numbers, nothing else.
    """

    request_id: RequestId
    model: CidText
    manifest: CidText
    request: InferRequest
    salt: Salt
    presentation: Annotated[bytes, Meta(max_length=LIMITS.presentation_max_bytes)]
    keep_alive_seconds: Annotated[float, Meta(ge=0, le=LIMITS.keep_alive_max_seconds)] | None = None
    trace: TraceParent = ""


class Loading(_Message, frozen=True, tag="loading"):
    """The model is on its way: how far, in words. Before the first `Chunks`, now and then."""

    text: Annotated[str, Meta(max_length=LIMITS.loading_text_max_chars, pattern=PRINTABLE)]


class Chunks(_Message, frozen=True, tag="chunks"):
    """Pieces that were ready together."""

    chunks: tuple[InferChunk, ...]


class Portion(_Message, frozen=True, tag="portion"):
    """A part of a `Chunks` that does not fit into a frame: joined up to the `last`, they are it.

    Each but the last has exactly `portion_bytes`.
    """

    data: Annotated[bytes, Meta(min_length=1, max_length=LIMITS.portion_bytes)]
    last: bool = False


class Receipted(_Message, frozen=True, tag="receipted"):
    """The receipt for the segment that has just ended: a record of kind `Receipt`.

    `engine_ms`: how long this node waited for its engine, loading included; nobody can check it.
    """

    receipt: RawRecord
    engine_ms: Annotated[float, Meta(ge=0, le=1e12)] | None = None


class Give(_Message, frozen=True, tag="give"):
    """Here is a credential for you: a chain, from its grant on. Answered by one `Given`."""

    credentials: Annotated[tuple[RawRecord, ...], Meta(min_length=1, max_length=LIMITS.chain_max)]


class Given(_Message, frozen=True, tag="given"):
    """Whether it was kept."""

    kept: bool


class Weights(_Message, frozen=True, tag="weights"):
    """Give me a part of a model's files. Answered by `Piece`s.

    `manifest`, `salt` and `presentation` as in `Infer`; the presentation is for the action `fetch`,
    its request hash that of `part`: see `part_hash`.
    """

    model: CidText
    manifest: CidText
    part: Part
    salt: Salt
    presentation: Annotated[bytes, Meta(max_length=LIMITS.presentation_max_bytes)]


class Piece(_Message, frozen=True, tag="piece"):
    """The next bytes of what was asked for, in order: at most `weights_piece_bytes`."""

    data: Annotated[bytes, Meta(max_length=LIMITS.weights_piece_bytes)]


RpcRequest = Ping | Reconcile | Fetch | Push | Find | Infer | Give | Weights | Examine
RpcAnswer = (
    Pong
    | Reconciled
    | Records
    | Pushed
    | Loading
    | Chunks
    | Portion
    | Receipted
    | Given
    | Piece
    | Vitals
)


# --- The join protocol


class Redeem(_Message, frozen=True, tag="redeem"):
    """Redeem an invitation; the connection's PeerId must be the invited key's."""

    invitation: RawRecord


class Present(_Message, frozen=True, tag="present"):
    """Here is my membership. Sent by each side of a new connection between members.

    `delegation` is the grid's StatusDelegation, if there is one: by that a membership may have been
    renewed by others than the authority. `lists` are the grid's newest status lists, as far as
    there is room: without one that is recent, the other side could serve nobody.
    """

    membership: RawRecord
    delegation: RawRecord = b""
    lists: StatusLists = ()


class Rotate(_Message, frozen=True, tag="rotate"):
    """A member's key named mine its successor: admit me in its place.

    The connection's PeerId must be the successor's.
    """

    rotation: RawRecord


class AskToJoin(_Message, frozen=True, tag="ask"):
    """First step of joining without an invitation.

    `commitment` is SHA-256 of the nonce revealed in the next step, so that neither side can choose
    its nonce to make the short codes of two conversations collide.
    """

    name: Annotated[str, Meta(max_length=64, pattern=PRINTABLE)]
    commitment: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Reveal(_Message, frozen=True, tag="reveal"):
    """Second step: the nonce. Sent again to poll for the operator's decision."""

    request: Annotated[str, Meta(max_length=32)]
    nonce: Nonce


class Welcome(_Message, frozen=True, tag="welcome"):
    """You are a member. `membership` is yours, `ours` the answering node's; see `Present`."""

    membership: RawRecord
    ours: RawRecord
    delegation: RawRecord = b""
    lists: StatusLists = ()


class Challenge(_Message, frozen=True, tag="challenge"):
    """Answer to `AskToJoin`."""

    request: str
    grid: str
    nonce: Nonce


class Pending(_Message, frozen=True, tag="pending"):
    """The operator has not decided yet."""


class Refused(_Message, frozen=True, tag="refused"):
    """No, and why. Whose membership was withdrawn or revoked gets what says so, in `records`."""

    code: str
    message: Annotated[str, Meta(max_length=LIMITS.error_message_max_chars)]
    records: StatusLists = ()


JoinRequest = Redeem | Present | Rotate | AskToJoin | Reveal
JoinAnswer = Welcome | Challenge | Pending | Refused

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_rpc_request: msgspec.msgpack.Decoder[RpcRequest] = msgspec.msgpack.Decoder(RpcRequest)
_rpc_answer: msgspec.msgpack.Decoder[RpcAnswer] = msgspec.msgpack.Decoder(RpcAnswer)
_records: msgspec.msgpack.Decoder[Records] = msgspec.msgpack.Decoder(Records)
_join_request: msgspec.msgpack.Decoder[JoinRequest] = msgspec.msgpack.Decoder(JoinRequest)
_join_answer: msgspec.msgpack.Decoder[JoinAnswer] = msgspec.msgpack.Decoder(JoinAnswer)


def encode(message: _Message) -> bytes:
    """The msgpack bytes of any message above."""
    return _encoder.encode(message)


def loading(text: str) -> Loading:
    """`text` as the message may have it: without what cannot be shown, and cut to its length."""
    shown = re.sub(UNPRINTABLE, "", text.encode("utf-8", "replace").decode())
    return Loading(shown[: LIMITS.loading_text_max_chars])


def decode_rpc_request(data: bytes) -> RpcRequest:
    """Raises RemoteError(protocol_violation) for anything else; so do the others below."""
    return _decode(_rpc_request, data)


def decode_rpc_answer(data: bytes) -> RpcAnswer:
    return _decode(_rpc_answer, data)


def portions(chunks: Chunks) -> Iterator[bytes]:
    """The messages that carry it: itself, or its portions where it is too large for a frame."""
    whole = encode(chunks)
    if len(whole) <= LIMITS.frame_max_bytes:
        yield whole
        return
    size = LIMITS.portion_bytes
    for at in range(0, len(whole), size):
        yield encode(Portion(whole[at : at + size], at + size >= len(whole)))


def decode_records(data: bytes) -> Records:
    return _decode(_records, data)


def decode_join_request(data: bytes) -> JoinRequest:
    return _decode(_join_request, data)


def decode_join_answer(data: bytes) -> JoinAnswer:
    return _decode(_join_answer, data)


def refusal(error: AigridError, records: tuple[bytes, ...] = ()) -> Refused:
    """An error as the join protocol says it, with the records that prove it."""
    return Refused(
        error.code.value,
        error.message[: LIMITS.error_message_max_chars].encode("utf-8", "replace").decode(),
        records,
    )


def code_of(text: str) -> Code:
    """A code as a peer sent it; what this version does not know becomes `internal`."""
    try:
        return Code(text)
    except ValueError:
        return Code.INTERNAL


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise RemoteError(
            f"not a message of this protocol: {error}"[:200], Code.PROTOCOL_VIOLATION
        ) from None
