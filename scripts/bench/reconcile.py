"""What it costs that two nodes of 10,000 records learn how they differ, 1 % of them recent ones.

    python scripts/bench/reconcile.py --records 10000 --nodes

Prints one JSON line. `messages` is the bare protocol between two sets in this process. `nodes` are
two real node processes with such databases, counted in bytes of their libp2p connection both ways,
Noise and frames included, until the same time after connecting: once with equal sets (`equal`: what
two nodes say anyway), once with different ones; `besides_records` is the difference of the two less
the bytes of the records that were missing.
"""

import argparse
import hashlib
import json
import random
import socket
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from scripts.nodes import NodeProcess, stop_all, wait_for

from aigrid.metagraph.store import Store
from aigrid.node.daemon import wall_ms
from aigrid.node.key_store.keys import load_authority
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, MembershipBody, ModelBody
from aigrid.protocol.limits import DAY
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.reconcile import Reconciler
from aigrid.protocol.reconcile_items import Items, item
from aigrid.protocol.record import Record, build

PER_ISSUER = 400
SETTLE_SECONDS = 8.0
NAMED_BYTES = 16  # of each record, as when every record held was named


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--differing", type=float, default=0.01)
    parser.add_argument("--nodes", action="store_true", help="also between two node processes")
    arguments = parser.parse_args()
    differing = max(1, round(arguments.records * arguments.differing))
    report: dict[str, Any] = {
        "records": arguments.records,
        "differing": differing,
        "naming_all_bytes": arguments.records * NAMED_BYTES,
        "messages": {
            "one_a_second": _messages(arguments.records, differing, per_second=1),
            "ten_a_second": _messages(arguments.records, differing, per_second=10),
            "equal": _messages(arguments.records, 0, per_second=1),
        },
    }
    all_named = ("naming all records", [report["naming_all_bytes"]])
    for name in ("one_a_second", "ten_a_second"):
        tell(f"compared, {name}", [report["messages"][name]["bytes"]], "B", beside=all_named)
    if arguments.nodes:
        nodes = report["nodes"] = _nodes(arguments.records, differing)
        tell("two nodes, besides the records", [nodes["besides_records"]], "B", beside=all_named)
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _messages(count: int, differing: int, *, per_second: int) -> dict[str, Any]:
    rng = random.Random(1)
    start = 1_790_000_000
    items = [item(start + n // per_second, rng.randbytes(32)) for n in range(count)]
    other = [item(start + n // per_second, rng.randbytes(32)) for n in range(count)]
    began = time.perf_counter()
    ours, theirs = Items(items), Items(items[: count - differing] + other[count - differing :])
    built = time.perf_counter()
    initiator = Reconciler(ours)
    sizes: list[int] = []
    have = need = 0
    message: bytes | None = initiator.initiate()
    while message is not None:
        answer = Reconciler(theirs).reconcile(message).reply or b""
        sizes += [len(message), len(answer)]
        step = initiator.reconcile(answer)
        have, need = have + len(step.have_ids), need + len(step.need_ids)
        message = step.reply
    done = time.perf_counter()
    if (have, need) != (differing, differing):
        raise AssertionError((have, need))
    return {
        "bytes": sum(sizes),
        "messages": len(sizes),
        "sizes": sizes,
        "build_ms": round((built - began) * 500, 2),  # two sets
        "compare_ms": round((done - built) * 1000, 2),
    }


def _nodes(count: int, differing: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="aigrid-reconcile-") as folder:
        nodes = [
            NodeProcess(
                Path(folder) / name,
                *("--listen", f"/ip4/127.0.0.1/tcp/{_free_port()}"),
                *("--gateway", "127.0.0.1:0", "--no-mdns"),
                local=False,
            )
            for name in ("a", "b")
        ]
        try:
            for node in nodes:
                node.start()
            nodes[1].cli("join", nodes[0].cli("invite", nodes[1].cli("id")["did"])["invitation"])
            stop_all(nodes)
            authority = load_authority(nodes[0].data_dir)
            if authority is None:
                raise AssertionError("the first node has founded the grid")
            issuers, memberships = _members(authority, count)
            common = _manifests(
                issuers, range(count - differing), newest_seconds_ago=differing + 60
            )
            more = [
                _manifests(issuers, range(first, first + differing), newest_seconds_ago=30)
                for first in (count, count + differing)
            ]
            for node in nodes:
                _put(node, memberships + common)
            equal = _run(nodes)
            for node, records in zip(nodes, more, strict=True):
                _put(node, records)
            differ = _run(nodes)
        finally:
            stop_all(nodes)
    missing = sum(len(record.raw) for records in more for record in records)
    return {
        "equal": equal,
        "differ": differ,
        "missing_records_bytes": missing,
        "besides_records": differ["bytes"] - equal["bytes"] - missing,
    }


def _run(nodes: list[NodeProcess]) -> dict[str, Any]:
    for node in nodes:
        node.start()
    began = time.perf_counter()
    wait_for(lambda: _alike(nodes), timeout_seconds=60, what="equal records")
    lasted = time.perf_counter() - began
    time.sleep(max(0.0, SETTLE_SECONDS - lasted))
    network = nodes[0].cli("status")["refused"]["network"]
    stop_all(nodes)
    return {
        "seconds_after_ready": round(lasted, 2),
        "bytes": int(network["bytes_received"]) + int(network["bytes_sent"]),
    }


def _alike(nodes: list[NodeProcess]) -> bool:
    """Whether both hold the same manifests. (What nodes say of themselves changes all the time.)"""
    held = []
    for node in nodes:
        with closing(sqlite3.connect(f"file:{_database(node)}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT sha256 FROM records WHERE kind = ?", (Kind.MODEL.value,)
            )
            held.append({sha256 for (sha256,) in rows})
    return held[0] == held[1]


def _members(authority: Identity, count: int) -> tuple[list[Identity], list[Record]]:
    """As many issuers as `count` records need, and their memberships."""
    issuers = [
        Identity(hashlib.sha256(str(n).encode()).digest()) for n in range(count // PER_ISSUER + 1)
    ]
    start_ms = wall_ms() - 1000
    memberships = [
        build(
            Kind.MEMBERSHIP,
            MembershipBody(id=issuer.did, grid=authority.did),
            authority,
            valid_from_ms=start_ms,
            valid_until_ms=start_ms + 30 * DAY * 1000,
        )
        for issuer in issuers
    ]
    return issuers, memberships


def _manifests(issuers: list[Identity], numbers: range, *, newest_seconds_ago: int) -> list[Record]:
    """One issued each second."""
    now_ms = wall_ms()
    made: list[Record] = []
    for n in numbers:
        about = ModelDescription(format="echo", task="text-generation", files=(), options={"n": n})
        body = ModelBody(
            id=MODEL_URN + model_id(about),
            name=f"echo-{n}",
            capabilities=("text-generation",),
            model=about,
        )
        start_ms = now_ms - (newest_seconds_ago + numbers.stop - n) * 1000
        made.append(
            build(
                Kind.MODEL,
                body,
                issuers[n % len(issuers)],
                valid_from_ms=start_ms,
                valid_until_ms=now_ms + 100 * DAY * 1000,
            )
        )
    return made


def _put(node: NodeProcess, records: list[Record]) -> None:
    now_ms = wall_ms()
    store = Store(_database(node))
    with store.transaction():
        for record in records:
            store.put(record, now_ms=now_ms, received_from=None, account=None, rated=False)
    store.close()


def _database(node: NodeProcess) -> Path:
    return node.data_dir / "records.db"


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
