"""Asking one holder for a part of a model's files, and what it answers held to what was asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Seeder
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.network.streams import RpcClient
from aigrid.node.network.transport import PeerAddress
from aigrid.node.policy.presenting import Presented, Presenter
from aigrid.protocol.chunks import Part
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.kinds import NodeBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Piece, Push, Weights, decode_rpc_answer, encode
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record


class WeightsAsking:
    """For one fetch: presents what is enough, and reads pieces."""

    def __init__(
        self,
        graph: Metagraph,
        rpc: RpcClient,
        peers: Peers,
        presenter: Presenter,
        *,
        now_ms: NowMs,
    ) -> None:
        self._graph = graph
        self._rpc = rpc
        self._peers = peers
        self._presenter = presenter
        self._now_ms = now_ms
        self._refusals: dict[str, str] = {}  # by DID: what nodes said that serve for a grant
        self._shown: dict[str, Presented] = {}  # by DID, the last one

    async def whole(self, seeder: Seeder, manifest: Record, part: Part, size: int) -> bytes:
        """A part of exactly `size` bytes, such as a chunk list.

        Raises:
            RemoteError: what the holder said, or that it does not keep to the protocol.
            PolicyDeniedError: whatever this node could show would not be enough.
        """
        found = bytearray()
        with trio.move_on_after(LIMITS.fetch_list_seconds) as scope:
            async with self.pieces(seeder, manifest, part) as pieces:
                while data := await pieces.next():
                    found += data
                    if len(found) > size:
                        raise RemoteError("more than was asked for", peer=seeder.node)
        if scope.cancelled_caught:
            raise RemoteError("it sends too slowly", Code.TIMEOUT, peer=seeder.node)
        if len(found) != size:
            raise RemoteError("less than was asked for", peer=seeder.node)
        return bytes(found)

    @asynccontextmanager
    async def pieces(self, seeder: Seeder, manifest: Record, part: Part) -> AsyncIterator["Pieces"]:
        """What a holder sends. Raises as `whole`."""
        await self._connect(seeder)
        refusal = self._refusals.get(seeder.signer)
        shown = self._presenter.present_fetch(manifest, part, seeder.signer, refusal=refusal)
        self._shown[seeder.signer] = shown
        model = manifest.subject.removeprefix(MODEL_URN)
        message = encode(Weights(model, manifest.content_id, part, shown.salt, shown.raw))
        with self._peers.while_alive(seeder.node):
            async with self._rpc.call(
                seeder.node, message, silence_seconds=LIMITS.fetch_silence_seconds
            ) as bodies:
                yield Pieces(bodies, seeder.node)

    async def mend(self, seeder: Seeder, error: AigridError) -> bool:
        """Do what may be done about a refusal; whether to ask this holder once more."""
        shown = self._shown.get(seeder.signer)
        if shown is None or not isinstance(error, RemoteError):
            return False
        if error.code is Code.REPLAYED:
            return True  # the stream broke, and RPC sent it a second time
        if error.code is Code.NOT_SERVED and not shown.has_chain:
            self._refusals[seeder.signer] = error.message  # it may serve for some grant
            return True
        if error.code is Code.STATUS_STALE:  # these lists are the newest that we know
            push = encode(Push(self._presenter.evidence(shown)))
            try:
                await self._rpc.ask(seeder.node, push, silence_seconds=LIMITS.rpc_timeout_seconds)
            except RemoteError:
                return False
            return True
        return False

    async def _connect(self, seeder: Seeder) -> None:
        if self._peers.alive(seeder.node):
            return
        node = self._graph.index.node(seeder.signer, self._now_ms())
        body = None if node is None else node.body
        addresses = body.addresses if isinstance(body, NodeBody) else ()
        if not await self._peers.contact(PeerAddress(seeder.node, addresses)):
            raise RemoteError("the node cannot be reached", Code.UNREACHABLE, peer=seeder.node)


class Pieces:
    """The pieces of one answer; none of them is empty, and none but the last one a crumb."""

    def __init__(self, bodies: AsyncIterator[bytes], peer: str) -> None:
        self._bodies = bodies
        self._peer = peer
        self._ended = False

    async def next(self) -> bytes:
        """The next one; b"" at the end. Raises RemoteError."""
        body = await anext(self._bodies, b"")
        if not body:
            return b""
        answer = decode_rpc_answer(body)
        if not isinstance(answer, Piece) or not answer.data or self._ended:
            raise RemoteError("an answer that was not asked for", peer=self._peer)
        self._ended = len(answer.data) < LIMITS.weights_piece_min_bytes
        return answer.data
