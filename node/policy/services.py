"""What a node needs to decide about others and itself, put together."""

from typing import Protocol

from aigrid.metagraph.graph import Metagraph
from aigrid.node.config import NodeConfig
from aigrid.node.network.streams import RpcClient
from aigrid.node.policy.deciding import Decider, Place
from aigrid.node.policy.explaining import Foresight
from aigrid.node.policy.giving import Giving
from aigrid.node.policy.wallet import Entries, Wallet
from aigrid.node.world import World
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
        config: NodeConfig,
        rpc: RpcClient,
        world: World,
    ) -> None:
        now_ms, place = world.now_ms, Place(identity.did, config.region, config.operator)
        self.decider = Decider(graph, own=place, statuses=statuses.known, now_ms=now_ms)
        self.wallet = Wallet(
            graph.store.database,
            identity,
            entries=statuses,
            now_ms=now_ms,
            random_bytes=world.random_bytes,
        )
        self.giving = Giving(self.wallet, rpc, world.transport)
        self.foresight = Foresight(identity, graph, self.decider, self.wallet, now_ms=now_ms)
