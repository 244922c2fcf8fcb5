"""Credentials that nodes hand to each other: whoever issues one sends it to its holder's node."""

from typing import Protocol

import trio

from aigrid.metagraph.quota import TokenBuckets
from aigrid.node.network.streams import RpcClient, Send
from aigrid.node.policy.links import Chain
from aigrid.node.policy.wallet import Wallet
from aigrid.protocol.errors import AigridError, Code, LocalError, RemoteError, VerificationError
from aigrid.protocol.identity import peer_id_of_did
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Give, Given, decode_rpc_answer, encode


class Reachable(Protocol):
    """See `Transport`."""

    def connected(self) -> frozenset[str]: ...


class Giving:
    """Takes what peers give, a few at a time, and gives to peers that are connected."""

    def __init__(self, wallet: Wallet, rpc: RpcClient, transport: Reachable) -> None:
        self._wallet = wallet
        self._rpc = rpc
        self._transport = transport
        self._rates = TokenBuckets(burst=LIMITS.gives_burst, per_second=LIMITS.gives_per_second)

    async def serve(self, peer_id: str, message: Give, send: Send) -> None:
        """Keep what a peer gives.

        Raises:
            LocalError: `rate_limited`, `over_quota`.
            VerificationError, PolicyDeniedError: it is nothing for this node.
        """
        wait_seconds = self._rates.take(peer_id, trio.current_time())
        if wait_seconds:
            text = "too many credentials at once"
            raise LocalError(text, Code.RATE_LIMITED, retry_after_seconds=wait_seconds)
        self._wallet.take(message.credentials, given_by=peer_id)
        await send(encode(Given(kept=True)))

    async def give(self, chain: Chain) -> str:
        """Send a credential to its holder's node; why it was not kept there, or ""."""
        try:
            peer_id = peer_id_of_did(chain[-1].subject)
        except VerificationError as error:
            return error.message
        if peer_id not in self._transport.connected():
            return "no node with that key is connected"
        request = encode(Give(tuple(link.raw for link in chain)))
        try:
            answer = decode_rpc_answer(
                await self._rpc.ask(peer_id, request, silence_seconds=LIMITS.rpc_timeout_seconds)
            )
            if not isinstance(answer, Given):
                raise RemoteError("the answer is not about a credential", peer=peer_id)
        except AigridError as error:
            return f"{error.code.value}: {error.message}"
        return "" if answer.kept else "its node did not keep it"
