"""Models that stay loaded: pinned in the configuration, or by command until that is undone.

A pinned model that cannot be loaded is tried again, later and later, and does nobody else any harm.
One for which the pins before it leave no room is not loaded until they do.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Iterable

import structlog
import trio

from aigrid.metagraph.local import LocalState
from aigrid.node.mesh.pool.budget import Budget, Charge, beside, check_fits
from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.protocol.errors import AigridError, Code, LocalError, UsageError
from aigrid.protocol.limits import LIMITS, Limits

log = structlog.get_logger(__name__)
_SETTING = "pins"
_LOOK_SECONDS = 10.0  # between two looks for a model that is pinned and not here yet


async def _nothing(_: str) -> Charge:
    await trio.lowlevel.checkpoint()
    return {}


class Pins:
    """`run` is a service.

    `name_of` says what a model, by its id, is called here, `charge` what it would take if loaded.

    Attributes:
        problems: name or id of what is pinned -> why it does not stay loaded now.
    """

    def __init__(
        self,
        pool: ModelPool,
        models: LocalModels,
        local: LocalState,
        *,
        configured: Collection[str],
        name_of: Callable[[str], str],
        charge: Callable[[str], Awaitable[Charge]] = _nothing,
        limits: Limits = LIMITS,
    ) -> None:
        self._pool = pool
        self._models = models
        self._local = local
        self._configured = tuple(configured)
        self._name_of = name_of
        self._charge_of = charge
        self._charges: dict[str, tuple[Budget, Charge]] = {}
        self.problems: dict[str, str] = {}
        self._limits = limits
        self._scopes: dict[str, trio.CancelScope] = {}
        self._poked = trio.Event()

    def pin(self, model: str) -> None:
        """Keep a model loaded from now on, over restarts. Raises LocalError (`over_quota`)."""
        pinned = [*(one for one in self._remembered() if one != model), model]
        if len(pinned) > self._limits.pins_max:
            raise LocalError(f"at most {self._limits.pins_max} models are pinned", Code.OVER_QUOTA)
        self._remember(pinned)

    def unpin(self, model: str) -> None:
        """Let a model go when it is idle. Raises UsageError where the configuration pins it."""
        if {model, self._name_of(model)} & {*self._configured}:
            raise UsageError("it is pinned in config.toml: take it out of `pin` there")
        self._remember([one for one in self._remembered() if one != model])

    async def check(self, model: str) -> None:
        """Whether a model would stay loaded if it was pinned now.

        Raises:
            AigridError: its engine refuses it; `out_of_memory`: it does not fit here, or not beside
                what is pinned.
        """
        own = await self._charge(model)
        check_fits(own, self._pool.budget.purses)
        others = [one for one in self._in_order() if one != model]
        charges = await self._known(others)
        refused = beside(charges, self._pool.budget.purses)
        kept = {one: charge for one, charge in charges.items() if one not in refused}
        in_the_way = beside({**kept, model: own}, self._pool.budget.purses).get(model)
        if in_the_way is not None:
            raise LocalError(self._no_room(in_the_way), Code.OUT_OF_MEMORY)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._poked = trio.Event()
                wanted = await self._fitting()
                for model, scope in self._scopes.items():
                    if model not in wanted:
                        scope.cancel()
                for model in [one for one in wanted if one not in self._scopes]:
                    self._scopes[model] = trio.CancelScope()
                    nursery.start_soon(self._keep, model, self._scopes[model])
                with trio.move_on_after(_LOOK_SECONDS if self.problems else float("inf")):
                    await self._poked.wait()

    def poke(self) -> None:
        """The models on the disk, or their names, may have changed."""
        self._poked.set()

    async def _keep(self, model: str, scope: trio.CancelScope) -> None:
        pause = self._limits.pin_retry_seconds
        with scope:
            while model in self._models.list():
                try:
                    worker = await self._pool.hold(model)
                except AigridError as error:
                    log.warning("pinned_not_loaded", model=model, code=error.code.value)
                    await trio.sleep(max(pause, error.retry_after_seconds or 0.0))
                    pause = min(2 * pause, self._limits.pin_retry_max_seconds)
                    continue
                pause = self._limits.pin_retry_seconds
                await worker.died.wait()
        self._pool.let_go(model)
        del self._scopes[model]
        self.poke()

    def wanted(self) -> frozenset[str]:
        """Ids of the models here that shall stay loaded."""
        return frozenset(self._in_order())

    def _in_order(self) -> list[str]:
        """The same: those of the configuration, as it lists them, and then by when they came."""
        here = self._models.list()
        names = {model: {model, self._name_of(model)} for model in here} if self._configured else {}
        found = [model for pin in self._configured for model in here if pin in names[model]]
        return list(dict.fromkeys([*found, *(m for m in self._remembered() if m in here)]))

    async def _fitting(self) -> list[str]:
        """Those of them that may be loaded; why the others are not is said, in the log once."""
        wanted = self._in_order()
        purses = self._pool.budget.purses
        refused = beside(await self._known(wanted), purses)
        found = {self._called(model): self._no_room(others) for model, others in refused.items()}
        names = {name for model in wanted for name in (model, self._name_of(model))}
        for pin in dict.fromkeys([*self._configured, *self._remembered()]):
            if pin not in names:
                found[pin] = "no model of that name is here; if it comes, it is loaded"
        for pin, problem in found.items():
            if self.problems.get(pin) != problem:
                log.warning("pinned_not_loaded", pin=pin, reason=problem)
        self.problems = found
        return [model for model in wanted if model not in refused]

    async def _known(self, models: Iterable[str]) -> dict[str, Charge]:
        """What each would take; nothing where that cannot be said, for its load will tell why."""
        found: dict[str, Charge] = {}
        for model in models:
            try:
                found[model] = await self._charge(model)
            except AigridError as error:
                log.info("pinned_not_estimated", model=model, code=error.code.value)
                found[model] = {}
        return found

    async def _charge(self, model: str) -> Charge:
        budget = self._pool.budget
        known = self._charges.get(model)
        if known is None or known[0] != budget:
            known = self._charges[model] = budget, await self._charge_of(model)
        return known[1]

    def _called(self, model: str) -> str:
        return self._name_of(model) or model

    def _no_room(self, others: Collection[str]) -> str:
        if not others:
            return "it needs more memory than this node has for models"
        named = ", ".join(map(self._called, others))
        return f"it does not fit beside what is pinned ({named}): `aigrid models unpin` one of them"

    def _remembered(self) -> list[str]:
        found: list[str] = json.loads(self._local.get(_SETTING) or "[]")
        return found

    def _remember(self, pinned: list[str]) -> None:
        self._local.set(_SETTING, json.dumps(pinned))
        self.poke()
