"""Where members were last reached: kept apart from their records, which expire within minutes.

After a night in which every node slept, all NodeRecords are gone; these addresses bring the grid
back together. They are hints: whoever answers there must prove its key and its membership.
"""

import random

import msgspec
import structlog

from aigrid.metagraph.local import LocalState
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.errors import UsageError
from aigrid.protocol.identity import peer_id_of_did
from aigrid.protocol.limits import LIMITS

log = structlog.get_logger()
_PREFIX = "address/"
_TOGETHER = "addresses"  # where earlier versions kept all of them, which each new one rewrote
_decoder = msgspec.json.Decoder(tuple[int, tuple[str, ...]])
_together = msgspec.json.Decoder(dict[str, tuple[str, ...]])


class KnownPeers:
    """PeerId -> addresses, persisted; the least recently learned are forgotten first.

    `bootstrap` are multiaddrs with `/p2p/`, dialled whether or not they are members yet; this
    node's own may be among them, so that one list can be given to every node.
    """

    def __init__(self, local: LocalState, *, own_peer_id: str, bootstrap: tuple[str, ...]) -> None:
        self._local = local
        self._own_peer_id = own_peer_id
        given = map(_parse, bootstrap)
        self._bootstrap = tuple(peer for peer in given if peer.peer_id != own_peer_id)
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._learned = 0
        self._load()

    @property
    def bootstrap(self) -> tuple[PeerAddress, ...]:
        """What the operator named."""
        return self._bootstrap

    def learn(self, did: str, addresses: tuple[str, ...]) -> bool:
        """Remember what a member's NodeRecord says; whether it is elsewhere than it was."""
        peer_id = peer_id_of_did(did)
        if peer_id == self._own_peer_id or self._addresses.get(peer_id) == addresses:
            return False
        self._addresses.pop(peer_id, None)
        self._addresses[peer_id] = addresses
        try:
            self._keep(peer_id)
            while len(self._addresses) > LIMITS.peers_known_max:
                oldest = next(iter(self._addresses))
                del self._addresses[oldest]
                self._local.remove(_PREFIX + oldest)
        except UsageError as error:  # a hint for the next start: no reason to refuse the record
            log.warning("addresses_not_kept", code=error.code.value, reason=error.message)
        return True

    def address_of(self, peer_id: str) -> PeerAddress | None:
        """Where a peer was last; None where that is not known."""
        addresses = self._addresses.get(peer_id)
        return PeerAddress(peer_id, addresses) if addresses else None

    def _keep(self, peer_id: str) -> None:
        """One row for each peer: what is written does not grow with the grid."""
        self._learned += 1
        said = msgspec.json.encode((self._learned, self._addresses[peer_id]))
        self._local.set(_PREFIX + peer_id, said.decode())

    def _load(self) -> None:
        rows = self._local.all(_PREFIX)
        stored = [(*_decoder.decode(text), name.removeprefix(_PREFIX)) for name, text in rows]
        for self._learned, addresses, peer_id in sorted(stored, key=lambda one: one[0]):
            if peer_id != self._own_peer_id:
                self._addresses[peer_id] = addresses
        together = self._local.get(_TOGETHER)
        if together is None:
            return
        for peer_id, addresses in _together.decode(together).items():
            self._addresses[peer_id] = addresses
            self._keep(peer_id)
        self._local.remove(_TOGETHER)

    def addresses(
        self, members: frozenset[str], rng: random.Random | None = None
    ) -> tuple[PeerAddress, ...]:
        """Whom to keep a connection to: bootstrap peers, and members whose address is known.

        With `rng` the members come in random order: if all dialled those first of whom they heard
        first, these would have connections to everybody.
        """
        known = [
            PeerAddress(peer_id, addresses)
            for peer_id, addresses in self._addresses.items()
            if peer_id in members and addresses
        ]
        if rng is not None:
            rng.shuffle(known)
        named = {peer.peer_id for peer in known}
        return (*(p for p in self._bootstrap if p.peer_id not in named), *known)


def _parse(text: str) -> PeerAddress:
    address, separator, peer_id = text.rpartition("/p2p/")
    if not separator or not address or len(text) > 4 * LIMITS.name_max_chars:
        raise UsageError(f"a bootstrap address ends with /p2p/PEERID: {text[:128]}")
    return PeerAddress(peer_id, (address,))
