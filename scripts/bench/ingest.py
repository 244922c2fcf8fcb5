"""What it costs to take in a grid's records, to come back to them, and to ask them.

    python scripts/bench/ingest.py --records 100000

Prints one JSON line. `ingest` verifies, stores (on disk) and indexes records in batches as gossip
delivers them; `signature` is the bare Ed25519 verification of the same records, and `share` the
ratio of the two. What follows is of a second process that opens the same data: until it answers,
its memory, an index look-up beside that of a bare dict, and the same question as SPARQL.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Self

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.query import NOW, QUESTION, WANTED, looked_up, made, ms, rss_mb
from scripts.bench.reporting import at_least, at_most, tell

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.query import AnswerFormat
from aigrid.metagraph.store import Store
from aigrid.node.discovery.batches import batches
from aigrid.node.query_process import ChildProcess, start_child
from aigrid.node.querying import Querying
from aigrid.protocol.identity import (
    Identity,
    multibase_decode,
    public_key_of_did,
    verify_signature,
)
from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.record import Record, build, jcs_hash, verify_form_and_signature

GRID = Identity(b"g" * 32)
OWN = Identity(b"o" * 32)
SAMPLE = 5000


def grid_of(count: int) -> list[Record]:
    """About `count` records, a membership for each issuer among them and before the rest."""
    records = made(count * 11 // 16, random.Random(1))
    memberships = [
        build(
            Kind.MEMBERSHIP,
            MembershipBody(id=did, grid=GRID.did),
            GRID,
            valid_from_ms=NOW,
            valid_until_ms=NOW + 300_000,
        )
        for did in dict.fromkeys(record.issuer for record in records)
    ]
    return memberships + records


def opened(path: Path) -> Metagraph:
    return Metagraph(
        Store(path), Index(), grid=GRID.did, own_did=OWN.did, open_to_strangers=False, now_ms=NOW
    )


class Rate:
    """Of what happens within: per second of time, and of this process's CPU (which load spares)."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.wall = self.cpu = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_raised: object) -> None:
        self.wall = self._count / (time.perf_counter() - self._began[0])
        self.cpu = self._count / (time.process_time() - self._began[1])


def signature_rate(records: Iterable[Record]) -> Rate:
    signed = []
    for record in records:
        document = json.loads(record.raw)
        proof = document.pop("proof")
        value = multibase_decode(proof.pop("proofValue"), max_chars=100)
        assert value is not None
        signed.append((public_key_of_did(record.issuer), jcs_hash(document, proof), value))
    with Rate(len(signed)) as rate:
        assert all(verify_signature(*one) for one in signed)
    return rate


def verify_rate(records: list[Record]) -> Rate:
    with Rate(len(records)) as rate:
        for record in records:
            verify_form_and_signature(record.raw)
    return rate


def ingest_rate(records: list[Record], path: Path) -> Rate:
    messages = list(batches(record.raw for record in records))
    graph = opened(path)
    with Rate(len(records)) as rate:
        for message in messages:
            _, refusals = graph.ingest_batch(message, now_ms=NOW, received_from="peer")
            assert not refusals, refusals[0]
    graph.store.close()
    return rate


def taken_in(count: int, path: Path) -> dict[str, Any]:
    records = grid_of(count)
    sample = random.Random(2).sample(records, min(SAMPLE, len(records)))
    before = signature_rate(sample)
    verified = verify_rate(sample)
    ingested = ingest_rate(records, path)
    after = signature_rate(sample)
    both = [before.cpu, after.cpu]
    told = ("the bare signatures", [sum(both) / 2])
    tell("verified, stored and indexed", [ingested.cpu], "1/CPU-s", beside=told, aim=at_least(0.3))
    tell("verified alone", [verified.cpu], "1/CPU-s", beside=told)
    signature, signature_cpu = (before.wall + after.wall) / 2, (before.cpu + after.cpu) / 2
    return {
        "records": len(records),
        "raw_mb": round(sum(len(record.raw) for record in records) / 1e6, 1),
        "signature_per_s": round(signature),
        "verify_per_s": round(verified.wall),
        "ingest_per_s": round(ingested.wall),
        "share": round(ingested.wall / signature, 3),
        "share_by_cpu": round(ingested.cpu / signature_cpu, 3),
    }


async def came_back(path: Path, asked: int) -> dict[str, Any]:
    began = time.perf_counter()
    graph = opened(path)
    looked_up(graph.index)
    report: dict[str, Any] = {
        "restart_s": round(time.perf_counter() - began, 2),
        "node_rss_mb": own_rss_mb(),
    }
    index = [looked_up(graph.index) for _ in range(asked)]
    bare = {WANTED: dict(enumerate(graph.index.offers_of_capability(WANTED, NOW)))}
    table = [looked_up_bare(bare) for _ in range(asked)]
    report["index"], report["bare_dict"] = ms(index), ms(table)
    aim = at_most(0.0002, of_value=True)
    tell("32 offers from the index", index, "s", beside=("a bare dict", table), aim=aim)
    began = time.perf_counter()
    items = graph.items(NOW)
    report["snapshot"] = {
        "items": len(items),
        "ms": round((time.perf_counter() - began) * 1000, 1),
    }
    processes: list[ChildProcess] = []

    async def start() -> ChildProcess:
        processes.append(await start_child())
        return processes[-1]

    querying = Querying(graph, start=start, now_ms=lambda: NOW)
    async with trio.open_nursery() as nursery:
        await nursery.start(querying.run)
        began = time.perf_counter()
        await querying.query("ASK {}")
        report["first_sparql_s"] = round(time.perf_counter() - began, 2)
        report["dataset_rss_mb"] = rss_mb(processes[-1])
        took = []
        for _ in range(asked):
            began = time.perf_counter()
            await querying.query(QUESTION, [AnswerFormat.JSON])
            took.append(time.perf_counter() - began)
        report["sparql"] = ms(took)
        aim = at_most(0.05, of_value=True)
        tell("32 offers by SPARQL", took, "s", beside=("the index", index), aim=aim)
        nursery.cancel_scope.cancel()
    return report


def looked_up_bare(table: dict[str, dict[int, Any]]) -> float:
    start = time.perf_counter()
    assert len(tuple(islice(table[WANTED].values(), 32))) == 32
    return time.perf_counter() - start


def own_rss_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--asked", type=int, default=200)
    parser.add_argument("--open", type=Path, help="only the second process, on this database")
    arguments = parser.parse_args()
    if arguments.open is not None:
        print(json.dumps(trio.run(came_back, arguments.open, arguments.asked)))
        return 0
    with tempfile.TemporaryDirectory(prefix="aigrid-ingest-") as folder:
        path = Path(folder) / "records.db"
        report = taken_in(arguments.records, path)
        command = [sys.executable, __file__, "--open", str(path), "--asked", str(arguments.asked)]
        second = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        print(json.dumps(report | json.loads(second.stdout)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
