"""What a node and its worker processes say to each other, over a socket pair.

A frame is a length (4 bytes, big-endian) and a msgpack array whose first item is the tag of one of
the messages below. Both ends are of one installation, so there are no versions; the node still
treats what a worker says as hostile, because a worker runs foreign models.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from aigrid.engines.base import Device, Endpoint, EngineStats, Estimate, ModelSource, Probe, Served
from aigrid.engines.draft import WireDraft
from aigrid.engines.sandbox import Needs
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, InferRequest, TaskChunk, TensorChunk, TextChunk
from aigrid.protocol.limits import LIMITS, MIB
from aigrid.protocol.names import PRINTABLE
from aigrid.protocol.task import TaskMapping
from aigrid.protocol.upstream import Upstream

FRAME_MAX_BYTES: Final = max(LIMITS.request_max_bytes, LIMITS.tensor_max_bytes) + MIB
CHUNK_WINDOW: Final = LIMITS.worker_chunks_max
"""Chunks of one request that may be on their way or unread; the node grants more with `Taken`."""

MESSAGE_MAX_CHARS: Final = LIMITS.error_message_max_chars
PROGRESS_MAX_CHARS: Final = 200
ForPeople = Annotated[str, msgspec.Meta(max_length=MESSAGE_MAX_CHARS, pattern=PRINTABLE)]
RequestName = Annotated[str, msgspec.Meta(max_length=64, pattern=PRINTABLE)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_HEADER = struct.Struct(">I")


class Source(msgspec.Struct, frozen=True, array_like=True):
    """A `ModelSource` with its paths as strings."""

    model_id: str
    format: str
    files: dict[str, str]
    task: str
    options: dict[str, str | int | float | bool]
    cache_directory: str | None
    mapping: TaskMapping | None = None
    upstream: Upstream | None = None
    endpoint: Endpoint | None = None
    trusted: bool = False
    room: dict[str, int] = {}


class Examine(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Node: which engine and model this worker is for; answered with `Examined`.

    `factory` is "module:Class" for an engine that is not found by its entry point, or "". Before
    the worker opens the model it gives up whatever `needs` does not name.
    """

    engine: str
    factory: str
    source: Source
    needs: Needs = Needs()
    code_formats: tuple[str, ...] = ()


class Load(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Node: load what was examined, within so much memory; answered with `Loaded`."""

    threads: int
    memory_bytes: int


class Infer(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Node: run a request; answered with `Chunk`s and `Ended`, or with `Failed`.

    `request_id` is for people: what the request is called in logs; "" for one of the node's own.
    `whole`: nobody reads the answer before its end, so its text need not come word by word.
    """

    id: int
    request: InferRequest
    request_id: RequestName = ""
    whole: bool = False


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Node: stop a request; it still ends with `Ended` or `Failed`."""

    id: int


class Taken(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Node: so many chunks of a request were consumed."""

    id: int
    chunks: int


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Node: are you there? Answered with `Pong`."""


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Node: unload and exit."""


class Tell(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Node: tell what these engines can do here; answered with `Probed`."""

    names: tuple[str, ...]


class Discover(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Node: what does a server serve, under this name or at all? Answered with `Discovered`."""

    engine: str
    factory: str
    endpoint: Endpoint
    model: str


class FindDevices(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Node: what hardware is here, and how much of its memory is free? Answered with `Found`."""


class Read(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Node: what does a model say of itself? Answered with `Drafted`; see `metadata.read`.

    `readable` are the files and folders that may be opened for it.
    """

    path: str
    task: str
    formats: tuple[str, ...]
    trusted: bool
    readable: tuple[str, ...]


class Warm(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Node: import what an engine needs and wait for a model of it; answered with `Warmed`."""

    engine: str
    factory: str


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Worker: ready for orders."""

    pid: int


class Examined(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Worker: what loading would take."""

    estimate: Estimate


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """Worker: what loading took, and what confines this process now, for people."""

    estimate: Estimate
    sandbox: ForPeople


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """Worker: the next piece of an answer."""

    id: int
    chunk: TextChunk | TensorChunk | TaskChunk


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=34):
    """Worker: an answer has come to its end, and when what of it happened.

    All since the order was read: `queued_ms` until a thread was free for it, `first_ms` until the
    first chunk (None: there was none), `whole_ms` until now.
    """

    id: int
    finish: Finish
    queued_ms: Milliseconds = 0.0
    first_ms: Milliseconds | None = None
    whole_ms: Milliseconds = 0.0


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """Worker: a request, or with id 0 the last order, failed."""

    id: int
    code: str
    message: str


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """Worker: still here."""

    stats: EngineStats


class Probed(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """Worker: the engines asked for, in order, and what would confine a worker, for people."""

    probes: tuple[Probe, ...]
    sandbox: ForPeople


class Discovered(msgspec.Struct, frozen=True, array_like=True, tag=27):
    """Worker: the models of a server."""

    served: tuple[Served, ...]


class Found(msgspec.Struct, frozen=True, array_like=True, tag=28):
    """Worker: the devices of this machine."""

    devices: tuple[Device, ...]


class Drafted(msgspec.Struct, frozen=True, array_like=True, tag=30):
    """Worker: what the model says."""

    draft: WireDraft


class Warmed(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """Worker: imported; `fit` says whether it was worth it, and can still be confined."""

    fit: bool


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=29):
    """Worker: how far loading has come, for people. Not an answer."""

    text: Annotated[str, msgspec.Meta(max_length=PROGRESS_MAX_CHARS)]


Asked = Tell | Discover | FindDevices | Read | Warm
Order = Examine | Load | Infer | Cancel | Taken | Ping | Stop | Asked
Answer = Hello | Examined | Loaded | Probed | Discovered | Found | Drafted | Warmed
Report = Answer | Chunk | Ended | Failed | Pong | Progress

_ENCODER = msgspec.msgpack.Encoder()
_ORDERS: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_REPORTS: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode(message: Order | Report) -> bytes:
    """One frame.

    Raises:
        ValueError: for a message that is too large to be a frame.
    """
    body = _ENCODER.encode(message)
    if len(body) > FRAME_MAX_BYTES:
        raise ValueError(f"a message of {len(body)} bytes")
    return _HEADER.pack(len(body)) + body


def decode_order(body: bytes) -> Order:
    """What the node said. Raises msgspec.DecodeError."""
    return _ORDERS.decode(body)


def decode_report(body: bytes) -> Report:
    """What a worker said. Raises ValueError (msgspec's errors are) for anything else."""
    try:
        return _REPORTS.decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class FrameCutter:
    """Cuts a byte stream into bodies; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Bodies that are complete now, in order.

        Raises:
            ValueError: for a frame that is too large; there is no way to go on.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < 4 or len(self._rest) < 4 + self._length(self._rest, 0):
                return []
            data = bytes(self._rest)
            self._rest.clear()
        bodies: list[bytes] = []
        start, size = 0, len(data)
        while size - start >= 4:
            end = start + 4 + self._length(data, start)
            if end > size:
                break
            bodies.append(data[start + 4 : end])
            start = end
        if start < size:
            self._rest += data[start:] if start else data
        return bodies

    @staticmethod
    def _length(data: bytes | bytearray, start: int) -> int:
        length: int = _HEADER.unpack_from(data, start)[0]
        if length > FRAME_MAX_BYTES:
            raise ValueError(f"a frame of {length} bytes")
        return length


def source_to_wire(source: ModelSource) -> Source:
    return Source(
        source.model_id,
        source.format,
        {name: str(path) for name, path in source.files.items()},
        source.task,
        dict(source.options),
        str(source.cache_directory) if source.cache_directory is not None else None,
        source.mapping,
        source.upstream,
        source.endpoint,
        source.trusted,
        dict(source.room),
    )


def source_from_wire(source: Source) -> ModelSource:
    files: Mapping[str, Path] = {name: Path(path) for name, path in source.files.items()}
    return ModelSource(
        source.model_id,
        source.format,
        files,
        source.task,
        source.options,
        Path(source.cache_directory) if source.cache_directory is not None else None,
        source.mapping,
        source.upstream,
        source.endpoint,
        source.trusted,
        source.room,
    )


def engine_error(failed: Failed) -> EngineError:
    """The error that a worker reported; a code that is not known becomes `engine_failed`."""
    try:
        code = Code(failed.code)
    except ValueError:
        code = Code.ENGINE_FAILED
    return EngineError(failed.message[:MESSAGE_MAX_CHARS], code)
