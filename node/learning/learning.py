"""The memory of how requests went: kept in the data directory, read by selection, told if asked."""

from collections.abc import Callable, Collection, Mapping

import structlog
import trio

from aigrid.metagraph.evidence import Evidence
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.local import LocalState
from aigrid.metagraph.selection import Outcomes
from aigrid.node.discovery.grid import NowMs
from aigrid.node.learning.ledger import Ledger
from aigrid.node.learning.names import NO_PINS, Names
from aigrid.node.learning.pace import Paces
from aigrid.node.learning.trust import word_of
from aigrid.node.settings.trust import TrustConfig
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.evidence import AuditBody
from aigrid.protocol.identity import Identity, did_of_peer_id, peer_id_of_did
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

log = structlog.get_logger()
_PREFIX = "learned/"
_WRONG_LATELY = 0.5  # of a wrong answer, as it fades


class Learning:
    """A service that writes down now and then what was noted; what is not written is forgotten.

    Attributes:
        ledger: what is remembered.
        names: what names of models mean here.
        paces: how long answers took since this node was started.
        reputations: of a node, by DID, from 0 to 1; set by whoever audits.
    """

    def __init__(
        self,
        local: LocalState,
        graph: Metagraph,
        *,
        identity: Identity,
        trust: TrustConfig,
        tells: bool,
        now_ms: NowMs,
        trusted: Collection[str] = (),
        pinned: Mapping[str, str] = NO_PINS,
    ) -> None:
        """Read what was written. `tells`: whether others are told now and then, unasked.

        `trusted`, `pinned`: publishers and names of models, see `Names`.
        """
        self._local = local
        self._graph = graph
        self._identity = identity
        self._trust = trust
        self._tells = tells
        self._now_ms = now_ms
        self._unsaved: set[str] = set()
        self._untold: set[str] = set()
        self._told_seconds = 0.0
        self._evidence: tuple[Evidence, tuple[int, int], float] | None = None
        self.names = Names(
            local,
            graph,
            trusted=trusted,
            pinned=pinned,
            word=lambda: word_of(trust, graph, now_ms()),
            now_ms=now_ms,
        )
        self.ledger = Ledger()
        self.paces = Paces()
        self.reputations: Callable[[str], float] = lambda _: 1.0
        self._read()

    def note(
        self,
        peer_id: str,
        model: str,
        capability: str,
        *,
        served: bool,
        latency_ms: float | None = None,
    ) -> None:
        """See `Ledger.note`."""
        self._changed(
            peer_id,
            self.ledger.note(
                peer_id,
                model,
                capability,
                served=served,
                latency_ms=latency_ms,
                now_ms=self._now_ms(),
            ),
        )

    def misfit(self, peer_id: str, model: str, capability: str) -> None:
        """See `Ledger.misfit`."""
        now_ms = self._now_ms()
        self._changed(peer_id, self.ledger.misfit(peer_id, model, capability, now_ms=now_ms))

    def audited(self, peer_id: str, model: str, capability: str, *, wrong: bool) -> None:
        """See `Ledger.audited`."""
        now_ms = self._now_ms()
        forgotten = self.ledger.audited(peer_id, model, capability, wrong=wrong, now_ms=now_ms)
        self._changed(peer_id, forgotten)

    def withheld(self, peer_id: str) -> None:
        """See `Ledger.withheld`."""
        self.ledger.withheld(peer_id, self._now_ms())
        self._unsaved.add(peer_id)

    def standing(self, peer_id: str) -> float:
        """See `Ledger.standing`; as of now."""
        return self.ledger.standing(peer_id, self._now_ms())

    def outcomes(self, peer_id: str, capability: str) -> Mapping[str, Outcomes]:
        """What came of requests to a node, by model; `capability` "" for all of them."""
        now_ms, above = self._now_ms(), self._graph.index.concepts.ancestors

        def is_of(tried: str) -> bool:
            return capability in {"", tried} or above(tried).get(capability, 0) > now_ms

        return self.ledger.outcomes(peer_id, now_ms, is_of)

    def evidence(self) -> Evidence:
        """Of quality and reputation, as of now; made anew when it has changed, or is old.

        Members may claim much: it is not gone through for each request.
        """
        index, now_ms, now = self._graph.index, self._now_ms(), trio.current_time()
        state = index.claims.changes, index.audits.changes
        if self._evidence is not None:
            made, before, made_seconds = self._evidence
            if before == state and now - made_seconds < LIMITS.evidence_seconds:
                return made
        made = Evidence(
            index.claims,
            now_ms,
            index.audits,
            trust=word_of(self._trust, self._graph, now_ms),
            owners=lambda model: frozenset(
                record.issuer for record in index.manifests_of(model, now_ms)
            ),
            above=index.concepts.ancestors,
            reputations=lambda did: self.reputations(did),  # noqa: PLW0108 - set later
            faulted=self._faulted,
        )
        self._evidence = made, state, now
        return made

    def _faulted(self, did: str) -> bool:
        """Whether audits here found the node wrong, lately."""
        try:
            peer_id = peer_id_of_did(did)
        except AigridError:
            return False
        return self.ledger.audits(peer_id, self._now_ms())[1] >= _WRONG_LATELY

    def told(self) -> set[str]:
        """The DIDs of which an AuditRecord of this node is live."""
        said = self._graph.live_records(self._now_ms(), issuer=self._identity.did)
        return {record.subject for record in said if record.kind is Kind.AUDIT}

    def tell(self, peer_id: str, told: set[str] | None = None) -> Record | None:
        """Sign what was found of a node; None where that is nothing, or it is this node.

        `told`: as `told` gives it, for whoever tells of many; the node is added.

        Raises:
            AigridError: it cannot be issued now; `over_quota`: of another node, for this one speaks
                of as many as it may.
        """
        did, now_ms = did_of_peer_id(peer_id), self._now_ms()
        findings = self.ledger.findings(peer_id, now_ms)
        if not findings or did == self._identity.did:
            return None
        told = self.told() if told is None else told
        if did not in told and len(told) >= LIMITS.audits_own_max:
            raise LocalError(
                f"this node tells of {len(told)} others, which is as many as it may: wait until "
                "some of its AuditRecords end",
                Code.OVER_QUOTA,
            )
        told.add(did)
        body = AuditBody(id=did, findings=findings)
        ttl_ms = LIMITS.audit_ttl_seconds * 1000
        return self._graph.issue(Kind.AUDIT, body, self._identity, now_ms=now_ms, ttl_ms=ttl_ms)

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        self._told_seconds = trio.current_time()
        try:
            while True:
                await trio.sleep(LIMITS.learned_save_seconds)
                self._save()
                if self._tells:
                    self._tell_some()
        finally:
            self._save()

    def _changed(self, peer_id: str, forgotten: tuple[str, ...]) -> None:
        self._unsaved |= {peer_id, *forgotten}
        if self._tells:
            self._untold.add(peer_id)
            self._untold.difference_update(forgotten)

    def _save(self) -> None:
        """What cannot be written is tried again with what comes next."""
        kept = set(self.ledger.peers())
        try:
            for peer_id in sorted(self._unsaved):
                if peer_id in kept:
                    self._local.set(_PREFIX + peer_id, self.ledger.dump(peer_id))
                else:
                    self._local.remove(_PREFIX + peer_id)
        except AigridError as error:
            log.warning("learned_not_saved", code=error.code.value, reason=error.message)
        else:
            self._unsaved.clear()

    def _read(self) -> None:
        for name, text in self._local.all(_PREFIX):
            try:
                self.ledger.load(name.removeprefix(_PREFIX), text)
            except ValueError:
                log.warning("learned_not_read", peer=name.removeprefix(_PREFIX))
                self._local.remove(name)

    def _tell_some(self) -> None:
        """Of nodes of which something new was noted, once per period, a bounded number."""
        if trio.current_time() - self._told_seconds < LIMITS.learned_tell_seconds:
            return
        self._told_seconds = trio.current_time()
        newest = [peer for peer in reversed(self.ledger.peers()) if peer in self._untold]
        self._untold.clear()
        told = self.told()
        for peer_id in newest[: LIMITS.audits_own_max]:
            try:
                self.tell(peer_id, told)
            except AigridError as error:
                log.info("experience_not_told", peer=peer_id, code=error.code.value)
