"""What is remembered of attempts: at once by the peer's state, for days by whoever learns."""

from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from aigrid.metagraph.index import Candidate
from aigrid.node.discovery.peers import Peers
from aigrid.node.mesh.routing.beginning import LateError
from aigrid.node.mesh.routing.mending import Asking
from aigrid.node.mesh.routing.remote_answer import RemoteAnswer
from aigrid.node.mesh.routing.segment import AskedSegment
from aigrid.node.mesh.routing.verdict import BROKEN, ENGINE_DIED, is_busy, is_its_fault
from aigrid.node.mesh.serving import ServedAnswer
from aigrid.protocol.errors import AigridError, RemoteError
from aigrid.protocol.inference import InferRequest, TextRequest

log = structlog.get_logger()


class Learner(Protocol):
    """See `node.learning`."""

    def note(
        self,
        peer_id: str,
        model: str,
        capability: str,
        *,
        served: bool,
        latency_ms: float | None = None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Noting:
    """Notes how attempts went; this node's own are of no interest to `peers`."""

    own_peer_id: str
    peers: Peers
    learner: Learner | None

    def failed(
        self, candidate: Candidate, asking: Asking, error: AigridError, asked_seconds: float
    ) -> None:
        """It was asked then, and refused or failed before its first chunk."""
        log.info(
            "candidate_failed", peer=candidate.node, model=candidate.model, code=error.code.value
        )
        if is_its_fault(error) or error.code in ENGINE_DIED:
            self._learn(candidate, asking, served=False)
        if not isinstance(error, RemoteError):
            return
        now, observed = trio.current_time(), self.peers.seen(candidate.node)
        if isinstance(error, LateError):
            observed.stalled(candidate.model, now)
        if is_its_fault(error):
            self.peers.failed(candidate.node, asked_seconds, broke=error.code in BROKEN)
        elif is_busy(error):
            slots = candidate.slots if candidate.state == "warm" else 0
            observed.busy(candidate.model, error.retry_after_seconds, now, slots=slots)

    def began(
        self,
        candidate: Candidate,
        request: InferRequest,
        batches: RemoteAnswer | ServedAnswer,
        waited_ms: float,
    ) -> float | None:
        """Its first chunk has come after so long; gives that back where it is a measure."""
        usual = not (_goes_on(request) or _was_loading(candidate, batches))
        latency_ms = waited_ms if usual else None
        if candidate.node != self.own_peer_id:
            self.peers.seen(candidate.node).began(candidate.model, latency_ms)
        return latency_ms

    def ended(
        self, candidate: Candidate, asking: Asking, segment: AskedSegment, latency_ms: float | None
    ) -> None:
        """Its segment is over: finished, failed, or given up, which says nothing of it."""
        if segment.finished:
            self._learn(candidate, asking, served=True, latency_ms=latency_ms)
        elif segment.failed:
            self._learn(candidate, asking, served=False)
        if candidate.node == self.own_peer_id:
            return
        observed = self.peers.seen(candidate.node)
        if segment.finished:
            observed.succeeded()
        if segment.token_ms is not None:
            observed.produced(segment.model, segment.token_ms)

    def _learn(
        self,
        candidate: Candidate,
        asking: Asking,
        *,
        served: bool,
        latency_ms: float | None = None,
    ) -> None:
        if self.learner is None:
            return
        capability = asking.capability or candidate.capabilities[0]
        self.learner.note(
            candidate.node, candidate.model, capability, served=served, latency_ms=latency_ms
        )


def _goes_on(request: InferRequest) -> bool:
    """What was said before is computed anew, so the wait is not that for any other answer."""
    return isinstance(request, TextRequest) and bool(request.continued_ids)


def _was_loading(candidate: Candidate, batches: RemoteAnswer | ServedAnswer) -> bool:
    """A cold start says nothing of the next answer, which finds the model loaded."""
    if isinstance(batches, RemoteAnswer):
        return batches.was_loading
    return candidate.state != "warm"
