"""The room that fetched models take of the disk, and which of them goes when it is needed."""

import shutil
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial

import structlog
import trio

from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.shelf.copying import check_room
from aigrid.node.mesh.shelf.hosting import Hosting
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.weights.books import WeightsBooks
from aigrid.node.mesh.weights.partial import occupied_bytes, remove
from aigrid.node.mesh.weights.plan import Cached, keepers, to_evict
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import LIMITS, MIB

log = structlog.get_logger()


class WeightsCache:
    """Of models that this node has published itself nothing ever goes.

    Args of the constructor:
        proven: live nodes (DIDs) beside this one that have shown lately that they hold a model's
            files; they are asked for it if need be.
        given: models whose files are being given, and those that are on their way.
        pinned: models that stay, whatever happens, loaded just now or not.
    """

    def __init__(
        self,
        config: WeightsConfig,
        books: WeightsBooks,
        models: LocalModels,
        hosting: Hosting,
        pool: ModelPool,
        *,
        own_did: str,
        proven: Callable[[str], Awaitable[Collection[str]]],
        given: Callable[[], Collection[str]],
        pinned: Callable[[], Collection[str]],
    ) -> None:
        self._config = config
        self._books = books
        self._models = models
        self._hosting = hosting
        self._pool = pool
        self._own_did = own_did
        self._proven = proven
        self._given = given
        self._pinned = pinned
        self._deciding = trio.Lock()
        self._coming: dict[str, int] = {}

    def fetched(self) -> dict[str, int]:
        """Models that were fetched and that this node does not publish itself -> bytes."""
        return {
            model: sum(file.bytes for file in description.files)
            for model, description in self._models.list().items()
            if self._models.obtained(model) is not None and not self._hosting.publishes(model)
        }

    def note_use(self) -> None:
        """Models that are loaded now are in use now."""
        fetched = self.fetched()
        for model, state in self._pool.states().items():
            if state != "on_disk" and model in fetched:
                self._books.used(model)

    @contextmanager
    def coming(self, model: str, size: int) -> Iterator[None]:
        """A model of that size comes inside, or comes to its end: others count on less room."""
        self._coming[model] = size
        try:
            yield
        finally:
            del self._coming[model]

    async def check(self, model: str) -> None:
        """Whether there is room for what is `coming`, or could be made: nothing goes yet.

        Raises:
            LocalError: `over_quota`, `data_directory_unusable`: it does not fit, whatever goes.
        """
        await self._plan(model, await self._cached(model))

    async def make_room(self, model: str) -> None:
        """Have room for what is `coming`. Raises as `check`, and then nothing has gone."""
        async with self._deciding:  # each counts on what is free
            cached = await self._cached(model)
            while True:  # what nobody else has shown stays, and others may have to go for it
                chosen = await self._plan(model, cached)
                kept = {one for one in chosen if await self._is_keeper(one)}
                if not kept:
                    break
                cached = [c.stays() if c.model in kept else c for c in cached]
            for one in chosen:
                await self._evict(one)

    async def _plan(self, model: str, cached: list[Cached]) -> list[str]:
        size, budget = self._coming[model], self._config.cache_bytes
        if to_evict(cached, needed_bytes=size, budget_bytes=budget) is None:
            raise LocalError(
                f"{-(-size // MIB)} MiB do not fit in the {budget // MIB} MiB for fetched models "
                "(`cache_bytes`) beside those that are in use or that too few others hold",
                Code.OVER_QUOTA,
            )
        folder = self._models.fetching_folder(model).parent
        needed = await self._models.run_blocking(self._missing)
        free = await self._models.run_blocking(lambda: shutil.disk_usage(folder).free)
        short = needed + LIMITS.disk_spare_bytes - free
        chosen = to_evict(cached, needed_bytes=size, budget_bytes=budget, short_bytes=short)
        if chosen is None:  # a disk that is full before the budget is used up
            await self._models.run_blocking(lambda: check_room(folder, needed))
        return chosen or []

    def _missing(self) -> int:
        """Bytes that are yet to be written of what is on its way. Blocks."""
        return sum(
            max(0, size - occupied_bytes(self._models.fetching_folder(model)))
            for model, size in self._coming.items()
            if model not in self._models.list()
        )

    async def sweep(self) -> None:
        """Fetches that were broken off long ago, and not taken up again, are given up."""
        for model in await self._models.run_blocking(self._models.fetching):
            age_ms = self._books.now_ms() - self._books.used_ms(model)
            if age_ms > LIMITS.fetch_kept_seconds * 1000:
                await self._evict(model)
            elif age_ms <= 0:
                self._books.used(model)

    async def _cached(self, wanted: str) -> list[Cached]:
        states, busy = self._pool.states(), {*self._given(), *self._pinned()}
        found = []
        for model, size in self.fetched().items():
            in_use = states.get(model, "on_disk") != "on_disk" or model in busy
            found.append(Cached(model, size, self._books.used_ms(model), in_use))
        for model in {*await self._models.run_blocking(self._models.fetching), *self._coming}:
            if model != wanted:
                folder = self._models.fetching_folder(model)
                here = await self._models.run_blocking(partial(occupied_bytes, folder))
                size = here if model in self._models.list() else self._coming.get(model, here)
                found.append(Cached(model, size, self._books.used_ms(model), model in busy))
        return found

    async def _is_keeper(self, model: str) -> bool:
        """Whether this node has to keep a model: too few others have shown that they hold it."""
        if model not in self._models.list():
            return False
        obtained = self._models.obtained(model)
        kept_by = keepers(
            model,
            {*await self._proven(model), self._own_did},
            issuer="" if obtained is None else obtained.issuer,
            replicas_min=self._config.replicas_min,
        )
        return self._own_did in kept_by

    async def _evict(self, model: str) -> None:
        """A fetched model, or what there is of one that never came to its end."""
        log.info("fetched_model_evicted", model=model)
        try:
            if model in self._models.list():
                await self._hosting.remove_fetched(model)
            else:
                folder = self._models.fetching_folder(model)
                await self._models.run_blocking(lambda: remove(folder))
        except AigridError as error:
            log.warning("not_evicted", model=model, code=error.code)
            return
        self._books.forget(model)
