"""Which branches of the metagraph this node replicates, and which ones its peers do."""

from collections.abc import Callable

from aigrid.metagraph.branches import BRANCHES, EVERYBODYS, branches_of
from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.kinds import NO_BRANCH, Kind, NodeBody
from aigrid.protocol.messages import EVERYBODY
from aigrid.protocol.record import Record

_SPOKEN_OF = (Kind.MODEL, Kind.AVAILABILITY)
_ALL = frozenset(BRANCHES)


class Interests:
    """`chosen` by the operator (None: all), and whatever this node itself says something in.

    A node replicates the branches of its own manifests and offers, so that what it says is repaired
    like anything else there. `listeners` are called when the branches have become others.
    """

    def __init__(self, graph: Metagraph, *, chosen: frozenset[str] | None, now_ms: NowMs) -> None:
        self._graph = graph
        self._chosen = _ALL if chosen is None else chosen
        self._now_ms = now_ms
        self.listeners: list[Callable[[], None]] = []
        self.branches = self._chosen | self._spoken()
        graph.listeners.append(self._on_record)

    @property
    def everything(self) -> bool:
        return self.branches == _ALL

    def reaches_beyond(self, peer_id: str) -> bool:
        """Whether a peer may replicate what we do not."""
        theirs = self.of_peer(peer_id)
        return theirs is None or not theirs <= self.branches

    def takes_part(self, branch: str) -> bool:
        """Whether we replicate a branch; what is everybody's everybody does."""
        return branch == EVERYBODY or branch in self.branches

    def announced(self) -> tuple[str, ...]:
        """Our branches as our NodeRecord says them."""
        if self.everything:
            return ()
        return tuple(sorted(self.branches)) or (NO_BRANCH,)

    def of_peer(self, peer_id: str) -> frozenset[str] | None:
        """The branches of a peer by its NodeRecord; None where we have none."""
        record = self._graph.index.node(did_of_peer_id(peer_id), self._now_ms())
        if record is None or not isinstance(record.body, NodeBody):
            return None
        return _ALL.intersection(record.body.branches) if record.body.branches else _ALL

    def shared(self, peer_id: str) -> tuple[str | None, ...]:
        """What to reconcile with a peer, each by itself: branches, or (None,) for everything.

        One of which nothing is known may hold anything.
        """
        theirs = self.of_peer(peer_id)
        if self.everything and theirs in (None, _ALL):
            return (None,)
        common = self.branches if theirs is None else self.branches & theirs
        return (EVERYBODY, *sorted(common))

    def may_push(self, peer_id: str, branch: str | None) -> bool:
        """Whether a peer wants what it lacks of `branch`.

        About a single branch it says so itself, in its answer to `Reconcile`.
        """
        return branch is not None or self.of_peer(peer_id) == _ALL

    def _on_record(self, record: Record) -> None:
        if record.issuer == self._graph.own_did and record.kind in _SPOKEN_OF:
            branches = self._chosen | self._spoken()
            if branches != self.branches:
                self.branches = branches
                for listener in self.listeners:
                    listener()

    def _spoken(self) -> frozenset[str]:
        said = self._graph.live_records(self._now_ms(), issuer=self._graph.own_did)
        return EVERYBODYS.union(*(branches_of(r.body) for r in said if r.kind in _SPOKEN_OF))
