"""A model's chunks from several holders at once, each checked before it is written."""

import functools
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog
import trio

from aigrid.metagraph.index import Seeder
from aigrid.node.discovery.peers import Peers
from aigrid.node.mesh.shelf.copying import RunBlocking
from aigrid.node.mesh.weights.asking import Pieces, WeightsAsking
from aigrid.node.mesh.weights.faults import FAULTS, HolderFaults, asked_first
from aigrid.node.mesh.weights.partial import Partial
from aigrid.node.mesh.weights.plan import Asked, WorkQueue
from aigrid.node.mesh.weights.transferred import Transferred
from aigrid.protocol.chunks import DIGEST_BYTES, FileChunks, Part, chunk_count, read_chunk_list
from aigrid.protocol.errors import (
    CODES,
    POLICY,
    AigridError,
    Code,
    LocalError,
    NoCandidateError,
    PolicyDeniedError,
    RemoteError,
    VerificationError,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import ChunkList
from aigrid.protocol.model import ModelFile
from aigrid.protocol.record import Record

log = structlog.get_logger()
_LOOK_SECONDS = 0.5
_HEDGE_SECONDS = 0.2
# A holder whose connection broke is asked again after a while, so often.
_REST_SECONDS = 3.0
_STRIKES_MAX = 2


class Transfer:
    """One fetch. A holder that fails is left out of it from then on, with its reason in `dropped`.

    `holders` says who could be asked now; `faults` who did badly before. `spend` is told of bytes
    before they count, and raises LocalError (`over_budget`) where there have been too many today.
    `make_room` is called once the first good chunk has come: before, nothing has to go for it.
    `moved` is told of progress, which is kept in `progress`. Where `others_wait` while little
    comes, `run` returns before the end.
    """

    def __init__(
        self,
        manifest: Record,
        partial: Partial,
        asking: WeightsAsking,
        *,
        holders: Callable[[], tuple[Seeder, ...]],
        peers: Peers,
        run_blocking: RunBlocking,
        spend: Callable[[int], None],
        make_room: Callable[[], Awaitable[None]],
        others_wait: Callable[[], bool],
        faults: HolderFaults,
        progress: Transferred,
        moved: Callable[[], None],
    ) -> None:
        self._manifest = manifest
        self._partial = partial
        self._asking = asking
        self._holders = holders
        self._peers = peers
        self._run_blocking = run_blocking
        self._spend = spend
        self._make_room = make_room
        self._others_wait = others_wait
        self._moved = moved
        self._faults = faults
        self._room = trio.Lock()
        self._has_room = False
        self._resumed = False
        self._over = False
        self._chunks: tuple[FileChunks, ...] = ()
        self._queue = WorkQueue([], [])
        self._scopes: dict[Asked, trio.CancelScope] = {}
        self._changed = trio.Event()
        self._working: set[str] = set()
        self._mended: set[str] = set()
        self._strikes: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()  # by DID: chunk lists that it had no slot for
        self._resting: dict[str, float] = {}
        self._failure: AigridError | None = None
        self.dropped: dict[str, AigridError] = {}
        self.progress = progress

    async def run(self, lists: tuple[ChunkList, ...]) -> bool:
        """Bring what is missing. `lists` are those of the manifest, in order of name.

        False: its turn is over before everything is here; the next call goes on.

        Raises:
            NoCandidateError, PolicyDeniedError: no holder is left, and why.
            LocalError: `data_directory_unusable`, `over_budget`.
        """
        if not self._resumed:
            chunks = [
                await self._chunk_list(file, one.sha256)
                for file, one in zip(self._partial.files, lists, strict=True)
            ]
            self._chunks = tuple(chunks)
            have = self._partial.use(self._chunks)
            self._queue = WorkQueue(have, [one.size for one in chunks])
            await self._resume()
            self._resumed = True
        self._rebuild()
        self._over = False
        if self._queue.missing:
            await self._bring()
        return not self._over

    async def _chunk_list(self, file: ModelFile, sha256: str) -> FileChunks:
        raw = await self._run_blocking(lambda: self._partial.chunk_list(file))
        if raw is not None:
            try:
                return read_chunk_list(raw, file_bytes=file.bytes, sha256=sha256)
            except VerificationError:
                pass  # of another manifest, or damaged: it is asked for again
        if not file.bytes:
            return read_chunk_list(b"", file_bytes=0, sha256=sha256)
        while True:
            holder = await self._next_holder()
            try:
                raw = await self._asked_list(holder, file)
                found = read_chunk_list(raw, file_bytes=file.bytes, sha256=sha256)
            except LocalError:
                raise
            except AigridError as error:
                if error.code is Code.BUSY and self._busy[holder.signer] < LIMITS.fetch_busy_max:
                    self._busy[holder.signer] += 1
                    rest = min(_pause(error), LIMITS.fetch_seek_seconds / 2)
                    self._resting[holder.signer] = trio.current_time() + rest
                else:
                    await self._failed(holder, error)
            else:
                keep = functools.partial(self._partial.keep_chunk_list, file, raw)
                await self._run_blocking(keep)
                return found

    async def _asked_list(self, holder: Seeder, file: ModelFile) -> bytes:
        size = chunk_count(file.bytes) * DIGEST_BYTES
        self._spend(size)
        return await self._asking.whole(holder, self._manifest, Part(file.name), size)

    async def _next_holder(self) -> Seeder:
        """Somebody who may be asked. Raises as `run` where there is nobody for a while."""
        with trio.move_on_after(LIMITS.fetch_seek_seconds):
            while not (left := self._left()):
                if self._all_said_no():
                    break
                await trio.sleep(_LOOK_SECONDS)
            else:
                self._resting.pop(left[0].signer, None)  # so that its next failure counts, too
                return left[0]
        raise self._nobody()

    def _left(self) -> list[Seeder]:
        now = trio.current_time()
        able = [
            one
            for one in self._holders()
            if one.signer not in self.dropped and self._resting.get(one.signer, now) <= now
        ]
        return asked_first(able, lambda did: self._faults.counts(did, now))

    def _all_said_no(self) -> bool:
        """Nobody is left, and those who were there will not change their minds."""
        return bool(self.dropped) and all(one.signer in self.dropped for one in self._holders())

    async def _resume(self) -> None:
        """Believe what is on the disk, once it has been hashed."""
        self.progress.resumed_bytes = 0
        for file, number in await self._run_blocking(lambda: list(self._partial.claimed())):
            if await self._run_blocking(functools.partial(self._partial.holds, file, number)):
                self._queue.got(file, number)
                self.progress.resumed_bytes += self._chunks[file].length(number)
        self.progress.here_bytes = self.progress.resumed_bytes
        self._moved()

    def _rebuild(self) -> None:
        self._queue = WorkQueue(self._queue.have, [one.size for one in self._chunks])

    async def _bring(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._recruit, nursery)
            while self._queue.missing and self._failure is None and not self._over:
                await self._changed.wait()
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _recruit(self, nursery: trio.Nursery) -> None:
        """Put every holder to work that there is, or that comes later."""
        alone_since = window = trio.current_time()
        had_bytes = self.progress.here_bytes
        while True:
            if trio.current_time() - window >= LIMITS.fetch_turn_seconds:
                came_bytes = self.progress.here_bytes - had_bytes
                slow = came_bytes < LIMITS.fetch_slow_bytes_per_second * LIMITS.fetch_turn_seconds
                if slow and self._others_wait():
                    self._over = True
                    self._tell()
                window, had_bytes = trio.current_time(), self.progress.here_bytes
            for holder in self._left():
                room = len(self._working) < LIMITS.fetch_holders_max
                if room and holder.signer not in self._working:
                    self._resting.pop(holder.signer, None)
                    self._working.add(holder.signer)
                    nursery.start_soon(self._work_for, holder)
            if self._working:
                alone_since = trio.current_time()
            waited = trio.current_time() - alone_since
            if not self._working and (self._all_said_no() or waited > LIMITS.fetch_seek_seconds):
                self._fail(self._nobody())
            with trio.move_on_after(_LOOK_SECONDS):
                await self._changed.wait()

    async def _work_for(self, holder: Seeder) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(LIMITS.fetch_streams_per_holder):
                    nursery.start_soon(self._work, holder, nursery.cancel_scope)
        finally:
            self._working.discard(holder.signer)
            self._tell()

    async def _work(self, holder: Seeder, scope: trio.CancelScope) -> None:
        busy = 0
        while self._queue.missing and holder.signer not in self.dropped:
            asked = await self._next_run(holder)
            if asked is None:
                continue
            error: AigridError | None = None
            try:
                await self._run_of(holder, asked)
            except AigridError as caught:
                error = caught
            finally:
                self._queue.leave(asked)
                self._tell()
            if isinstance(error, LocalError):  # our own disk, or our day's bytes
                self._fail(error)
                return
            if error is not None and error.code is Code.BUSY and busy < LIMITS.fetch_busy_max:
                busy += 1
                await trio.sleep(_pause(error))
            elif error is not None:
                await self._failed(holder, error)
                if holder.signer in self.dropped or holder.signer in self._resting:
                    scope.cancel()

    async def _next_run(self, holder: Seeder) -> Asked | None:
        """What to ask for; a run of another's only after nothing has happened for a moment."""
        workers = len(self._working) * LIMITS.fetch_streams_per_holder
        asked = self._queue.take(holder.signer, workers=workers, double=False)
        if asked is None:
            with trio.move_on_after(_HEDGE_SECONDS) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                asked = self._queue.take(holder.signer, workers=workers)
        return asked

    async def _run_of(self, holder: Seeder, asked: Asked) -> None:
        """Ask for a run of chunks, until they are here or others have brought them."""
        run = asked.run
        part = Part(self._partial.files[run.file].name, run.first, run.count)
        with trio.CancelScope() as scope:
            self._scopes[asked] = scope
            try:
                async with self._asking.pieces(holder, self._manifest, part) as pieces:
                    await self._take(holder, asked, pieces)
            finally:
                del self._scopes[asked]

    async def _take(self, holder: Seeder, asked: Asked, pieces: Pieces) -> None:
        run, chunks = asked.run, self._chunks[asked.run.file]
        buffer = bytearray()
        for number in run.numbers:
            length = chunks.length(number)
            with trio.move_on_after(LIMITS.fetch_chunk_seconds) as scope:
                while len(buffer) < length:
                    data = await pieces.next()
                    if not data:
                        raise RemoteError("less than was asked for", peer=holder.node)
                    self._spend(len(data))
                    self.progress.received_bytes += len(data)
                    buffer += data
            if scope.cancelled_caught:
                raise RemoteError("it sends too slowly", Code.TIMEOUT, peer=holder.node)
            chunk, buffer = buffer[:length], buffer[length:]
            if number == run.numbers[-1] and buffer:
                raise RemoteError("more than was asked for", peer=holder.node)
            await self._keep(asked, number, chunk, holder.node)
        if await pieces.next():
            raise RemoteError("more than was asked for", peer=holder.node)

    async def _keep(self, asked: Asked, number: int, chunk: bytearray, peer: str) -> None:
        """Write a chunk, unless it is here already, or wrong."""
        file, here = asked.run.file, self._queue.have[asked.run.file]
        if here[number]:
            return
        await self._have_room(file, number, chunk)
        if not await self._run_blocking(lambda: self._partial.store(file, number, chunk)):
            raise RemoteError("it sent a wrong chunk", Code.HASH_MISMATCH, peer=peer)
        if here[number]:
            return
        self._queue.got(file, number)
        given = self.progress.given
        given[asked.holder] = given.get(asked.holder, 0) + len(chunk)
        self.progress.here_bytes += len(chunk)
        for one in self._queue.over():
            if one is not asked and one in self._scopes:
                self._scopes[one].cancel()  # the other has brought all of it
        self._moved()
        if not self._queue.missing:
            self._tell()

    async def _have_room(self, file: int, number: int, chunk: bytearray) -> None:
        """For the first chunk that is right. Raises LocalError where there is no room."""
        async with self._room:
            if self._has_room or not self._chunks[file].holds(number, chunk):
                return
            await self._make_room()
            self._has_room = True

    async def _failed(self, holder: Seeder, error: AigridError) -> None:
        """What a holder's failure means for this fetch."""
        if holder.signer in self.dropped:
            return
        if holder.signer not in self._mended and await self._asking.mend(holder, error):
            self._mended.add(holder.signer)
            return
        if holder.signer in self.dropped or holder.signer in self._resting:
            return
        if error.code in _PASSING and self._strikes[holder.signer] < _STRIKES_MAX:
            self._strikes[holder.signer] += 1
            self._resting[holder.signer] = trio.current_time() + _REST_SECONDS
            log.info("holder_rests", peer=holder.node, code=error.code)
            return
        self.dropped[holder.signer] = error
        if error.code in FAULTS:
            self._faults.note(holder.signer, trio.current_time())
        log.info("holder_dropped", peer=holder.node, code=error.code, reason=error.message)
        faulty = CODES[error.code].retry or error.code in _ITS_FAULT
        if not isinstance(error, PolicyDeniedError) and faulty and error.code not in _NO_FAULT:
            self._peers.failed(holder.node)

    def _fail(self, error: AigridError) -> None:
        self._failure = self._failure or error
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _nobody(self) -> AigridError:
        """No holder is left: why, as far as that can be said in one sentence."""
        reasons = list(self.dropped.values())
        denied = [error for error in reasons if error.code in POLICY]
        if denied and len(denied) == len(reasons):
            return PolicyDeniedError(denied[0].message, denied[0].code)
        said = "; ".join(f"{did}: {error.message}" for did, error in list(self.dropped.items())[:3])
        return NoCandidateError(
            f"no node gives its files now{f' ({said})' if said else ''}",
            retry_after_seconds=LIMITS.retry_after_seconds,
        )


def _pause(error: AigridError) -> float:
    wait = error.retry_after_seconds or LIMITS.retry_after_seconds
    return min(max(wait, _LOOK_SECONDS), LIMITS.fetch_seek_seconds)


_PASSING = frozenset({Code.CONNECTION_LOST, Code.UNREACHABLE, Code.TIMEOUT, Code.SHUTTING_DOWN})
_ITS_FAULT = frozenset(
    {Code.PROTOCOL_VIOLATION, Code.FRAME_TOO_LARGE, Code.HASH_MISMATCH, Code.INTERNAL}
)
_NO_FAULT = frozenset({Code.BUSY, Code.RATE_LIMITED, Code.NO_CANDIDATE, Code.SHUTTING_DOWN})
