"""A grid that is up already: what joining would have left in every store, made once for all.

The founder, a real node, admits everybody, and takes in the NodeRecords that they would have
issued: real records, verified and merged. The others start on a copy of its database, as after a
power cut of the whole grid. Left out is the way there: joining, and how records spread.
"""

import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace
from scripts.simulation.world import SimNode, Simulation

from aigrid.node.discovery.known import KnownPeers
from aigrid.protocol.kinds import KINDS, Kind, NodeBody
from aigrid.protocol.record import sign

# What the founder knows as the holder of the authority's key.
_FOUNDERS_OWN = ("status_entries", "redeemed")


def stored(founder: SimNode, sim: Simulation, names: Iterable[str]) -> Path:
    """Have `founder` know all `names`; the database that they may start on.

    Raises:
        VerificationError: a record of theirs was refused.
    """
    node, now_ms = founder.node, sim.now_ms()
    own = node.graph.index.node(node.identity.did, now_ms)
    if own is None or not isinstance(own.body, NodeBody):
        raise ValueError("the founder has not said what it is")
    raws = []
    for name in names:
        identity = sim.identity_of(name)
        node.grid.admit(identity.did)
        body = replace(own.body, id=identity.did, addresses=(sim.address_of(name),))
        until_ms = now_ms + KINDS[Kind.NODE].ttl_seconds * 1000
        said = sign(Kind.NODE, body, identity, valid_from_ms=now_ms, valid_until_ms=until_ms)
        raws.append(said.raw)
    _, refusals = node.graph.ingest_batch(raws, now_ms=now_ms, received_from=None)
    if refusals:
        raise refusals[0]
    # Where the founder is, all know who have met it; it passes over its own address itself.
    known = KnownPeers(node.local, own_peer_id="", bootstrap=())
    known.learn(node.identity.did, node.transport.listen_addresses)
    path = sim.directory / "ready.db"
    node.graph.store.database.execute("VACUUM INTO ?", (str(path),))
    connection = sqlite3.connect(path)
    with connection:
        for table in _FOUNDERS_OWN:
            connection.execute(f"DELETE FROM {table}")
    connection.close()
    return path


def put(path: Path, sim: Simulation, name: str) -> None:
    """Give a node that is about to start its copy."""
    home = sim.directory / name
    home.mkdir()
    shutil.copyfile(path, home / "records.db")
