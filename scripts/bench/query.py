"""What SPARQL costs: filling a dataset, asking it, and being asked what it should not be.

    python scripts/bench/query.py --records 10000

Prints one JSON line. The question is routing's: the first 32 offers of a capability or a narrower
one; beside it the same from the index. Hostile queries run one after the other under the limits of
a node, while index look-ups go on in this process.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from scripts.hostile_queries import EXPENSIVE, reaching

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.index import Index
from aigrid.metagraph.query import AnswerFormat
from aigrid.node.query_process import ChildProcess, start_child
from aigrid.node.querying import Querying
from aigrid.protocol.errors import AigridError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import AvailabilityBody, Kind, ModelBody, NodeBody, Offer
from aigrid.protocol.model import MODEL_URN, ModelDescription, ModelFile, model_id
from aigrid.protocol.record import Record, build

NOW = 1_790_000_000_000
WANTED = "text"
QUESTION = """
PREFIX aig: <https://w3id.org/aigrid/ns#>
PREFIX skos: <http://www.w3.org/2004/02/skos/core#>
PREFIX cap: <https://w3id.org/aigrid/capability/>
SELECT ?node ?model ?state ?signer WHERE {
  ?capability skos:broader* cap:text .
  ?model aig:capability ?capability .
  ?offer aig:offersModel ?model ; aig:state ?state .
  GRAPH ?record { ?node aig:offer ?offer }
  ?record <http://www.w3.org/ns/prov#wasAttributedTo> ?signer .
} LIMIT 32"""
HOSTILE = {**EXPENSIVE, **reaching(), "everything": "SELECT * { ?s ?p ?o }"}


def made(count: int, rng: random.Random) -> list[Record]:
    """Nodes with an offer each, of a fifth as many models: of 11 records 5 are nodes', 5 offers."""
    names = sorted(default_taxonomy().concepts)
    records: list[Record] = []

    def sign(kind: Kind, body: Any, who: Identity) -> Record:
        record = build(kind, body, who, valid_from_ms=NOW, valid_until_ms=NOW + 300_000)
        records.append(record)
        return record

    nodes = count * 5 // 11
    manifests = []
    for n in range(nodes // 5):
        of = ModelDescription(
            format="gguf",
            task="text-generation",
            files=(ModelFile("w.gguf", f"{n:064x}", n),),
            options={"n": n},
        )
        body = ModelBody(
            id=MODEL_URN + model_id(of),
            name=f"m{n}",
            capabilities=(rng.choice(names),),
            model=of,
        )
        publisher = Identity(b"m" * 28 + (n // 400).to_bytes(4, "big"))  # within its quota
        manifests.append(sign(Kind.MODEL, body, publisher))
    for n in range(nodes):
        who = Identity(n.to_bytes(32, "big"))
        where = ("/ip4/192.0.2.1/tcp/4001",)
        sign(Kind.NODE, NodeBody(who.did, 1, "bench", where, (), (), "eu"), who)
        of_ = rng.choice(manifests)
        offer = Offer(of_.subject.removeprefix(MODEL_URN), of_.content_id, "warm", 1, 20)
        sign(Kind.AVAILABILITY, AvailabilityBody(who.did, (offer,)), who)
    return records


def ms(seconds: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(median(seconds) * 1000, 4),
        "p99_ms": round(quantiles(seconds, n=100)[98] * 1000, 4),
    }


def looked_up(index: Index) -> float:
    start = time.perf_counter()
    assert len(index.offers_of_capability(WANTED, NOW, limit=32)) == 32
    return time.perf_counter() - start


def rss_mb(process: ChildProcess) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)


async def measure(records: list[Record], asked: int) -> dict[str, Any]:
    index = Index()
    for record in records:
        index.add(record)
    by_id = {record.content_id: record for record in records}
    store = SimpleNamespace(records=lambda ids: [by_id[content_id] for content_id in ids])
    graph: Any = SimpleNamespace(
        grid="",
        listeners=[],
        eviction_listeners=[],
        shift_listeners=[],
        believed=lambda _now: list(by_id),
        store=store,
    )
    processes: list[ChildProcess] = []

    async def start() -> ChildProcess:
        processes.append(await start_child())
        return processes[-1]

    querying = Querying(graph, start=start, now_ms=lambda: NOW)
    report: dict[str, Any] = {"records": len(records)}
    async with trio.open_nursery() as nursery:
        await nursery.start(querying.run)
        began = time.perf_counter()
        await querying.query("ASK {}")
        report["first_answer_s"] = round(time.perf_counter() - began, 2)
        report["rss_mb"] = rss_mb(processes[-1])
        took = []
        for _ in range(asked):
            began = time.perf_counter()
            answer = await querying.query(QUESTION, [AnswerFormat.JSON])
            took.append(time.perf_counter() - began)
        assert len(json.loads(answer.body)["results"]["bindings"]) == 32
        report["sparql"] = ms(took)
        alone = [looked_up(index) for _ in range(asked)]
        report["index"] = ms(alone)
        tell("32 offers by SPARQL", took, "s", beside=("the index", alone))
        report["hostile"] = {}
        beside: list[float] = []
        for name, text in HOSTILE.items():
            report["hostile"][name] = await hostile(querying, text, index, beside)
        report["index_beside_hostile"] = ms(beside)
        tell("the index while hostile ones run", beside, "s", beside=("alone", alone))
        report["replaced"] = querying.replaced
        nursery.cancel_scope.cancel()
    return report


async def hostile(
    querying: Querying, text: str, index: Index, beside: list[float]
) -> dict[str, Any]:
    """How one query ends; meanwhile the index is asked every millisecond or so."""
    ended: dict[str, Any] = {}
    async with trio.open_nursery() as nursery:

        async def look_up() -> None:
            while True:
                beside.append(looked_up(index))
                await trio.sleep(0.001)

        nursery.start_soon(look_up)
        await querying.query("ASK {}")  # its replacement has to be there first
        began = time.perf_counter()
        try:
            await querying.query(text)
            ended["code"] = "answered"
        except AigridError as error:
            ended["code"] = error.code.value
        ended["s"] = round(time.perf_counter() - began, 3)
        nursery.cancel_scope.cancel()
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--asked", type=int, default=200)
    arguments = parser.parse_args()
    records = made(arguments.records, random.Random(1))
    print(json.dumps(trio.run(measure, records, arguments.asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
