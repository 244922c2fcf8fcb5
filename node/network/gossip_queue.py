"""What waits for one peer in gossip, bounded by bytes as well as by number.

The library bounds the number only. Whoever does not read, and has much asked of it or sent to it,
would have a megabyte kept for each.
"""

from typing import Any

from libp2p.pubsub.rpc_queue import PriorityQueue

from aigrid.protocol.limits import LIMITS


class BoundedQueue(PriorityQueue):  # type: ignore[misc]  # the library is untyped
    """Stands in for the library's within its `RpcQueue`; entries are frames or messages."""

    def __init__(self, waiting: Any) -> None:
        """Takes over what waits in the library's."""
        super().__init__(LIMITS.gossip_queue_max)
        self.size_bytes = 0
        while (entry := waiting.pop()) is not None:
            self.push(entry)

    def push(self, rpc: Any, priority: bool = False) -> bool:  # noqa: FBT001, FBT002 - the library's signature
        """False if there is no room. One alone has room whatever its size."""
        size = _size_bytes(rpc)
        if len(self) and self.size_bytes + size > LIMITS.gossip_queue_bytes:
            return False
        if not super().push(rpc, priority):
            return False
        self.size_bytes += size
        return True

    def pop(self) -> Any:
        entry = super().pop()
        if entry is not None:
            self.size_bytes -= _size_bytes(entry)
        return entry


def _size_bytes(entry: Any) -> int:
    return len(entry) if isinstance(entry, bytes) else int(entry.ByteSize())
