"""What an open grid's node keeps of a flood of strangers: each a key with one record of its own.

    python scripts/bench/strangers.py --strangers 100000

Prints one JSON line. Real stores on disk and real signatures, made by other processes meanwhile.
Three peers push the records in turn, as in gossip, at the pace that the token buckets allow
(`--per-second` of each, on a clock that is set forward).
`members_answerable` is looked at after each batch. `rss_mib` is of this process, which verifies,
stores and indexes.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_least, tell

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.store import Store
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, MembershipBody, NodeBody
from aigrid.protocol.limits import LIMITS, Limits
from aigrid.protocol.record import build

START_MS = 1_790_000_000_000
DAY_MS = 86_400_000
BATCH = 48
PEERS = ("peer-1", "peer-2", "peer-3")


def identity(name: str) -> Identity:
    """A key that depends on `name` alone."""
    return Identity(hashlib.sha256(name.encode()).digest())


def node_record(name: str, start_ms: int) -> bytes:
    """What the node `name` says of itself, for as long as it may."""
    who = identity(name)
    body = NodeBody(
        id=who.did, protocol_version=1, software="flood", addresses=(), engines=(), devices=()
    )
    until_ms = start_ms + LIMITS.node_ttl_seconds * 1000
    return build(Kind.NODE, body, who, valid_from_ms=start_ms, valid_until_ms=until_ms).raw


def stranger_record(job: tuple[int, int]) -> bytes:
    """The record of stranger number `job[0]`, issued at `job[1]` ms."""
    return node_record(f"stranger-{job[0]}", job[1])


class World:
    """A node of an open grid with some members, each with a record that should stay answerable."""

    def __init__(self, path: Path, members: int, *, limits: Limits = LIMITS) -> None:
        authority = identity("authority")
        self.graph = Metagraph(
            Store(path, limits=limits),
            Index(),
            grid=authority.did,
            own_did=identity("own").did,
            open_to_strangers=True,
            now_ms=START_MS,
        )
        self.names = [f"member-{n}" for n in range(members)]
        self.dids = [identity(name).did for name in self.names]
        self.members_kept = True
        memberships = (
            build(
                Kind.MEMBERSHIP,
                MembershipBody(id=did, grid=authority.did),
                authority,
                valid_from_ms=START_MS,
                valid_until_ms=START_MS + 30 * DAY_MS,
            ).raw
            for did in self.dids
        )
        self._take(memberships, START_MS, "peer-1")
        self.renew(START_MS)

    def renew(self, now_ms: int) -> None:
        """Members say again what they are, as nodes do."""
        self._take((node_record(name, now_ms) for name in self.names), now_ms, "peer-1")
        self._renewed_ms = now_ms

    def push(self, raws: list[bytes], now_ms: int, peer: str) -> None:
        """A batch of strangers' records arrives."""
        if now_ms - self._renewed_ms > LIMITS.node_ttl_seconds * 500:
            self.renew(now_ms)
        self._take(raws, now_ms, peer)
        due_ms = self.graph.store.next_due_ms()
        while due_ms is not None and due_ms <= now_ms:
            self.graph.expire(now_ms)
            due_ms = self.graph.store.next_due_ms()
        answers = (self.graph.index.node(did, now_ms) for did in self.dids)
        self.members_kept = self.members_kept and all(answers)

    def held(self) -> dict[str, int]:
        """Units and keys that strangers hold, and those of members."""
        strangers, keys = self.graph.store.accounts.held("strangers")
        return {
            "strangers": strangers,
            "strangers_keys": keys,
            "members": self.graph.store.accounts.held("members")[0],
        }

    def _take(self, raws: Iterable[bytes], now_ms: int, peer: str) -> None:
        self.graph.ingest_batch(raws, now_ms=now_ms, received_from=peer)


def batches(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Records, some at a time."""
    source = iter(records)
    while batch := list(islice(source, BATCH)):
        yield batch


def flood(world: World, count: int, per_second: float) -> int:
    """Push `count` strangers' records through three peers; the time on the clock afterwards."""
    pace_ms = 1000 / (per_second * len(PEERS))
    jobs = [(n, START_MS + round(n * pace_ms)) for n in range(count)]
    now_ms = START_MS
    with multiprocessing.get_context("spawn").Pool(max(1, (os.cpu_count() or 2) - 1)) as pool:
        for number, raws in enumerate(batches(pool.imap(stranger_record, jobs, chunksize=512))):
            now_ms = START_MS + round(min(count, (number + 1) * BATCH) * pace_ms)
            world.push(raws, now_ms, PEERS[number % len(PEERS)])
    return now_ms


def rss_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strangers", type=int, default=100_000)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--per-second", type=float, default=LIMITS.records_per_second_per_issuer)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"strangers": arguments.strangers, "members": arguments.members}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.db"
        world = World(path, arguments.members)
        report["rss_mib"] = {"before": rss_mib()}
        began = time.perf_counter()
        now_ms = flood(world, arguments.strangers, arguments.per_second)
        report["seconds"] = round(time.perf_counter() - began, 1)
        report["clock_seconds"] = (now_ms - START_MS) // 1000
        report["rss_mib"]["after"] = rss_mib()
        report["held"] = world.held()
        report["refused"] = {code.value: n for code, n in world.graph.refused.items()}
        files = (each for each in path.parent.iterdir() if each.name.startswith(path.name))
        report["disk_mib"] = round(sum(each.stat().st_size for each in files) / (1 << 20), 1)
        report["members_answerable"] = world.members_kept
        grown = report["rss_mib"]
        memory = ("before the flood", [grown["before"]])
        tell("memory after the flood", [grown["after"]], "MiB", beside=memory)
        kept, aim = [float(bool(report["members_answerable"]))], at_least(1, of_value=True)
        tell("members answerable throughout", kept, "share", aim=aim)
        world.graph.store.close()
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if report["members_answerable"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
