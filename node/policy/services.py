"""What a node needs to decide about others and itself, put together."""

from collections.abc import Callable
from typing import Protocol

from aigrid.metagraph.graph import Metagraph
from aigrid.node.network.streams import RpcClient
from aigrid.node.policy.deciding import Decider, Place
from aigrid.node.policy.explaining import Foresight
from aigrid.node.policy.giving import Giving, Reachable
from aigrid.node.policy.wallet import Entries, Wallet
from aigrid.protocol.identity import Identity
from aigrid.protocol.status import Statuses


class Revocations(Entries, Protocol):
    """See `StatusKeeper`."""

    def known(self) -> Statuses: ...


class PolicyServices:
    """The decision, the wallet, and what stands between them and the grid."""

    def __init__(
        self,
        identity: Identity,
        graph: Metagraph,
        statuses: Revocations,
        *,
        place: Place,
        rpc: RpcClient,
        transport: Reachable,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.decider = Decider(graph, own=place, statuses=statuses.known, now_ms=now_ms)
        self.wallet = Wallet(
            graph.store.database,
            identity,
            entries=statuses,
            now_ms=now_ms,
            random_bytes=random_bytes,
        )
        self.giving = Giving(self.wallet, rpc, transport)
        self.foresight = Foresight(identity, graph, self.decider, self.wallet, now_ms=now_ms)
