"""Who is linked to whom: enough members are, at their addresses, and nobody to one who is gone."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import trio
from scripts.simulation.network.conditions import Conditions
from scripts.simulation.world import SimNode

from aigrid.protocol.limits import LIMITS

# Until who was killed or cut off counts as alive nowhere: pings of a peer tell within 5 s.
GONE_SECONDS = 10.0


def link_lags(one: SimNode, others: Sequence[SimNode]) -> Iterator[str]:
    """What it lacks of links to `others`, the live members: as many as a node seeks, or to all."""
    node = one.node
    alive = node.peers.alive_members() & node.transport.connected()
    peer_ids = {other.node.identity.peer_id for other in others}
    wanted, linked = min(LIMITS.connections_wanted, len(peer_ids)), len(alive & peer_ids)
    if linked < wanted:
        yield f"{one.name} is linked to {linked} members, not {wanted}"
    for other in others:
        known = node.known.address_of(other.node.identity.peer_id)
        there = set(other.node.transport.listen_addresses)
        if known is None or not there <= set(known.addresses):
            yield f"{one.name} does not know where {other.name} is"


class Gone:
    """Looks for those who take somebody for alive that was killed, or cut off from them.

    `checks` counts under `gone`; `violated` takes a property and what is wrong.
    """

    def __init__(
        self, network: Conditions, checks: Counter[str], violated: Callable[[str, str], None]
    ) -> None:
        self._network = network
        self._checks = checks
        self._violated = violated
        self._down: dict[str, str] = {}  # PeerId -> name
        # By name of who believes, and of in whom: since when that one is gone, and is believed in.
        self._away: dict[tuple[str, str], float] = {}
        self._since: dict[tuple[str, str], float] = {}

    def killed(self, one: SimNode) -> None:
        self._down[one.node.identity.peer_id] = one.name

    def is_back(self, one: SimNode) -> None:
        self._down.pop(one.node.identity.peer_id, None)

    def look(self, nodes: Sequence[SimNode]) -> None:
        """At what live nodes believe just now."""
        now, away, believed = trio.current_time(), self._away, dict[tuple[str, str], float]()
        self._away = {}
        for one in nodes:
            for peer_id, name in self._out_of_reach(one, nodes):
                pair = one.name, name
                self._away[pair] = gone_at = away.get(pair, now)
                self._checks["gone"] += now - gone_at > GONE_SECONDS
                if one.node.peers.alive(peer_id):
                    believed[pair] = since = self._since.get(pair, now)
                    if now - since > GONE_SECONDS:
                        what = f"{one.name} has taken {name}, which is gone, for alive"
                        self._violated("gone", f"{what} for {now - since:.0f} s")
        self._since = believed

    def _out_of_reach(self, one: SimNode, nodes: Sequence[SimNode]) -> Iterator[tuple[str, str]]:
        yield from self._down.items()
        if self._network.parted:
            own = one.node.identity.peer_id
            for other in nodes:
                if self._network.blocked(own, other.node.identity.peer_id):
                    yield other.node.identity.peer_id, other.name
