"""What may be done about a refusal, so that the same node is worth asking once more."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from aigrid.metagraph.index import Candidate, Index
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.routing.answer import Segment
from aigrid.node.mesh.routing.summoning import Place
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.network.streams import RpcClient
from aigrid.node.observing.trace import NO_TRACE, Trace
from aigrid.node.policy.caller import Caller
from aigrid.node.policy.presenting import Presented, Presenter
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Push, encode

_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Asking:
    """A request, whose it is, and the salt in the hashes of all its segments.

    `refusals`: what nodes said whose operators serve others than members. `repeated`: nodes that
    were asked a second time. `waited`: those on whose new offers it has waited, which is done once.
    `ended`: segments that failed before their first chunk. `waiting`: for whoever waits for it;
    `patience_seconds`: how long, where nobody serves it; `place`: among others who wait for
    the same. `trace`: what the spans of its attempts hang from. `capability`: that was asked for.
    """

    request: InferRequest
    request_id: str
    caller: Caller
    salt: bytes
    refusals: dict[str, str] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    waited: set[str] = field(default_factory=set)
    ended: list[Segment] = field(default_factory=list)
    waiting: Waiting = field(default_factory=Waiting)
    patience_seconds: float = LIMITS.patience_seconds
    trace: Trace = NO_TRACE
    place: Place = field(default_factory=lambda: Place(trio.current_time()))
    capability: str = ""


class Mending:
    """`index` gives the one of the grid that this node is in now."""

    def __init__(
        self, presenter: Presenter, rpc: RpcClient, *, index: Callable[[], Index], now_ms: NowMs
    ) -> None:
        self._presenter = presenter
        self._rpc = rpc
        self._index = index
        self._now_ms = now_ms

    async def again(
        self, candidate: Candidate, error: AigridError, presented: Presented | None, asking: Asking
    ) -> Candidate | None:
        """What to ask of the same node now, once; None where it would only say the same."""
        if presented is None or candidate.node in asking.repeated:
            return None
        asking.repeated.add(candidate.node)
        if error.code is Code.WRONG_MANIFEST:
            return await self._newer(candidate, asking)
        if not isinstance(error, RemoteError):
            return None
        if error.code is Code.REPLAYED:
            return candidate  # the stream broke, and RPC sent it a second time
        if error.code is Code.NOT_SERVED and not presented.has_chain:
            asking.refusals[candidate.node] = error.message  # it may serve for some grant
            return candidate if self._presenter.has_chains(asking.caller) else None
        if error.code is Code.STATUS_STALE:
            return await self._brought(candidate, presented)
        return None

    async def _newer(self, candidate: Candidate, asking: Asking) -> Candidate | None:
        """Its manifest was issued anew: the offer that says so is on its way, or here already.

        Nodes that say so and make no offer do not hold a request up one after the other.
        """
        wait_seconds = 0.0 if asking.waited else LIMITS.offer_seconds
        asking.waited.add(candidate.node)
        with trio.move_on_after(wait_seconds):
            while True:
                offers = self._index().offers_of_model(candidate.model, self._now_ms())
                for one in offers:
                    if one.node == candidate.node and one.manifest != candidate.manifest:
                        return one
                await trio.sleep(_LOOK_SECONDS)
        return None

    async def _brought(self, candidate: Candidate, presented: Presented) -> Candidate | None:
        """It hears of no recent status lists: these are the ones that we know."""
        push = Push(self._presenter.evidence(presented))
        try:
            await self._rpc.ask(
                candidate.node, encode(push), silence_seconds=LIMITS.rpc_timeout_seconds
            )
        except RemoteError:
            return None
        return candidate
