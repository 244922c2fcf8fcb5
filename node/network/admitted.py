"""The peers that are members, as a transport's gate knows them."""


class Admitted:
    """PeerIds. `all` is the same object until they change: it is copied once, not each time.

    It is asked for with every ping, and whoever kept it knows by it that nothing has changed.
    """

    def __init__(self, own_peer_id: str) -> None:
        self._peer_ids = {own_peer_id}
        self._all: frozenset[str] | None = None

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._peer_ids

    @property
    def all(self) -> frozenset[str]:
        if self._all is None:
            self._all = frozenset(self._peer_ids)
        return self._all

    def add(self, peer_id: str) -> None:
        if peer_id not in self._peer_ids:
            self._peer_ids.add(peer_id)
            self._all = None

    def discard(self, peer_id: str) -> None:
        if peer_id in self._peer_ids:
            self._peer_ids.discard(peer_id)
            self._all = None
