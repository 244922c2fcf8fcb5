"""The room that fetched models take of the disk, and which of them goes when it is needed."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
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
        others: live nodes (DIDs) beside this one that give a model's files.
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
        others: Callable[[str], Collection[str]],
        given: Callable[[], Collection[str]],
        pinned: Callable[[], Collection[str]],
    ) -> None:
        self._config = config
        self._books = books
        self._models = models
        self._hosting = hosting
        self._pool = pool
        self._own_did = own_did
        self._others = others
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

    @asynccontextmanager
    async def room(self, model: str, size: int) -> AsyncIterator[None]:
        """Have room for a model of that size, which comes inside, or comes to its end.

        Raises:
            LocalError: `over_quota` where it does not fit, whatever goes.
        """
        async with self._deciding:  # each counts on what is free
            await self._make_room(model, size)
            self._coming[model] = size
        try:
            yield
        finally:
            del self._coming[model]

    async def _make_room(self, model: str, size: int) -> None:
        cached = await self._cached(model)
        budget = self._config.cache_bytes
        chosen = to_evict(cached, needed_bytes=size, budget_bytes=budget)
        if chosen is None:
            raise LocalError(
                f"{-(-size // MIB)} MiB do not fit in the {budget // MIB} MiB for fetched models "
                "(`cache_bytes`) beside those that are in use or that too few others hold",
                Code.OVER_QUOTA,
            )
        for one in chosen:
            await self._evict(one)
        folder = self._models.fetching_folder(model)
        needed = await self._models.run_blocking(lambda: self._missing({model: size}))
        left = [one for one in await self._cached(model) if not one.kept]
        while True:  # a disk that is full before the budget is used up
            try:
                await self._models.run_blocking(lambda: check_room(folder.parent, needed))
            except LocalError:
                if not left:
                    raise
                victim = min(left, key=lambda one: (one.used_ms, one.model))
                left.remove(victim)
                await self._evict(victim.model)
            else:
                return

    def _missing(self, more: Mapping[str, int]) -> int:
        """Bytes that are yet to be written of what is on its way, and of `more`. Blocks."""
        coming = {**self._coming, **more}
        return sum(
            max(0, size - occupied_bytes(self._models.fetching_folder(model)))
            for model, size in coming.items()
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
            kept = in_use or self._is_keeper(model)
            found.append(Cached(model, size, self._books.used_ms(model), kept))
        for model in {*await self._models.run_blocking(self._models.fetching), *self._coming}:
            if model != wanted:
                folder = self._models.fetching_folder(model)
                here = await self._models.run_blocking(partial(occupied_bytes, folder))
                size = here if model in self._models.list() else self._coming.get(model, here)
                found.append(Cached(model, size, self._books.used_ms(model), model in busy))
        return found

    def _is_keeper(self, model: str) -> bool:
        obtained = self._models.obtained(model)
        issuer = "" if obtained is None else obtained.issuer
        kept_by = keepers(
            model,
            {*self._others(model), self._own_did},
            issuer=issuer,
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
