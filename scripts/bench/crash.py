"""Kill -9 while records are written, over and over: what was acknowledged is there.

    python scripts/bench/crash.py --rounds 100 --opens 20 --nodes 5

Prints one JSON line, or fails. A round starts a process that writes to a metagraph on disk (see
`crash_writer.py`), kills it at a moment chosen by the seed and by the machine, and looks at what
the next process finds. `--opens` kills while a database is being made; `--nodes` kills a whole
node while records are given to it through its control socket, and while it starts for the first
time. SIGKILL leaves the page cache: what a power failure does to it is not tried here.
"""

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.crash_writer import OWN, STEP_MS, open_graph
from scripts.bench.reporting import tell
from scripts.nodes import NodeProcess

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.store import Store
from aigrid.node.control_client import SOCKET_FILE, ControlClient
from aigrid.node.daemon import wall_ms
from aigrid.node.key_store.keys import load_authority
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import AvailabilityBody, Body, CapabilityBody, Kind, MembershipBody
from aigrid.protocol.limits import DAY, LIMITS
from aigrid.protocol.record import Record, RecordKey, build, verify_form_and_signature
from aigrid.protocol.record_status import StatusEntry

ROOT = Path(__file__).resolve().parents[2]
NOW_MS = 1_790_000_000_000
ROUNDS_PER_DATABASE = 10
ACKNOWLEDGED_MAX = 400  # before the kill
PAUSE_SECONDS = 0.008  # about what a step takes
OPEN_SECONDS = 0.02  # about what a writer takes to make a database and its first records
BURST_SECONDS = 1.0
START_SECONDS = 2.5  # about what a node takes to found a grid
PUBLISHED, IMPORTS = 200, 200  # fewer than a quota allows
WRITER = (sys.executable, "-m", "scripts.bench.crash_writer")


class LostError(Exception):
    """What was acknowledged is not there, or the store is not as it should be."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A record that was acknowledged, or found afterwards."""

    key: RecordKey
    valid_from_ms: int
    valid_until_ms: int
    content_id: str

    @property
    def rank(self) -> tuple[int, str]:
        return (self.valid_from_ms, self.content_id)

    @property
    def foreign(self) -> bool:
        """Whether changing the grid drops it."""
        return self.key[0] != OWN.did or self.key[1] == Kind.MEMBERSHIP


@dataclass
class Ledger:
    """What writers have said. `begun` is what was under way when the last one died."""

    now_ms: int = NOW_MS
    newest: dict[RecordKey, Fact] = field(default_factory=dict)
    begun: str = ""
    batch: frozenset[str] = frozenset()
    acknowledged: int = 0

    def hear(self, line: bytes) -> None:
        said = json.loads(line)
        if "begin" in said:
            self.now_ms, self.begun = said["now_ms"], said["begin"]
            self.batch = frozenset(said["batch"])
            return
        if self.begun == "switch":
            self.newest = {k: known for k, known in self.newest.items() if not known.foreign}
        for issuer, kind, subject, *rest in said["done"]:
            self.acknowledge(Fact((issuer, kind, subject), *rest))
        self.begun, self.batch = "", frozenset()

    def acknowledge(self, fact: Fact) -> None:
        known = self.newest.get(fact.key)
        if known is not None and fact.rank <= known.rank:
            raise LostError(f"{fact} does not come after {known}")
        self.newest[fact.key] = fact
        self.acknowledged += 1

    def check(self, graph: Metagraph) -> None:
        """Compare with what a process finds that opens the store now."""
        stored = {record.key: record for record in graph.store.live(self.now_ms)}
        due = [known for known in self.newest.values() if known.valid_until_ms > self.now_ms]
        lost = [known for known in due if not _holds(stored, known)]
        if lost and not (self.begun == "switch" and lost == [k for k in due if k.foreign]):
            raise LostError(f"{len(lost)} of {len(due)} are lost: {lost[:3]}")
        for known in self.newest.values():
            newest_ms = graph.store.newest_valid_from_ms(known.key)
            if newest_ms < known.valid_from_ms and known.valid_until_ms > self.now_ms:
                raise LostError(f"{known} is forgotten: {newest_ms}")
        found = {record.content_id for record in stored.values()}
        torn = self.batch & found
        if torn and torn != self.batch:
            raise LostError(f"{len(torn)} of a batch of {len(self.batch)}")
        self._adopt(stored)

    def _adopt(self, stored: dict[RecordKey, Record]) -> None:
        """What was found counts from now on: it may have been committed and not said."""
        unsaid = [
            r for k, r in stored.items() if k not in self.newest or r.rank != self.newest[k].rank
        ]
        if len(unsaid) > max(1, len(self.batch)):
            raise LostError(f"{len(unsaid)} records that nobody was writing")
        self.newest = {
            key: Fact(key, record.valid_from_ms, record.valid_until_ms, record.content_id)
            for key, record in stored.items()
        }


@dataclass(frozen=True, slots=True)
class Moment:
    """After so many acknowledgements, and that long after the next `begun`."""

    begun: str
    acknowledged: int
    pause_seconds: float


def _holds(stored: dict[RecordKey, Record], known: Fact) -> bool:
    record = stored.get(known.key)
    return record is not None and record.rank >= known.rank


def check_sound(store: Store) -> None:
    """The file is whole, and every record in it is the one that was signed."""
    (said,) = store.database.row("PRAGMA integrity_check")
    if said != "ok":
        raise LostError(said)
    for record in store.live(0):
        if verify_form_and_signature(record.raw) != record:
            raise LostError(f"{record.content_id} is not what was signed")


def check_index(graph: Metagraph, now_ms: int) -> None:
    """The index offers what the stored records say, no more and no less."""
    believed = graph.live_records(now_ms)
    manifests = {r.content_id for r in believed if r.kind is Kind.MODEL}
    expected = {
        (record.content_id, offer.manifest)
        for record in believed
        if isinstance(record.body, AvailabilityBody)
        for offer in record.body.offers
        if offer.manifest in manifests
    }
    offered = {(c.record, c.manifest) for c in graph.index.candidates(now_ms)}
    if offered != expected:
        raise LostError(f"{len(offered ^ expected)} offers differ")
    for record in believed:
        known = graph.index.concepts.known(record.subject, now_ms)
        if isinstance(record.body, CapabilityBody) and not known:
            raise LostError(f"{record.subject} is not known")


def crash(path: Path, ledger: Ledger, *, seed: int, moment: Moment) -> None:
    """Start a writer; kill it at that moment; hear what it had said by then."""
    with subprocess.Popen(
        [*WRITER, str(path), str(seed), str(ledger.now_ms)], cwd=ROOT, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        stop = ledger.acknowledged + moment.acknowledged
        while not (ledger.begun == moment.begun and ledger.acknowledged >= stop):
            line = writer.stdout.readline()
            if not line:
                raise LostError(f"the writer ended by itself: {writer.wait()}")
            ledger.hear(line)
        time.sleep(moment.pause_seconds)
        writer.kill()
        for line in writer.stdout:
            ledger.hear(line)


def burst(folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Rounds of writing on a few databases. Raises LostError."""
    rng = random.Random(seed)
    begun: Counter[str] = Counter()
    acknowledged = records = left_in_log = 0
    for number in range(rounds):
        path = folder / f"{number // ROUNDS_PER_DATABASE}.db"
        if number % ROUNDS_PER_DATABASE == 0:
            ledger = Ledger()
        before = ledger.acknowledged
        begun_last = rng.choices(["publish", "batch", "expire", "switch"], weights=(3, 4, 1, 1))[0]
        moment = Moment(begun_last, rng.randrange(ACKNOWLEDGED_MAX), rng.uniform(0, PAUSE_SECONDS))
        crash(path, ledger, seed=rng.randrange(2**32), moment=moment)
        begun[ledger.begun or "between"] += 1
        left_in_log += any(file.stat().st_size for file in folder.glob(f"{path.name}-wal"))
        acknowledged += ledger.acknowledged - before
        graph, _ = open_graph(path, ledger.now_ms)
        check_sound(graph.store)
        ledger.check(graph)
        check_index(graph, ledger.now_ms)
        records += len(ledger.newest)
        graph.store.close()
        ledger.now_ms += STEP_MS
    return {
        "rounds": rounds,
        "acknowledged": acknowledged,
        "records_checked": records,
        "killed_during": dict(begun),
        "log_to_recover": left_in_log,
    }


def opens(folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Kill while a database is made; the next one to open it makes the rest. Raises LostError."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    for number in range(rounds):
        path, ledger = folder / f"open-{number}.db", Ledger()
        moment = Moment("open", 0, rng.uniform(0, OPEN_SECONDS))
        crash(path, ledger, seed=number, moment=moment)
        unsaid = "tables" if _has_tables(path) else "file" if path.exists() else "nothing"
        found["records" if ledger.acknowledged else unsaid] += 1
        graph, _ = open_graph(path, ledger.now_ms)
        check_sound(graph.store)
        ledger.check(graph)
        graph.store.close()
    return {"rounds": rounds, "found": dict(found)}


def _has_tables(path: Path) -> bool:
    """Looked at in a copy, so that recovering the original stays to be done."""
    with tempfile.TemporaryDirectory() as folder:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
    return bool(version)


def nodes(folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """The same with a whole node, and while one starts for the first time. Raises LostError."""
    rng = random.Random(seed)
    node = NodeProcess(folder / "node")
    shown: dict[str, str] = {}
    acknowledged = 0
    for number in range(rounds):
        node.start()
        control = ControlClient(node.data_dir / SOCKET_FILE)
        for content_id in shown.values():
            control.call("record_show", {"id": content_id})
        killer = threading.Timer(rng.uniform(0.05, BURST_SECONDS), node.kill9)
        said, in_flight = _tell(control, node.data_dir, rng, killer)
        killer.join()
        acknowledged += len(said)
        store = Store(node.data_dir / "records.db")
        check_sound(store)
        held = {record.subject: record.content_id for record in store.live(0)}
        store.close()
        shown |= said
        lost = {s for s, content_id in shown.items() if held.get(s) != content_id}
        if in_flight in held:
            lost.discard(in_flight)
        if lost:
            raise LostError(f"{len(lost)} of {len(shown)} are lost: {sorted(lost)[:3]}")
        shown |= {in_flight: held[in_flight]} if in_flight in held else {}
        _kill_first_start(folder / f"first-{number}", rng)
    return {"rounds": rounds, "acknowledged": acknowledged, "first_starts_killed": rounds}


def _tell(
    control: ControlClient, data_dir: Path, rng: random.Random, killer: threading.Timer
) -> tuple[dict[str, str], str]:
    """Publish and import until the node is gone: subject -> content id, and what was under way."""
    own = f"{control.call('status', {})['did']}#"
    imports = _to_import(data_dir, rng)
    said: dict[str, str] = {}
    while True:
        if imports and (not said or rng.random() < 0.5):
            record = imports.pop(0)
            subject, method = record.subject, "record_import"
            params: dict[str, Any] = {"raw": record.raw.decode()}
        else:
            name = f"own-{rng.randrange(PUBLISHED)}"
            subject, method = own + name, "capability_publish"
            params = {
                "name": name,
                "broader": ["text-generation"],
                "labels": {"en": f"{rng.random()}"},
                "input_schema": {},
                "output_schema": {},
            }
        try:
            said[subject] = str(control.call(method, params)["record"])
        except AigridError as error:
            if error.code not in (Code.CONNECTION_LOST, Code.NOT_RUNNING):
                raise
            return said, subject
        if not killer.ident:
            killer.start()


def _to_import(data_dir: Path, rng: random.Random) -> list[Record]:
    """A new member of the node's grid, and what it says."""
    member = Identity(rng.randbytes(32))
    authority = load_authority(data_dir)
    if authority is None:
        raise LostError("the node holds no authority key")
    admitted = MembershipBody(id=member.did, grid=authority.did)
    said = [
        CapabilityBody(
            id=f"{member.did}#imported-{n}", broader=("text-generation",), labels={"en": "x"}
        )
        for n in range(IMPORTS)
    ]
    return [
        _signed(Kind.MEMBERSHIP, admitted, authority, rng.randrange(LIMITS.status_entries)),
        *(_signed(Kind.CAPABILITY, body, member) for body in said),
    ]


def _signed(kind: Kind, body: Body, by: Identity, entry: int | None = None) -> Record:
    """Without an `entry` in the status list the authority would issue a Membership anew."""
    now_ms, max_age_seconds = wall_ms(), LIMITS.status_age_member_seconds
    return build(
        kind,
        body,
        by,
        valid_from_ms=now_ms,
        valid_until_ms=now_ms + 30 * DAY * 1000,
        status=None if entry is None else StatusEntry(by.did, entry, max_age_seconds),
    )


def _kill_first_start(data_dir: Path, rng: random.Random) -> None:
    """A node killed while it founds its grid starts next time, as the authority of one."""
    node = NodeProcess(data_dir)
    node.launch()
    time.sleep(rng.uniform(0, START_SECONDS))
    node.kill9()
    node.start()
    authority = load_authority(data_dir)
    if authority is None or node.ready["grid"] != authority.did:
        raise LostError(f"{node.ready} is not the grid of {authority}")
    node.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--opens", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aigrid-crash-") as name:
        folder = Path(name)
        report = {
            "burst": burst(folder, arguments.rounds, arguments.seed),
            "opens": opens(folder, arguments.opens, arguments.seed),
            "nodes": nodes(folder, arguments.nodes, arguments.seed),
        }
    for where in ("burst", "nodes"):
        count = [report[where]["acknowledged"]]  # one that is lost raises LostError
        if count[0]:
            tell(f"acknowledged and not lost, {where}", count, "records")
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
