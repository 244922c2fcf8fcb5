"""A member that breaks the rules of Yamux, beside others that only want their requests answered.

    python scripts/faults/hostile_muxers.py [--seconds 5] [--kind NAME]...

Real processes: a node's transport with an RPC server; an honest client that makes one request of
1 KiB after the other; and a member that does one of `KINDS` for a while, anew on each connection
that it loses. Printed for each: how often its connection was ended, the honest client's median and
99th percentile beside those of a while before it, in which another process takes a core and talks
to nobody (ratios mean something on an idle machine), how many of its requests failed, and what the
server's memory had grown by at the end. Exit status 1: the server is gone, a request failed, memory
grew by more than `MEMORY_MAX_BYTES`, or p99 was worse than `WORSE_MAX` times what it was.
`hostile_members.py` does the same with what a member may say in gossip.
"""

import argparse
import json
import os
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import trio
from scripts.bench.children import Child, child, leave_cleanly

from aigrid.node.daemon import wall_ms
from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.transport import RPC_PROTOCOL, PeerAddress, Stream
from aigrid.protocol.framing import FrameKind, encode
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

MEMORY_MAX_BYTES: Final = 64 << 20
WORSE_MAX: Final = 2.0
SERVER, HONEST, HOSTILE = (Identity(name * 32) for name in (b"s", b"h", b"x"))
ECHO, HOARD = RPC_PROTOCOL, "/bench/hoard/1"
TOPIC = "topic"
STRUCT: Final = struct.Struct("!BBHII")
SILENCE_SECONDS: Final = 30.0


class Line:
    """The hostile end: a Noise session on which it says what it likes."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.next_id = 1

    async def say(self, *parts: bytes) -> None:
        data = b"".join(parts)
        for start in range(0, len(data), 60_000):
            await self._session.write(data[start : start + 60_000])

    async def listen(self) -> None:
        """Read and forget, until the other side ends it."""
        while await self._session.read(None):
            pass

    def opened(self) -> bytes:
        """A new stream's first frame."""
        self.next_id += 2
        return frames.window_update(self.next_id - 2, 0, frames.SYN)

    async def open_for_ever(self, at_once: int, then: Callable[[int], bytes]) -> None:
        """Streams without end; behind the first frame of each what `then` makes of its id."""
        while True:
            pieces: list[bytes] = []
            for _ in range(at_once):
                pieces += (self.opened(), then(self.next_id - 2))
            await self.say(*pieces)

    def alive(self) -> bytes:
        """Of one that is agreed on, and that nobody reads."""
        return self.opened() + asks(HOARD, self.next_id - 2)


def frame(kind: int, flags: int, stream_id: int, length: int, payload: bytes = b"") -> bytes:
    return STRUCT.pack(0, kind, flags, stream_id, length) + payload


def asks(protocol: str, stream_id: int) -> bytes:
    """The negotiation of a protocol, without waiting for what comes back."""
    lines = (b"/multistream/1.0.0\n", protocol.encode() + b"\n")
    said = b"".join(bytes([len(one)]) + one for one in lines)
    return frame(frames.DATA, 0, stream_id, len(said), said)


async def for_ever(line: Line, *parts: bytes) -> None:
    said = b"".join(parts)
    while True:
        await line.say(said)


async def pings(line: Line) -> None:
    await for_ever(line, frames.ping(7, frames.SYN) * 2000)


async def pings_unread(line: Line) -> None:
    """Reads no answer."""
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 60
        await for_ever(line, frames.ping(7, frames.SYN) * 2000)


async def streams(line: Line) -> None:
    while True:
        await line.say(b"".join(line.opened() for _ in range(500)))


async def resets(line: Line) -> None:
    await line.open_for_ever(500, lambda one: frames.window_update(one, 0, frames.RST))


async def windows(line: Line) -> None:
    """Window updates are nothing that a peer has to be sparing with."""
    await line.say(line.alive())
    await for_ever(line, frames.window_update(1, 1) * 3000)


async def crumbs(line: Line) -> None:
    """A byte in each frame, within the window that comes back."""
    await line.say(line.alive())
    one = frame(frames.DATA, 0, 1, 1, b"x")
    await for_ever(line, one * 1000)


async def nothings(line: Line) -> None:
    await line.say(line.alive())
    await for_ever(line, frame(frames.DATA, 0, 1, 0) * 3000)


async def pongs(line: Line) -> None:
    """Answers to what nobody asked."""
    await for_ever(line, frames.ping(7, frames.ACK) * 2000)


async def repeats(line: Line) -> None:
    """It has ended its side, and says so again and again."""
    await line.say(line.alive())
    await for_ever(line, frame(frames.WINDOW_UPDATE, frames.ACK | frames.FIN, 1, 0) * 3000)


async def unused(line: Line) -> None:
    """Streams that are opened and ended with nothing in them."""
    await line.open_for_ever(100, lambda one: frames.window_update(one, 0, frames.FIN))


async def unserved(line: Line) -> None:
    """Streams for a protocol that nobody serves, ended after it."""
    await line.open_for_ever(
        50,
        lambda one: asks("/nobody/serves/1", one) + frames.window_update(one, 0, frames.FIN),
    )


async def garbage(line: Line) -> None:
    """Streams for requests, with something else on them."""
    await line.open_for_ever(
        50, lambda one: asks(ECHO, one) + frame(frames.DATA, 0, one, 9, b"z" * 9)
    )


async def small_parts(line: Line) -> None:
    """Requests to four streams in parts of one byte each, as much as the windows let through."""
    part = encode(FrameKind.REQUEST_PART, b"x") * (4096 // 6)
    first = line.next_id
    for _ in range(4):
        opened = line.opened()
        await line.say(opened, asks(ECHO, line.next_id - 2))
    while True:
        for at in range(4):
            await line.say(frame(frames.DATA, 0, first + 2 * at, len(part), part))


async def overrun(line: Line) -> None:
    await line.say(line.alive())
    await for_ever(line, frame(frames.DATA, 0, 1, 50_000, bytes(50_000)))


async def huge(line: Line) -> None:
    await line.say(line.alive(), frame(frames.DATA, 0, 1, 1 << 31))
    await for_ever(line, bytes(60_000))


async def after_the_end(line: Line) -> None:
    await line.say(line.alive(), frame(frames.WINDOW_UPDATE, frames.FIN, 1, 0))
    await for_ever(line, frame(frames.DATA, 0, 1, 1000, bytes(1000)) * 10)


async def nonsense(line: Line) -> None:
    await for_ever(line, os.urandom(50_000))


async def memory(line: Line) -> None:
    """As many streams as there may be, each filled as far as it may, at one that reads none."""
    for _ in range(LIMITS.mux_streams_max):
        await line.say(line.alive())
        for _ in range(20):
            await line.say(frame(frames.DATA, 0, line.next_id - 2, 50_000, bytes(50_000)))
    await trio.sleep_forever()


async def silence(line: Line) -> None:
    """Half open: it neither reads nor answers pings."""
    await line.say(line.opened())
    await trio.sleep_forever()


DEAF = {pings_unread, silence}
KINDS: dict[str, Callable[[Line], Awaitable[None]]] = {
    one.__name__: one
    for one in (
        pings,
        pings_unread,
        streams,
        resets,
        windows,
        crumbs,
        nothings,
        pongs,
        repeats,
        unused,
        unserved,
        garbage,
        small_parts,
        overrun,
        huge,
        after_the_end,
        nonsense,
        memory,
        silence,
    )
}


# One connection of a kind; raises when it is ended.
Talk = Callable[[str, str], Awaitable[None]]

# --- the processes


async def serve(folder: str) -> None:
    from aigrid.node.cli import logs
    from aigrid.node.network.streams import RpcServer, Send

    logs.configure(Path(folder), {"AIGRID_LOG": "error"})  # it writes what a node writes

    async def answer(_peer: str, asked: bytes, send: Send) -> None:
        await send(asked)

    async def hoard(_stream: Stream) -> None:
        await trio.sleep_forever()

    ours = _transport(SERVER, HONEST, HOSTILE)
    ours.handle_stream(ECHO, RpcServer(answer).serve)
    ours.handle_stream(HOARD, hoard)
    async with ours.running(), ours.subscribe(TOPIC):
        print(json.dumps({"address": ours.listen_addresses[0], "pid": os.getpid()}), flush=True)
        await trio.sleep_forever()


def _transport(own: Identity, *others: Identity) -> Any:
    from aigrid.node.network.libp2p_transport import Libp2pTransport

    made = Libp2pTransport(
        signing_seed=own.seed,
        topics=frozenset({TOPIC}),
        now_ms=wall_ms,
        listen=("/ip4/127.0.0.1/tcp/0",),
    )
    made.admit([one.peer_id for one in others])
    return made


async def ask(address: str) -> None:
    """For each line on stdin, that many seconds of requests; then what they took."""
    from aigrid.node.network.streams import RpcClient

    ours, body = _transport(HONEST, SERVER), bytes(1024)
    rpc = RpcClient(ours)
    async with ours.running(), trio.open_nursery() as nursery:
        await nursery.start(rpc.run)
        await ours.connect(PeerAddress(SERVER.peer_id, (address,)))
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            took, failed, end = [], 0, trio.current_time() + float(line)
            while trio.current_time() < end:
                began = time.perf_counter()
                try:
                    await rpc.ask(SERVER.peer_id, body, silence_seconds=SILENCE_SECONDS)
                except Exception:  # noqa: BLE001 - counted, whatever it is
                    failed += 1
                    await trio.sleep(0.01)
                took.append((time.perf_counter() - began) * 1000)
            print(json.dumps({"took": took, "failed": failed}), flush=True)


async def attack(address: str, kind: str, talk: Talk) -> None:
    """Until it is killed; says when it begins, and each time that its connection was ended."""
    import aigrid.node.network.compat  # noqa: F401 - it takes seconds

    print(json.dumps({"begins": kind}), flush=True)
    while True:
        try:
            await talk(address, kind)
        except Exception:  # noqa: BLE001 - whatever the end of a connection looks like
            print(json.dumps({"ended": kind}), flush=True)
            await trio.sleep(0.05)


async def _talk(address: str, kind: str) -> None:
    line = Line(await _session(address))
    async with trio.open_nursery() as nursery:
        if KINDS[kind] not in DEAF:
            nursery.start_soon(line.listen)
        nursery.start_soon(KINDS[kind], line)


def spin() -> None:
    """Take a core, as a hostile process does, and talk to nobody."""
    while True:
        pass


async def _session(address: str) -> Any:
    """A Noise session with the server on which Yamux was agreed on."""
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.security.noise.transport import PROTOCOL_ID as NOISE

    from aigrid.node.network import compat, negotiation
    from aigrid.node.network.tcp import TcpStream, Traffic, parse_address

    at = parse_address(address)
    noise = compat.build(HOSTILE.seed, lambda: ()).noise
    tcp = TcpStream(await trio.open_tcp_stream(at.host, at.port), Traffic())
    await negotiation.select(tcp, str(NOISE))
    expected = compat.ID.from_base58(SERVER.peer_id)
    session = await noise.secure_outbound(RawConnection(tcp, initiator=True), expected)
    await negotiation.select(session, frames.PROTOCOL_ID)
    return session


# --- the run


@dataclass(frozen=True)
class Phase:
    """What the honest client saw, in milliseconds."""

    p50: float
    p99: float
    failed: int


def phase(client: Child, seconds: float) -> Phase:
    client.tell(str(seconds))
    said = client.report("took", seconds + 60)
    cuts = statistics.quantiles(said["took"], n=100, method="inclusive")
    return Phase(cuts[49], cuts[98], said["failed"])


def rss_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(script: str, kinds: Sequence[str], seconds: float) -> int:
    def own(*arguments: str) -> Sequence[str]:
        return (sys.executable, str(Path(script).resolve()), *arguments)

    faults = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        child(own("--as", "server", folder)) as server,
    ):
        said = server.report("address", 60)
        address, pid = said["address"], int(said["pid"])
        with child(own("--as", "honest", address)) as client:
            phase(client, 2.0)
            print(
                f"{'':15}{'ended':>7}{'p50 ms':>14}{'p99 ms':>16}{'p99 ratio':>11}"
                f"{'failed':>8}{'memory MiB':>12}"
            )
            for kind in kinds:
                attacks = own("--as", kind, address)
                faults += one_kind(kind, client, own("--as", "spin"), attacks, pid, seconds)
    return int(bool(faults))


def one_kind(  # noqa: PLR0917 - one of each
    kind: str,
    client: Child,
    spins: Sequence[str],
    attacks: Sequence[str],
    pid: int,
    seconds: float,
) -> bool:
    """Whether it did more harm than it may."""
    with child(spins):
        time.sleep(0.5)
        before, start = phase(client, seconds), rss_bytes(pid)
    with child(attacks) as hostile:
        hostile.report("begins", 60)
        during = phase(client, seconds)
        grown = rss_bytes(pid) - start
        ended = 0
        try:
            while True:
                hostile.report("ended", 0.05)
                ended += 1
        except Exception:  # noqa: BLE001 - it has said all
            pass
    alive, worse = rss_bytes(pid) > 0, during.p99 / before.p99
    harm = during.failed or not alive or grown > MEMORY_MAX_BYTES or worse > WORSE_MAX
    print(
        f"{kind:15}{ended:7}{before.p50:7.2f}{during.p50:7.2f}{before.p99:8.2f}{during.p99:8.2f}"
        f"{worse:11.2f}{during.failed:8}{grown / (1 << 20):12.1f}{'  TOO MUCH' if harm else ''}",
        flush=True,
    )
    return bool(harm)


def main(script: str, doc: str | None, kinds: Sequence[str], talk: Talk) -> int:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each pause and each attack")
    parser.add_argument("--kind", action="append", choices=kinds)
    parser.add_argument("--as", dest="role", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role is None:
        leave_cleanly()
        return run(script, given.kind or kinds, given.seconds)
    role, *rest = given.role
    if role == "server":
        trio.run(serve, *rest)
    elif role == "honest":
        trio.run(ask, *rest)
    elif role == "spin":
        spin()
    else:
        (address,) = rest
        trio.run(attack, address, role, talk)
    return 0


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__, tuple(KINDS), _talk))
