"""The serving side of weights: files of models here, given to those who may have them.

Whoever asks is decided about for every request anew, under the manifest by which this node has the
model. A file is read a chunk at a time, and what is not as it was published is not sent.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from functools import partial

import structlog
import trio

from aigrid.metagraph.quota import TokenBucket
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.weights.uploads import Upload, UploadSlots
from aigrid.node.network.streams import Send
from aigrid.node.policy.admission import Admission
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.chunks import DIGEST_BYTES, chunk_bytes, chunk_count
from aigrid.protocol.errors import (
    AigridError,
    Code,
    InvalidRequestError,
    LocalError,
    NoCandidateError,
    PolicyDeniedError,
    RemoteError,
    UsageError,
    VerificationError,
)
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Piece, Weights, encode
from aigrid.protocol.model import ModelFile
from aigrid.protocol.record import Record

log = structlog.get_logger()
_PAUSE_SECONDS = 0.001  # of nothing at all there is no end


class WeightsGiving:
    """Answers `Weights`. `seeded_under(model)`: the manifest by which it may be given, if it may.

    `damaged` is told of a model whose files are not what was published.

    Attributes:
        given_bytes: since the start.
        denied: how often policy refused, and with what code.
    """

    def __init__(
        self,
        models: LocalModels,
        *,
        config: WeightsConfig,
        seeded_under: Callable[[str], Record | None],
        admission: Admission,
        used: Callable[[str], None],
        damaged: Callable[[str], None],
    ) -> None:
        self._models = models
        self._config = config
        self._seeded_under = seeded_under
        self._admission = admission
        self._used = used
        self._damaged = damaged
        self._slots = UploadSlots(config.uploads, config.uploads_per_peer)
        self._pace: TokenBucket | None = None
        self.given_bytes = 0
        self.denied: Counter[Code] = Counter()

    @property
    def giving(self) -> Counter[str]:
        """Model -> requests for its files that are being answered."""
        return self._slots.giving

    async def serve(self, peer_id: str, message: Weights, send: Send) -> None:
        """Send what was asked for, in pieces.

        Raises:
            NoCandidateError: this node does not give the files of this model.
            InvalidRequestError: there is no such file, or no such chunk.
            LocalError: `busy`; `hash_mismatch` where a file has changed on the disk.
            PolicyDeniedError, VerificationError: whoever asks may not have it.
        """
        if not self._config.seed or self._seeded_under(message.model) is None:
            raise NoCandidateError(f"this node does not give the files of {message.model}")
        file = self._file(message)
        self._slots.check(peer_id)
        try:  # before anybody else's request ends for this one
            with self._admission.admit(message, did_of_peer_id(peer_id)):
                pass
        except (PolicyDeniedError, VerificationError) as error:
            self.denied[error.code] += 1
            log.info("weights_refused", peer=peer_id, model=message.model, code=error.code)
            raise
        with self._slots.slot(peer_id, message.model) as upload:
            self._used(message.model)
            try:
                await self._give(upload, message, file, send)
            except (LocalError, UsageError) as error:
                if error.code in (Code.HASH_MISMATCH, Code.MODEL_FILE_MISSING):
                    log.error("model_damaged", model=message.model)  # noqa: TRY400
                    self._damaged(message.model)
                raise

    def _file(self, message: Weights) -> ModelFile:
        part = message.part
        for file in self._models.description(message.model).files:
            if file.name == part.file and part.first + part.count <= chunk_count(file.bytes):
                return file
        raise InvalidRequestError("the model has no such file, or no such chunk")

    async def _give(self, upload: Upload, message: Weights, file: ModelFile, send: Send) -> None:
        part, models = message.part, self._models
        raw = await models.chunk_list(message.model, file)
        if not part.count:
            await self._send(upload, raw, send)
            return
        untouched = await models.untouched(message.model)
        path = models.source(message.model).files[file.name]
        size = chunk_bytes(file.bytes)
        try:
            descriptor = await models.run_blocking(lambda: os.open(path, os.O_RDONLY))
        except OSError as error:
            raise _unreadable(file, error) from None
        try:
            for number in range(part.first, part.first + part.count):
                expected = b"" if untouched else raw[number * DIGEST_BYTES :][:DIGEST_BYTES]
                length = min(size, file.bytes - number * size)
                read = partial(read_chunk, descriptor, number * size, length, expected, file)
                chunk = await models.run_blocking(read)
                await self._send(upload, chunk, send)
        finally:
            os.close(descriptor)

    async def _send(self, upload: Upload, data: bytes, send: Send) -> None:
        """In pieces, no faster than configured; a peer that takes none for too long is left."""
        for at in range(0, len(data), LIMITS.weights_piece_bytes):
            piece = data[at : at + LIMITS.weights_piece_bytes]
            await self._wait_turn(len(piece))
            with (
                upload.sending(len(piece)),
                trio.move_on_after(LIMITS.upload_piece_seconds) as scope,
            ):
                await send(encode(Piece(piece)))
            if scope.cancelled_caught:
                raise RemoteError("the peer takes nothing", Code.TIMEOUT, peer=upload.peer)
            self.given_bytes += len(piece)

    async def _wait_turn(self, count: int) -> None:
        rate = self._config.upload_bytes_per_second
        if not rate:
            return
        if self._pace is None:
            burst = max(rate, LIMITS.weights_piece_bytes)
            self._pace = TokenBucket(per_second=rate, burst=burst, now_seconds=trio.current_time())
        while wait := self._pace.wait_seconds(trio.current_time(), count):  # noqa: ASYNC110 - a clock
            await trio.sleep(max(wait, _PAUSE_SECONDS))
        self._pace.take(trio.current_time(), count)


def read_chunk(descriptor: int, at: int, length: int, expected: bytes, file: ModelFile) -> bytes:
    """A chunk; its hash is looked at where there is one `expected`."""
    try:
        data = os.pread(descriptor, length, at)
    except OSError as error:
        raise _unreadable(file, error) from None
    if len(data) != length or (expected and hashlib.sha256(data).digest() != expected):
        raise LocalError(f"{file.name} is not what was published", Code.HASH_MISMATCH)
    return data


def _unreadable(file: ModelFile, error: OSError) -> AigridError:
    return UsageError(f"cannot read {file.name}: {error.strerror}", Code.MODEL_FILE_MISSING)
