"""What a node keeps of those who may call its gateway, in one place."""

from collections.abc import Callable
from typing import Any

from aigrid.metagraph.database import Database
from aigrid.node.discovery.grid import NowMs, RandomBytes
from aigrid.node.policy.api_keys import ApiKeys
from aigrid.node.policy.metering import Meter
from aigrid.node.policy.nonces import Nonces


class Access:
    """The keys, what was used with them, and which signed requests have been here.

    `gateway` describes the gateway for `status`, once there is one.
    """

    def __init__(
        self, database: Database, nonces: Nonces, *, random_bytes: RandomBytes, now_ms: NowMs
    ) -> None:
        self.keys = ApiKeys(database, random_bytes=random_bytes)
        self.meter = Meter(self.keys, now_ms=now_ms)
        self.nonces = nonces
        self.gateway: Callable[[], dict[str, Any]] = dict
