"""A node held by SIGSTOP leaves routing, and comes back after SIGCONT.

    python scripts/faults/frozen.py --rounds 10 --held 3 --held 40

Two real nodes: a gateway that holds nothing, and a holder of the echo model, which is stopped and
let go again. `left` is the time from SIGSTOP until the gateway lists the model no more, `back` that
from SIGCONT until it lists it again, `answers` until a request through the gateway is answered.
Held for longer than 25 s, the holder's connections are given up, and it has to connect anew. Wrong,
and an exit status other than 0, is one that does not leave within 5 s, or does not come back.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.nodes import NodeFailedError, NodeProcess, form_grid, stop_all, stream_chat, wait_for

MODEL = "echo"
LEFT_MAX_SECONDS = 5.0
BACK_MAX_SECONDS = 60.0


class Held(NamedTuple):
    """Seconds: see above."""

    left: float
    back: float
    answers: float


def main() -> int:
    arguments = _parse()
    root = Path(tempfile.mkdtemp(prefix="aigrid-frozen-"))
    gateway, holder = (NodeProcess(root / name, "--name", name) for name in ("gateway", "holder"))
    late = 0
    try:
        form_grid((gateway, holder))
        holder.cli("models", "fetch", MODEL)
        wait_for(lambda: listed(gateway, MODEL), timeout_seconds=20, what="the model to be listed")
        print("held     left    back  answers")
        for seconds in arguments.held or [3.0]:
            for _ in range(arguments.rounds):
                found = hold(gateway, holder, MODEL, seconds)
                late += found.left > LEFT_MAX_SECONDS
                print(
                    f"{seconds:4.0f} s {found.left:6.2f}  {found.back:6.2f}   {found.answers:6.2f}"
                )
    except NodeFailedError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    finally:
        stop_all((gateway, holder))
        shutil.rmtree(root, ignore_errors=True)
    print(f"left too late: {late}")
    return 1 if late else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="for each time that it is held")
    parser.add_argument(
        "--held", type=float, action="append", help="seconds after it has left; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 2
    return arguments


def hold(gateway: NodeProcess, holder: NodeProcess, model: str, seconds: float) -> Held:
    """Stop a holder until it has left, and for so many seconds more; then let it go.

    Raises:
        NodeFailedError: it does not leave, or does not come back.
    """
    began = time.perf_counter()
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        wait_for(
            lambda: holder.peer_id not in listed(gateway, model),
            timeout_seconds=2 * LEFT_MAX_SECONDS,
            what="the frozen node to leave",
        )
        left = time.perf_counter() - began
        time.sleep(seconds)
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    began = time.perf_counter()
    wait_for(
        lambda: holder.peer_id in listed(gateway, model),
        timeout_seconds=BACK_MAX_SECONDS,
        what="the node to come back",
    )
    back = time.perf_counter() - began
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    chat = stream_chat(gateway.gateway, body)
    if chat.served_by != holder.peer_id:
        raise NodeFailedError(f"{chat.served_by} answered instead")
    return Held(left, back, time.perf_counter() - began)


def listed(gateway: NodeProcess, model: str) -> set[str]:
    """Who the gateway thinks may serve a model."""
    connection = http.client.HTTPConnection(urlsplit(gateway.gateway).netloc, timeout=10)
    connection.request("GET", "/v1/models")
    models = json.loads(connection.getresponse().read())["data"]
    connection.close()
    return {node for one in models if one["id"] == model for node in one["aigrid"]["nodes"]}


if __name__ == "__main__":
    sys.exit(main())
