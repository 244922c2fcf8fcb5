"""What one node of a large grid has to bear: messages, bytes, processor, memory and disk.

    python scripts/bench/scale.py             # the table of SPEC.md, from the constants below
    python scripts/bench/scale.py --measure   # what the first block of them is measured by

The table is arithmetic: costs per record that were measured, times how many records there are and
how often they are renewed. No grid of that size has been run.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell

from aigrid.metagraph.branches import BRANCHES
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.store import Store
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import (
    KINDS,
    AvailabilityBody,
    DeviceClaim,
    EngineClaim,
    Kind,
    MembershipBody,
    ModelBody,
    NodeBody,
    Offer,
    WithdrawnBody,
)
from aigrid.protocol.limits import DAY, HOUR, LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription, ModelFile, model_id
from aigrid.protocol.record import Record, build

# Measured by `--measure`: 5,000 nodes of five models each, CPython 3.11, two shared cores.
NODE_BYTES, AVAILABILITY_BYTES, MEMBERSHIP_BYTES, WITHDRAWAL_BYTES = 1175, 1808, 896, 839
MEMORY_PER_MEMBER_BYTES = 2_290  # its Membership
MEMORY_PER_RECORD_BYTES = 5_090  # any other: in the index, and in a snapshot for reconciliation
DISK_PER_RECORD_BYTES = 3_090  # the database, its indexes included
INGEST_SECONDS = 0.0006  # to verify, store and index one record

# Measured elsewhere.
NODE_MEMORY_BYTES = 91_000_000  # scripts/bench/idle.py, three nodes: `pss_mib`
GOSSIP_SECONDS = 0.0032  # per message delivered, copies included: 20 node processes, 8 KiB each
GOSSIP_OVERHEAD_BYTES = 482  # signature, key, topic, and the peer record that the library attaches
REPAIR_BYTES = 324  # scripts/bench/reconcile.py: sets that are equal
REPAIR_PER_DIFFERENCE_BYTES = 50  # likewise: 10,000 records of which 100 differ

# By GossipSub's parameters here: of a mesh of six peers for a topic each may send it a message, but
# for one that it sends it to.
MESH_COPIES = 5

# Assumed of the grid.
MODELS_PER_NODE = 5  # offered by each, under a manifest of its own
CHANGES_PER_SECOND = 2 / HOUR  # of its offers, beside renewals
STOPS_PER_SECOND = 1 / DAY  # each withdraws its offers
SPREAD_SECONDS = 1.0  # until a message is everywhere: what two nodes differ by
SIZES = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Load:
    """Of one node."""

    records: float
    messages_per_second: float
    bytes_per_second: float
    cores: float
    memory_bytes: float
    disk_bytes: float


def renewals_per_second(kind: Kind) -> float:
    """Records are issued again at half their life."""
    return 2 / KINDS[kind].ttl_seconds


def load(nodes: int, *, branch_share: float) -> Load:
    """Of a node that replicates what `branch_share` of the nodes say, and everybody's records."""
    of_branch = nodes * branch_share
    said = of_branch * (2 + MODELS_PER_NODE)  # and a Membership for each node there is
    rates = (
        (of_branch, renewals_per_second(Kind.NODE), NODE_BYTES),
        (
            of_branch,
            renewals_per_second(Kind.AVAILABILITY) + CHANGES_PER_SECOND,
            AVAILABILITY_BYTES,
        ),
        (nodes, 2 / LIMITS.membership_default_seconds, MEMBERSHIP_BYTES),
        (nodes, STOPS_PER_SECOND, WITHDRAWAL_BYTES),
    )
    messages = sum(count * rate for count, rate, _ in rates)
    gossiped = sum(
        count * rate * (size + GOSSIP_OVERHEAD_BYTES) * MESH_COPIES for count, rate, size in rates
    )
    conversations = 2 / LIMITS.sync_interval_seconds  # one begun here, one begun there
    different = 2 * messages * SPREAD_SECONDS
    repaired = conversations * (REPAIR_BYTES + REPAIR_PER_DIFFERENCE_BYTES * different)
    return Load(
        said + nodes,
        messages,
        gossiped + repaired,
        messages * (GOSSIP_SECONDS + INGEST_SECONDS),
        NODE_MEMORY_BYTES + said * MEMORY_PER_RECORD_BYTES + nodes * MEMORY_PER_MEMBER_BYTES,
        (said + nodes) * DISK_PER_RECORD_BYTES,
    )


def table() -> str:
    """Markdown: a row for each size and way to take part."""
    ways = (("everything", 1.0), ("one branch", 1 / len(BRANCHES)), ("none", 0.0))
    rows = ["| nodes | interests | records held | messages/s | bytes/s in | cores | RAM | disk |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for nodes in SIZES:
        for name, share in ways:
            found = load(nodes, branch_share=share)
            cells = (
                f"{nodes:,}",
                name,
                rounded(found.records),
                rounded(found.messages_per_second),
                f"{rounded(found.bytes_per_second / 1000)} kB",
                rounded(found.cores),
                f"{rounded(found.memory_bytes / 1e6)} MB",
                f"{rounded(found.disk_bytes / 1e6)} MB",
            )
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def rounded(value: float) -> str:
    """Two digits that count: there are no more in the assumptions."""
    if value >= 100:
        scale = 10 ** (len(str(int(value))) - 2)
        return f"{round(value / scale) * scale:,}"
    return f"{float(f'{value:.2g}'):g}" if value >= 0.001 else "< 0.001"


# --- measuring

NOW = 1_790_000_000_000
AUTHORITY = Identity(b"a" * 32)


def signed(kind: Kind, body: Any, issuer: Identity) -> Record:
    end_ms = NOW + KINDS[kind].ttl_seconds * 1000
    return build(kind, body, issuer, valid_from_ms=NOW, valid_until_ms=end_ms)


def said_of(number: int) -> Iterator[Record]:
    """All that concerns one node, its Membership first."""
    who = Identity(number.to_bytes(32, "big"))
    yield signed(Kind.MEMBERSHIP, MembershipBody(id=who.did, grid=AUTHORITY.did), AUTHORITY)
    offers = []
    for model in range(MODELS_PER_NODE):
        of = ModelDescription(
            format="gguf",
            task="text-generation",
            files=(ModelFile("weights.gguf", f"{number * 100 + model:064x}", 4_000_000_000),),
            precision="q4_k_m",
            options={"context": 8192},
        )
        body = ModelBody(
            id=MODEL_URN + model_id(of),
            name=f"model-{number}-{model}",
            capabilities=("text-generation",),
            model=of,
            license="Apache-2.0",
            memory_bytes=5_000_000_000,
            context_tokens=8192,
        )
        manifest = signed(Kind.MODEL, body, who)
        offers.append(Offer(model_id(of), manifest.content_id, "on_disk", 4))
        yield manifest
    yield signed(
        Kind.AVAILABILITY, AvailabilityBody(who.did, tuple(offers), branches=("text",)), who
    )
    yield signed(
        Kind.NODE,
        NodeBody(
            who.did,
            1,
            "aigrid-node 0.1.0 (linux)",
            ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"),
            (EngineClaim("onnx_text", "1.0", ("gguf",)), EngineClaim("onnx", "1.0", ("onnx",))),
            (DeviceClaim("cpu", "CPU of sixteen cores", 64 * 2**30),),
            branches=("text",),
        ),
        who,
    )


def memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def ingested(graph: Metagraph, raws: list[bytes], now_ms: int) -> int:
    """Take records in one by one, as gossip brings them; the memory in use afterwards."""
    for raw in raws:
        copy = bytes(bytearray(raw))  # or a record would keep what is there already
        _, refusals = graph.ingest_batch([copy], now_ms=now_ms, received_from=None)
        assert not refusals
    assert len(graph.items(now_ms)) >= len(raws)
    return memory_bytes()


def measure(nodes: int) -> dict[str, Any]:
    raws = [record.raw for n in range(1, nodes + 1) for record in said_of(n)]
    raws.sort(key=lambda raw: b'"Membership"' not in raw)
    sizes = {record.kind.value: len(record.raw) for record in said_of(nodes)}
    who = Identity(nodes.to_bytes(32, "big"))
    gone = signed(Kind.AVAILABILITY, WithdrawnBody(id=who.did, withdrawn=True), who)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.db"
        store = Store(path)
        graph = Metagraph(
            store, Index(), grid=AUTHORITY.did, own_did=AUTHORITY.did, open_to_strangers=False
        )
        before, began = memory_bytes(), time.process_time()
        members = ingested(graph, raws[:nodes], NOW) - before
        others = ingested(graph, raws[nodes:], NOW + 1000) - before - members
        took = time.process_time() - began
        store.close()
        held = sum(map(len, raws))
        signed_bytes = ("the signed bytes", [held])
        tell("memory of records", [members + others], "B", beside=signed_bytes)
        disk = sum(file.stat().st_size for file in Path(folder).iterdir())
    tell("disk of records", [disk], "B", beside=signed_bytes)
    return {
        "record_bytes": {**sizes, "withdrawal": len(gone.raw)},
        "memory_per_member_bytes": round(members / nodes),
        "memory_per_record_bytes": round(others / (len(raws) - nodes)),
        "disk_per_record_bytes": round(disk / len(raws)),
        "ingest_seconds": round(took / len(raws), 6),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--nodes", type=int, default=5_000, help="to measure with")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.nodes)) if arguments.measure else table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
