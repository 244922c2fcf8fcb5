"""What a member may ask over RPC, and which service answers."""

from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.discovery.typed_query import TypedQueries
from aigrid.node.discovery.vitals import VitalSigns
from aigrid.node.mesh.serving import Serving
from aigrid.node.mesh.weights.giving import WeightsGiving
from aigrid.node.network.streams import Send
from aigrid.node.policy.giving import Giving
from aigrid.protocol.messages import (
    Fetch,
    Find,
    Give,
    Infer,
    Ping,
    Pong,
    Push,
    Reconcile,
    Weights,
    decode_rpc_request,
    encode,
)
from aigrid.protocol.vitals import Examine


class Inbound:
    """The handler of `/aigrid/rpc/1`; raises AigridError, which crosses as an error frame."""

    def __init__(
        self,
        sync: RecordSync,
        queries: TypedQueries,
        serving: Serving,
        giving: Giving,
        weights: WeightsGiving,
        *,
        vitals: VitalSigns,
        now_ms: NowMs,
    ) -> None:
        self._sync = sync
        self._queries = queries
        self._serving = serving
        self._giving = giving
        self._weights = weights
        self._vitals = vitals
        self._now_ms = now_ms

    async def handle(self, peer_id: str, body: bytes, send: Send) -> None:
        message = decode_rpc_request(body)
        if isinstance(message, Ping):
            await send(encode(Pong(self._now_ms(), self._serving.running, self._serving.waiting)))
        elif isinstance(message, Reconcile | Fetch | Push):
            await self._sync.serve(peer_id, message, send)
        elif isinstance(message, Find):
            await self._queries.serve(peer_id, message, send)
        elif isinstance(message, Infer):
            await self._serving.serve(peer_id, message, send)
        elif isinstance(message, Give):
            await self._giving.serve(peer_id, message, send)
        elif isinstance(message, Weights):
            await self._weights.serve(peer_id, message, send)
        elif isinstance(message, Examine):
            await self._vitals.serve(peer_id, message, send)
