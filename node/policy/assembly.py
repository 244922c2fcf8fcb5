"""The room put together: what the rest of the node needs of it."""

from collections.abc import Callable

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs, RandomBytes
from aigrid.node.network.streams import RpcClient
from aigrid.node.policy.access import Access
from aigrid.node.policy.admission import Admission
from aigrid.node.policy.budgets import Budgets
from aigrid.node.policy.deciding import Decider, Place
from aigrid.node.policy.explaining import Foresight
from aigrid.node.policy.giving import Giving, Reachable
from aigrid.node.policy.nonces import Nonces
from aigrid.node.policy.presenting import Presenter
from aigrid.node.policy.receipts import Receipts
from aigrid.node.policy.statuses import StatusKeeper
from aigrid.node.policy.wallet import Wallet
from aigrid.node.settings.config import NodeConfig
from aigrid.protocol.identity import Identity
from aigrid.protocol.record import Record


class Policy:
    """Credentials, decisions and receipts of one node.

    `manifest_of(model)` is the manifest by which this node has a model's weights.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        identity: Identity,
        graph: Metagraph,
        statuses: StatusKeeper,
        manifest_of: Callable[[str], Record | None],
        rpc: RpcClient,
        transport: Reachable,
        now_ms: NowMs,
        random_bytes: RandomBytes,
    ) -> None:
        database = graph.store.database
        self.statuses = statuses
        self.wallet = Wallet(
            database, identity, entries=statuses, now_ms=now_ms, random_bytes=random_bytes
        )
        self.receipts = Receipts(database, own_did=identity.did, now_ms=now_ms)
        self.giving = Giving(self.wallet, rpc, transport)
        self.nonces = Nonces(database)
        self.access = Access(database, self.nonces, random_bytes=random_bytes, now_ms=now_ms)
        self.budgets = Budgets(database, now_ms=now_ms)
        self.decider = Decider(
            graph,
            own=Place(identity.did, config.region, config.operator),
            statuses=statuses.known,
            now_ms=now_ms,
        )
        self.foresight = Foresight(
            identity,
            graph,
            self.decider,
            self.wallet,
            trusted_publishers=config.trusted_publishers,
            accepts=config.accept_licenses,
            now_ms=now_ms,
        )
        self.admission = Admission(
            self.decider,
            manifest_of=manifest_of,
            nonces=self.nonces,
            budgets=self.budgets,
            now_ms=now_ms,
        )
        self.presenter = Presenter(
            identity,
            graph,
            self.foresight,
            accepts=config.accept_licenses,
            now_ms=now_ms,
            random_bytes=random_bytes,
        )

    def keep_receipt(self, record: Record, salt: bytes, peer: str) -> None:
        """Of a segment that this node served to `peer`, a DID."""
        self.receipts.served(record, salt, peer=peer)
