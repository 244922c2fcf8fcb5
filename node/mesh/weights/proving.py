"""Who holds a model's files for sure: whoever has just shown one chunk of them, drawn at random.

That a node says so costs it nothing; so no file is let go because of what others say. A node that
fetches the chunk from somebody else to show it passes, but nobody from whom only this one has it.
"""

import hashlib
from collections.abc import Callable

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Seeder
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.weights.asking import WeightsAsking
from aigrid.node.mesh.weights.ledger import Cost, Ledger
from aigrid.node.mesh.weights.plan import by_rank
from aigrid.protocol.chunks import DIGEST_BYTES, Part, chunk_bytes, chunk_count
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.limits import LIMITS

log = structlog.get_logger()


class HolderProofs:
    """Asks those who say that they hold a model of this node.

    `seeders(model)`: those of them that are connected. `draw()`: a large random number.
    """

    def __init__(
        self,
        graph: Metagraph,
        models: LocalModels,
        ledger: Ledger,
        asking: Callable[[], WeightsAsking],
        *,
        seeders: Callable[[str], list[Seeder]],
        draw: Callable[[], int],
        now_ms: NowMs,
    ) -> None:
        self._graph = graph
        self._models = models
        self._ledger = ledger
        self._asking = asking
        self._seeders = seeders
        self._draw = draw
        self._now_ms = now_ms
        self._shown: dict[tuple[str, str], tuple[bool, float]] = {}

    async def proven(self, model: str) -> frozenset[str]:
        """DIDs of those who have shown a chunk within `proof_seconds`.

        Those are asked that were not lately: the first in rank, for they are to keep the model.
        """
        obtained = self._models.obtained(model)
        issuer = "" if obtained is None else obtained.issuer
        seeders = {one.signer: one for one in self._seeders(model)}
        open_ = [did for did in by_rank(model, seeders, issuer=issuer) if self._of(did, model) < 0]
        asked, left = open_[: LIMITS.proofs_max], True
        try:
            with trio.move_on_after(LIMITS.proof_wait_seconds):
                async with trio.open_nursery() as nursery:
                    for did in asked:
                        self._note(did, model, shown=False)  # until it has
                        nursery.start_soon(self._ask, model, seeders[did])
            left = False
        finally:
            if left:  # whoever asked is gone: that says nothing of those that were asked
                for did in asked:
                    if not self._of(did, model):
                        self._shown.pop((did, model), None)
        return frozenset(did for did in seeders if self._of(did, model) > 0)

    def _of(self, did: str, model: str) -> int:
        """1: it has shown a chunk; 0: it has not, and is left alone; -1: it can be asked."""
        shown, at = self._shown.get((did, model), (False, float("-inf")))
        lasts = LIMITS.proof_seconds if shown else LIMITS.proof_pause_seconds
        return int(shown) if trio.current_time() - at < lasts else -1

    def _note(self, did: str, model: str, *, shown: bool) -> None:
        self._shown.pop((did, model), None)
        self._shown[did, model] = shown, trio.current_time()
        while len(self._shown) > LIMITS.placement_remembered_max:
            del self._shown[next(iter(self._shown))]

    async def _ask(self, model: str, seeder: Seeder) -> None:
        try:
            await self._check(model, seeder)
        except AigridError as error:
            log.info("holder_shows_nothing", model=model, peer=seeder.node, code=error.code)
        else:
            self._note(seeder.signer, model, shown=True)

    async def _check(self, model: str, seeder: Seeder) -> None:
        """Raises AigridError where it does not show what it was asked for."""
        manifest = self._graph.index.manifest(seeder.manifest, self._now_ms())
        files = self._models.description(model).files
        counts = [chunk_count(file.bytes) for file in files]
        if manifest is None or not sum(counts):
            raise RemoteError("there is nothing to show", Code.NO_CANDIDATE, peer=seeder.node)
        number = self._draw() % sum(counts)
        place = 0
        while number >= counts[place]:
            number -= counts[place]
            place += 1
        file = files[place]
        digests = await self._models.chunk_list(model, file)
        size = chunk_bytes(file.bytes)
        size = min(size, file.bytes - number * size)
        digest, came = hashlib.sha256(), 0
        with self._ledger.reserve(Cost(size), None) as reservation:
            part = Part(file.name, number, 1)
            async with self._asking().pieces(seeder, manifest, part) as pieces:
                while came < size and (data := await pieces.next()):
                    came += len(data)
                    reservation.spend(len(data))
                    digest.update(data)
        if digest.digest() != digests[number * DIGEST_BYTES :][:DIGEST_BYTES]:
            raise RemoteError("it shows something else", Code.HASH_MISMATCH, peer=seeder.node)
