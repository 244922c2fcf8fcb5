"""A thousand Demands that must bring nothing, then one that must bring one model once.

    python scripts/faults/demands.py --demands 1000       (quick: --quick)

Three real nodes over libp2p: *founder* has the grid's authority and publishes `listed`, *asker*
publishes `unlisted`; neither hosts anything. *host* could run both, and its list has the
authority's models alone. A program that was invited as a member gossips Demands to the host by the
book: in another member's name, of strangers, expired ones, ones from the future, ones that it has
withdrawn, the same of these again and again, ones of counts beyond the limit, and as fast as it can
ones that are in order but for what the host does not list, or for what does not exist, until it is
refused as `over_rate`. A stranger
tries to open the gossip at all. Then the asker asks for `listed`.

Wrong, and an exit status other than 0, is: a file that came or a byte of a model received before
the asker asked; a Demand that was refused for another reason than it deserves; a node that ended,
that answered its status later than after `ANSWER_MAX_SECONDS` or grew by more than
`GROWTH_MAX_BYTES`; and after the asker's request anything but one download of the model's size,
one model fetched, and the host's answer. Prints a table: per kind how many were sent and with
which codes the host refused them.
"""

import argparse
import http.client
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.heavy_model import heavy_model
from scripts.nodes import NodeFailedError, NodeProcess, form_grid, stop_all, stream_chat, wait_for
from tests.faults.attackers import Attacker, publish

from aigrid.node.network import compat
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.transport import RPC_PROTOCOL
from aigrid.protocol.canonical import content_id
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import DemandBody, Kind, WantedModel, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Records, encode
from aigrid.protocol.record import build, sign

MIB = 1 << 20
ANSWER_MAX_SECONDS = 2.5  # below `ping_timeout_seconds`
GROWTH_MAX_BYTES = 32 * MIB
BATCH = 40  # records of a gossip message
LISTED, UNLISTED = "listed", "unlisted"
PLACEMENT = {
    "founder": "host=nothing,replicas_min=0",
    "host": "host=trusted,replicas_min=0",
    "asker": "host=nothing,replicas_min=0",
}


@dataclass(frozen=True)
class Sort:
    """Demands of one kind: the `n`th of them, and with which codes they may be refused.

    Those that may be `over_rate` are in order: the first are taken in, and come to nothing. Of
    those of which `more` are sent, which no member may have at once, some have to be refused.
    """

    name: str
    make: Callable[[int], bytes]
    codes: frozenset[str] = frozenset()
    more: int = 0


@dataclass
class Seen:
    """What was observed of the host while it was flooded."""

    answers: list[float] = field(default_factory=list)
    wanted: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    arguments = _parse()
    root = Path(tempfile.mkdtemp(prefix="aigrid-demands-"))
    nodes = {name: _node(root / name, name) for name in PLACEMENT}
    try:
        return run(root, nodes, arguments.demands)
    except NodeFailedError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    finally:
        stop_all(list(nodes.values()))
        shutil.rmtree(root, ignore_errors=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demands", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="160 demands")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.demands = 160
    return arguments


def _node(data_dir: Path, name: str, memory: str = "cpu=1GiB") -> NodeProcess:
    # A spare worker would come a second after the first load, and be taken for growth.
    environment = {
        "AIGRID_PLACEMENT": PLACEMENT[name],
        "AIGRID_POOL": "spares = 0",
        "AIGRID_MEMORY": memory,
    }
    return NodeProcess(data_dir, "--name", name, environment=environment)


def run(root: Path, nodes: dict[str, NodeProcess], count: int) -> int:
    """The exit status."""
    founder, host, asker = (nodes[name] for name in PLACEMENT)
    form_grid((founder, host, asker))
    size, listed = offer(founder, root, LISTED, seed=1)
    _, unlisted = offer(asker, root, UNLISTED, seed=2)
    known = {LISTED: listed, UNLISTED: unlisted}
    founder.stop()  # from now on it has no memory to answer itself
    founder = nodes["founder"] = _node(founder.data_dir, "founder", memory="cpu=1MiB")
    founder.start()
    wait_for(
        lambda: founder.peer_id in _named(host, LISTED)["seeds"],
        timeout_seconds=60,
        what="news of who gives the files",
    )
    wait_for(
        lambda: "model" in _named(host, UNLISTED), timeout_seconds=60, what="news of the other"
    )
    seen = trio.run(flood, (founder, host, asker), known, count)
    began = time.perf_counter()
    body = {"model": LISTED, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    chat = stream_chat(asker.gateway, body)
    took, weights = time.perf_counter() - began, status(host)["weights"]
    got, fetched = weights["received_bytes"], weights["fetched_models"]
    print(f"then one member's request: answered after {took:.1f} s, {got} bytes came for {size}")
    if chat.served_by != host.peer_id or fetched != 1 or not size <= got < 1.1 * size:
        seen.wrong.append(f"{fetched} models, {got} bytes, served by {chat.served_by}")
    for line in seen.wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if seen.wrong else 0


def offer(node: NodeProcess, root: Path, name: str, *, seed: int) -> tuple[int, WantedModel]:
    """Publish a model; its bytes, and how to want it."""
    path = heavy_model(root, 4 * MIB, seed=seed)
    said = node.cli("publish", str(path), "--capability", "text-generation", "--name", name)
    wanted = WantedModel(said["model"], said["record"], LIMITS.demand_waiting_max)
    return path.stat().st_size, wanted


def status(node: NodeProcess) -> Any:
    connection = http.client.HTTPConnection(urlsplit(node.gateway).netloc, timeout=30)
    try:
        connection.request("GET", "/aigrid/v1/status")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _named(node: NodeProcess, name: str) -> Any:
    return next((m for m in status(node)["models"] if m["name"] == name), {"seeds": []})


# --- what is sent


def sorts(liar: Identity, victim: str, known: dict[str, WantedModel]) -> Sequence[Sort]:
    """In an order in which none supersedes one that comes later."""
    listed, unlisted = known[LISTED], known[UNLISTED]
    nowhere = WantedModel(content_id(b"no model"), content_id(b"no manifest"), 1)
    absurd = WantedModel(listed.model, listed.manifest, 2**40)
    start_ms, lasts_ms = _now_ms(), LIMITS.demand_ttl_seconds * 1000
    skew_ms = LIMITS.clock_skew_seconds * 1000

    def demand(wanted: WantedModel, who: Identity, from_ms: int) -> bytes:
        body = DemandBody(id=who.did, wanted=(wanted,))
        until_ms = from_ms + lasts_ms
        return sign(Kind.DEMAND, body, who, valid_from_ms=from_ms, valid_until_ms=until_ms).raw

    def stranger(n: int) -> bytes:
        return demand(listed, Identity((10**6 + n).to_bytes(32, "big")), _now_ms())

    def forged(n: int) -> bytes:
        who = Identity((2 * 10**6 + n).to_bytes(32, "big"))
        key, theirs = (did.removeprefix("did:key:") for did in (who.did, victim))
        return demand(listed, who, _now_ms()).replace(key.encode(), theirs.encode())

    def withdrawn(n: int) -> bytes:
        if n:
            return demand(listed, liar, start_ms - n)
        body = WithdrawnBody(id=liar.did, withdrawn=True)
        until_ms = start_ms + lasts_ms
        return build(Kind.DEMAND, body, liar, valid_from_ms=start_ms, valid_until_ms=until_ms).raw

    return (
        Sort("in another's name", forged, frozenset({"bad_signature"})),
        Sort("a stranger's", stranger, frozenset({"not_member"})),
        Sort(
            "expired",
            lambda n: demand(listed, liar, start_ms - lasts_ms - 1000 - n),
            frozenset({"expired"}),
        ),
        Sort(
            "from the future",
            lambda n: demand(listed, liar, _now_ms() + 2 * skew_ms + n),
            frozenset({"from_future"}),
        ),
        Sort("withdrawn", withdrawn, frozenset({"superseded"})),
        Sort("one of these again", lambda _: withdrawn(1), frozenset({"superseded"})),
        Sort(
            "absurd counts", lambda n: demand(absurd, liar, start_ms + n), frozenset({"malformed"})
        ),
        Sort(
            "not on the list",
            lambda n: demand(unlisted, liar, start_ms + 1000 + n),
            frozenset({"over_rate", "superseded"}),
        ),
        Sort(
            "of no model",
            lambda n: demand(nowhere, liar, start_ms + 30_000 + n),
            frozenset({"over_rate", "superseded"}),
        ),
        Sort(
            "too many at once",
            lambda n: demand(unlisted, liar, start_ms + 60_000 + n),
            frozenset({"over_rate", "superseded"}),
            more=LIMITS.records_burst_per_issuer + 200,  # some rate flows off meanwhile
        ),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# --- sending, and what comes of it


async def flood(
    nodes: tuple[NodeProcess, NodeProcess, NodeProcess], known: dict[str, WantedModel], count: int
) -> Seen:
    """Send all, and see what the host makes of them."""
    founder, host, asker = nodes
    before, memory = files(host), host.usage().pss_bytes
    async with trio.open_nursery() as nursery:
        liar = Attacker(nursery)
        await liar.become_member(founder)
        muxer = await liar.meet(host)
        with watched(host) as seen:
            stranger = Attacker(nursery)
            outside = await stranger.dial(host)
            for protocol in (compat.MESHSUB_PROTOCOL, RPC_PROTOCOL):
                if await stranger.is_served(outside, protocol):
                    seen.wrong.append(f"{protocol} is served to a stranger")
            print(f"{'demands':<20}{'sent':>6}  refused with")
            each = sorts(liar.identity, str(asker.ready["did"]), known)
            for number, sort in enumerate(each):
                share = sort.more + count // len(each) + (number < count % len(each))
                await send((liar, muxer), host, sort, share, seen)
            await trio.sleep(2 * LIMITS.placement_step_seconds)  # turns of whoever comes later
        nursery.cancel_scope.cancel()
    judge(nodes, before, memory, seen)
    told = seen.wanted.get(known[UNLISTED].model, "nothing")
    print(f"of what is not on its list the host said: {told}")
    # Publishing has loaded it once: the one replica that is live is its publisher's own, which
    # hosts nothing of others.
    warm = (await trio.to_thread.run_sync(_named, host, UNLISTED)).get("warm")
    print(f"and that it is warm at its publisher's alone: {warm == [asker.peer_id]}")
    if not set(warm or ()) <= {asker.peer_id}:
        seen.wrong.append(f"what is not on its list is warm at {warm}")
    if "not on this node's list" not in told or known[LISTED].model in seen.wanted:
        seen.wrong.append(f"the host took these for wanted: {seen.wanted}")
    return seen


async def send(
    way: tuple[Attacker, Muxer], host: NodeProcess, sort: Sort, count: int, seen: Seen
) -> None:
    """Gossip so many, wait until the host has taken them in, and print what it said."""
    was = refused(host)
    raws = [sort.make(n) for n in range(count)]
    batches = [encode(Records(tuple(raws[n : n + BATCH]))) for n in range(0, count, BATCH)]
    for batch in batches:  # messages of one stream frame are taken in out of order
        await publish(*way, batch)
        await trio.sleep(0.2)
    found, deadline = Counter[str](), trio.current_time() + 3.0
    while found.total() < count and trio.current_time() < deadline:
        await trio.sleep(0.2)
        found = await trio.to_thread.run_sync(refused, host) - was
    said = ", ".join(f"{code} {n}" for code, n in found.most_common())
    print(f"{sort.name:<20}{count:>6}  {said}", flush=True)
    refusals = found["over_rate"] if sort.more else found.total()
    as_it_should = refusals > 0 or ("over_rate" in sort.codes and not sort.more)
    if not (found.keys() <= sort.codes and as_it_should):
        seen.wrong.append(f"{sort.name}: {said or 'none refused'}")


def refused(node: NodeProcess) -> Counter[str]:
    return Counter(status(node)["refused"]["records"])


@contextmanager
def watched(host: NodeProcess) -> Iterator[Seen]:
    """Ask for the host's status all the while."""
    seen, done = Seen(), threading.Event()

    def ask() -> None:
        while not done.wait(0.1):
            began = time.perf_counter()
            try:
                said = status(host)
            except (OSError, http.client.HTTPException, ValueError) as error:
                seen.wrong.append(f"no status: {type(error).__name__}")
                return
            seen.answers.append(time.perf_counter() - began)
            seen.wanted.update(said["wanted"])
            if said["weights"]["received_bytes"] or said["weights"]["fetching"]:
                seen.wrong.append("files are on their way")
                return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def files(node: NodeProcess) -> set[str]:
    """All that a node has on its disk but its databases, whose journals come and go."""
    found = (path for path in node.data_dir.rglob("*") if path.is_file())
    return {str(path) for path in found if ".db" not in path.name}


def judge(nodes: Sequence[NodeProcess], before: set[str], memory: int, seen: Seen) -> None:
    """Print what became of the host, and note what is wrong with it."""
    host = nodes[1]
    new, grown = files(host) - before, host.usage().pss_bytes - memory
    slowest = max(seen.answers, default=float("inf"))
    received = status(host)["weights"]["received_bytes"]
    print(
        f"received {received} bytes, {len(new)} new files; {len(seen.answers)} answers of the host "
        f"meanwhile, the slowest after {slowest:.2f} s; memory {grown / MIB:+.1f} MiB"
    )
    for told, wrong in (
        ("a node has ended", not all(node.alive for node in nodes)),
        (f"{received} bytes received", received),
        (f"new files: {sorted(new)}", new),
        (f"an answer took {slowest:.2f} s", slowest > ANSWER_MAX_SECONDS),
        (f"it grew by {grown} bytes", grown > GROWTH_MAX_BYTES),
    ):
        if wrong:
            seen.wrong.append(told)


if __name__ == "__main__":
    sys.exit(main())
