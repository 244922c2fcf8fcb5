"""Models that do not fit together, and one that never fits: does every request end, and how?

    python scripts/faults/no_room.py --seconds 300      (quick: --seconds 20)

A node has memory for one of two models at a time, and too little for a third under any
circumstances. One client alternates between the two, two more ask each for one of them without a
pause, and a fourth asks for the third. Every request has to end, within the patience of a client,
in an answer or in a refusal that says why: 429 or 503 with Retry-After, or that it does not fit.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.nodes import NodeFailedError, NodeProcess
from scripts.small_models import Reply, ask, publish, write_regressor

PATIENCE_SECONDS = 30.0
TURNS = {
    "alternating": ("left", "right"),
    "left only": ("left",),
    "right only": ("right",),
    "never fits": ("huge",),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aigrid-room-") as folder:
        try:
            memory = prepare(Path(folder))
            node = NodeProcess(Path(folder) / "node", "--memory", f"cpu={memory}", "--threads", "1")
            node.start()
            try:
                found = surge(node.gateway, arguments.seconds)
                left = node.cli("status")
            finally:
                node.stop()
        except NodeFailedError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    wrong = [reply for replies in found.values() for reply in replies if not ended(reply)]
    say("client", "requests", "answered", "p50", "longest", "refused")
    for who, replies in found.items():
        report(who, replies)
    for one in left["withheld"]:
        sys.stdout.write(f"not offered: {one['name']}: {one['problem']}\n")
    for reply in wrong[:5]:
        sys.stderr.write(f"wrong: {reply}\n")
    starved = [who for who in ("left only", "right only") if not answered(found[who])]
    if starved:
        sys.stderr.write(f"never answered: {', '.join(starved)}\n")
    return 1 if wrong or starved else 0


def prepare(folder: Path) -> int:
    """Have a node hold the three; bytes that are enough for one of the two."""
    node = NodeProcess(folder / "node")
    node.start()
    try:
        sizes = []
        for number, (name, layers) in enumerate((("left", 1), ("right", 1), ("huge", 12))):
            path = folder / f"{name}.onnx"
            write_regressor(path, seed=number, width=1024, layers=layers)
            sizes.append(publish(node, path, name))
    finally:
        node.stop()
    memory = int(max(sizes[:2]) * 1.1)
    if sizes[2] <= memory:
        raise NodeFailedError("the third model fits")
    return memory


def surge(gateway: str, seconds: float) -> dict[str, list[Reply]]:
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(len(TURNS)) as threads:
        jobs = {who: threads.submit(client, gateway, names, until) for who, names in TURNS.items()}
        return {who: job.result() for who, job in jobs.items()}


def client(gateway: str, names: tuple[str, ...], until: float) -> list[Reply]:
    found: list[Reply] = []
    for name in cycle(names):
        if time.monotonic() >= until:
            return found
        reply = ask(gateway, name, timeout_seconds=PATIENCE_SECONDS)
        found.append(reply)
        if reply.status != 200:
            time.sleep(min(reply.retry_after or 1.0, 5.0))
    return found


def ended(reply: Reply) -> bool:
    """Whether it was answered, or refused with a reason."""
    if reply.status == 200:
        return True
    refused = reply.status in {429, 503} and reply.retry_after is not None
    return bool(reply.message) and (refused or reply.code in {"out_of_memory", "model_not_found"})


def answered(replies: list[Reply]) -> list[Reply]:
    return [reply for reply in replies if reply.status == 200]


def report(who: str, replies: list[Reply]) -> None:
    good = answered(replies)
    refused = Counter(f"{r.status} {r.code}" for r in replies if r.status != 200)
    say(
        who,
        str(len(replies)),
        f"{len(good) / max(1, len(replies)):.1%}",
        f"{median(r.seconds for r in good) * 1000:.0f} ms" if good else "-",
        f"{max((r.seconds for r in replies), default=0.0):.1f} s",
        "  " + ", ".join(f"{count} x {what}" for what, count in refused.items()),
    )


def say(what: str, *cells: str) -> None:
    sys.stdout.write(f"{what:14}" + "".join(f"{cell:>11}" for cell in cells) + "\n")


if __name__ == "__main__":
    sys.exit(main())
