"""What this node says of itself: its NodeRecord and its offers, on change and at half-life."""

from collections.abc import Callable

import structlog
import trio

from aigrid.metagraph.branches import EVERYBODYS, branches_of, joined
from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.errors import AigridError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import KINDS, AvailabilityBody, Kind, NodeBody, Offer, Seed
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

log = structlog.get_logger()
_CHECK_SECONDS = 5.0
_SETTLE_SECONDS = 0.05


class Announcer:
    """`describe`, `offers` and `seeds` say what is so now; `poke` says that it may have changed.

    What cannot be said now (the clock was set back, the disk is full, a plug-in describes itself in
    a way that no record allows) is logged and tried again: none of it may end the node.
    """

    def __init__(
        self,
        graph: Metagraph,
        identity: Identity,
        *,
        describe: Callable[[], NodeBody],
        offers: Callable[[], tuple[Offer, ...]],
        seeds: Callable[[], tuple[Seed, ...]] = tuple,
        now_ms: NowMs,
    ) -> None:
        self._graph = graph
        self._identity = identity
        self._describe = describe
        self._offers = offers
        self._seeds = seeds
        self._now_ms = now_ms
        self._poke = trio.Event()
        self._last: dict[Kind, Record] = {}
        self._stopped = False

    def poke(self) -> None:
        self._poke.set()

    def start_over(self) -> None:
        """Say everything again: the grid is another one."""
        self._last.clear()
        self.poke()

    def announce(self) -> None:
        """Issue what changed or is past half its life."""
        if self._stopped:
            return
        self._issue(Kind.NODE, self._describe())
        offers, seeds = self._offers()[: LIMITS.offers_max], self._seeds()[: LIMITS.seeds_max]
        if offers or seeds:
            self._issue(Kind.AVAILABILITY, self._availability(offers, seeds))
        else:
            self._take_back()

    def withdraw(self) -> None:
        """Take our offers back: we are stopping."""
        self._stopped = True
        self._take_back()

    def _availability(self, offers: tuple[Offer, ...], seeds: tuple[Seed, ...]) -> AvailabilityBody:
        """Our offers, for whoever replicates one of their branches, or one of those before.

        Otherwise who replicates only a branch in which we offer nothing any more would go on
        believing the record that said we do.
        """
        now_ms, own = self._now_ms(), self._identity.did
        named = {o.manifest for o in offers} | {s.manifest for s in seeds}
        manifests = [self._graph.index.manifest(manifest, now_ms) for manifest in sorted(named)]
        parts = [EVERYBODYS if m is None else branches_of(m.body) for m in manifests]
        said = self._graph.store.newest((own, Kind.AVAILABILITY.value, own))
        if said is not None and not said.withdrawn and said.valid_until_ms > now_ms:
            parts.append(branches_of(said.body))
        branches = tuple(sorted(joined(parts)))
        return AvailabilityBody(id=own, offers=offers, branches=branches, seeds=seeds)

    def _take_back(self) -> None:
        """What nobody offers need not be said: a withdrawal reaches everybody, once."""
        self._last.pop(Kind.AVAILABILITY, None)
        try:
            self._graph.withdraw(
                Kind.AVAILABILITY, self._identity.did, self._identity, now_ms=self._now_ms()
            )
        except AigridError as error:
            log.warning("offers_not_withdrawn", code=error.code.value, reason=error.message)

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        self._recall()
        self.announce()
        task_status.started()
        while True:
            with trio.move_on_after(_CHECK_SECONDS):
                await self._poke.wait()
                await trio.sleep(_SETTLE_SECONDS)  # several changes at once make one record
            self._poke = trio.Event()
            self.announce()

    def _recall(self) -> None:
        """After a restart: what we said of ourselves then and would say now need not be repeated.

        Else everybody would have something new of everybody once a whole grid is up again.
        """
        own = self._identity.did
        said = self._graph.store.newest((own, Kind.NODE.value, own))
        if said is not None and said.valid_until_ms > self._now_ms():
            self._last.setdefault(Kind.NODE, said)

    def _issue(self, kind: Kind, body: NodeBody | AvailabilityBody) -> None:
        now_ms = self._now_ms()
        last = self._last.get(kind)
        ttl_ms = KINDS[kind].ttl_seconds * 1000
        if last is not None and last.body == body and last.valid_until_ms - now_ms >= ttl_ms // 2:
            return
        try:
            self._last[kind] = self._graph.issue(
                kind, body, self._identity, now_ms=now_ms, ttl_ms=ttl_ms
            )
        except AigridError as error:
            log.warning(
                "not_announced", kind=kind.value, code=error.code.value, reason=error.message
            )
