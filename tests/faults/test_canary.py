"""A prompt and keys that are looked for everywhere afterwards: nothing a node leaves holds them.

A real node takes them through answers, refusals, failing engines, a worker's crash, an exception of
its own and its own end; then every file in its directory, all that it printed and all that it says
of itself is searched. Two places are made to fail by force (`BREAK`), since nothing else does it.
"""

import base64
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar, Final

import httpx
import pytest
from scripts.nodes import AIGRID, NodeProcess, wait_for
from scripts.offers import offers
from tests.engines.upstream.servers import running
from tests.faults.crashing import crash_stopped
from tests.faults.failing_engines import ENGINES
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
WORKER = "aigrid.engines.worker"
PROMPT: Final = "zyxcanaryprompt"
WRONG_KEY: Final = "aigrid-" + "zyxcanarykey" * 3 + "zyxcana"
OTHER_KEY: Final = "sk-zyxcanaryother"
BREAK: Final = """
import sys
if "-c" in sys.orig_argv and "up" in sys.orig_argv:
    from aigrid.node.gateway import core
    from aigrid.node.gateway.openai import answers

    made = answers.ChatSpelling.whole
    def whole(self, steps, told):
        if "BREAK" in str(steps):
            raise RuntimeError(str(steps))
        return made(self, steps, told)
    answers.ChatSpelling.whole = whole
    async def drained(self):
        raise RuntimeError("broken on purpose")
    core.GatewayCore.drained = drained
elif "-c" in sys.orig_argv and "BREAK" in str(sys.orig_argv):
    from aigrid.node.control_client import ControlClient
    def call(self, method, params, on_event=None):
        raise RuntimeError("broken on purpose")
    ControlClient.call = call
"""


class Collector(BaseHTTPRequestHandler):
    """Takes whatever traces are exported."""

    taken: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.taken.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Seen:
    """A node, its key, and all that came out of it."""

    node: NodeProcess
    key: str
    said: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    def chat(self, model: str, content: str, *, key: str = "", **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        return self.post(json.dumps(body), key=key)

    def post(self, body: str, *, key: str = "", kind: str = "application/json") -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.key}", "content-type": kind}
        url = f"{self.node.gateway}/v1/chat/completions"
        answer = httpx.post(url, content=body, headers=headers, timeout=60)
        if answer.status_code != 200:
            self.said.append(f"{answer.headers} {answer.text}")
            self.codes.append(answer.json()["error"]["code"])
        return answer


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("canary")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(BREAK)
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=collector.serve_forever, daemon=True).start()
    environment = {
        "PYTHONPATH": str(folder / "site"),
        "AIGRID_LOG": "debug",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    node = NodeProcess(folder / "node", "--no-keyless", environment=environment)
    try:
        node.start()
        made = Seen(node, node.cli("key", "create", "canary")["key"])
        node.cli("models", "fetch", "echo")
        with running() as server:
            ENGINES["onnx_text"].publish(node, folder, server)
        wait_for(lambda: len(offers(node)) == 2, timeout_seconds=PATIENCE_SECONDS, what="offers")
        yield made
    finally:
        node.stop()
        collector.shutdown()
        collector.server_close()


def test_answers_and_refusals(seen: Seen) -> None:
    assert PROMPT in seen.chat("echo", PROMPT).text
    assert PROMPT in seen.chat("echo", PROMPT, stream=True).text
    asked = seen.node.cli("ask", PROMPT, "--model", "echo")
    assert PROMPT in asked["text"]
    seen.chat("echo", PROMPT, key=WRONG_KEY)
    seen.chat("echo", PROMPT, key=OTHER_KEY)
    seen.chat("nobody-has-it", PROMPT)
    seen.chat("echo", PROMPT, temperature=-PROMPT.count("z"))
    seen.chat("echo", PROMPT, tools=[{"type": "function", "function": {"name": PROMPT}}])
    seen.chat("echo", PROMPT, provider={"only": [PROMPT], "order": [PROMPT]})
    seen.post(f'{{"model": "echo", "{PROMPT}": ')
    seen.post(f'{{"model": "echo", "messages": "{PROMPT}"}}')
    seen.post(json.dumps({"model": "echo", "messages": [{"role": PROMPT, "content": PROMPT}]}))
    seen.post(f"a={PROMPT}", kind="application/x-www-form-urlencoded")
    seen.chat("echo", PROMPT * 3_000_000)
    low = seen.node.cli("key", "create", "low", "--requests-per-minute", "1", "--model", "echo")
    for model in ("onnx_text", "echo"):
        seen.chat(model, PROMPT, key=low["key"])
    seen.node.cli("key", "revoke", "low")
    seen.chat("echo", PROMPT, key=low["key"])
    expected = {"unauthenticated", "model_not_found", "invalid_request", "unsupported_parameter"}
    expected |= {"unsupported_media_type", "body_too_large", "denied", "rate_limited"}
    assert expected <= set(seen.codes), seen.codes
    seen.said.append(low["key"] if low["key"] in str(seen.said) else "")


def test_an_engine_that_fails_and_a_node_that_does(seen: Seen) -> None:
    seen.chat("onnx_text", f"{PROMPT} a~b", max_tokens=3)
    assert seen.codes[-1] == "engine_failed"
    seen.chat("echo", f"{PROMPT} BREAK")
    assert seen.codes[-1] == "internal"
    assert "RuntimeError" in (seen.node.data_dir / "node.log").read_text()


def test_a_worker_that_crashes_with_the_prompt_in_it(seen: Seen) -> None:
    seen.chat("echo", PROMPT)
    pids = seen.node.workers(WORKER)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(seen.chat, "echo", PROMPT)
        wait_for(
            lambda: seen.node.cli("status")["requests"]["running"] or answer.done(),
            timeout_seconds=PATIENCE_SECONDS,
            what="a request under way",
        )
        for pid in pids:
            crash_stopped(pid)
    # Another worker has answered; the crash is known all the same.
    assert answer.result().status_code == 200
    *_, failure = seen.node.cli("status")["worker_failures"]
    assert failure["code"] == "engine_crashed"


def test_a_command_that_crashes(seen: Seen) -> None:
    environment = {**os.environ, **seen.node._environment}
    command = [*AIGRID, "--data-dir", str(seen.node.data_dir), "ask", f"{PROMPT} BREAK"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    seen.said += [done.stdout.decode(), done.stderr.decode()]
    crash = seen.node.data_dir / "crash.log"
    assert "broken on purpose" in crash.read_text()
    crash.rename(seen.node.data_dir / "crash-of-the-command.log")


def test_nothing_holds_them_while_the_node_runs_or_after_it_has_crashed(seen: Seen) -> None:
    """The last one: it ends the node, which is made to fail at that."""
    headers = {"authorization": f"Bearer {seen.key}"}
    for path in ("/aigrid/v1/status", "/v1/models", "/healthz", "/metrics"):
        seen.said.append(httpx.get(f"{seen.node.gateway}{path}", headers=headers).text)
    query = {"query": "SELECT ?s ?p ?o WHERE { GRAPH ?g { ?s ?p ?o } }"}
    everything = httpx.get(f"{seen.node.gateway}/sparql", params=query, headers=headers, timeout=60)
    assert everything.status_code == 200
    seen.said += [everything.text, *(str(seen.node.cli(*c)) for c in (["status"], ["key", "list"]))]
    _search(seen)
    wal = seen.node.data_dir / "records.db-wal"
    assert wal.exists()
    assert wal.stat().st_size
    assert seen.node.stop() != 0
    assert "broken on purpose" in (seen.node.data_dir / "crash.log").read_text()
    _search(seen)
    database = sqlite3.connect(seen.node.data_dir / "records.db")
    assert database.execute("SELECT name FROM actors").fetchall() == [("canary",)]


def _search(seen: Seen) -> None:
    files = [path for path in seen.node.data_dir.rglob("*") if path.is_file()]
    assert [str(path) for path in files if path.stat().st_mode & 0o077] == []
    assert {"node.log", "records.db"} <= {path.name for path in files}
    found = {str(path): path.read_bytes() for path in files}
    for path in (seen.node.stdout_path, seen.node.stderr_path):
        found[str(path)] = path.read_bytes()
    wait_for(
        lambda: b"worker infer" in b"".join(Collector.taken),
        timeout_seconds=PATIENCE_SECONDS,
        what="spans",
    )
    found["traces"] = b"".join(Collector.taken)
    for number, text in enumerate(seen.said):
        found[f"said {number}"] = text.encode()
    held = [
        (where, secret[:12])
        for where, raw in found.items()
        for secret in (PROMPT, WRONG_KEY, OTHER_KEY, seen.key, seen.key.removeprefix("aigrid-"))
        for spelled in _spelled(secret)
        if re.search(re.escape(spelled), raw, re.IGNORECASE)
    ]
    assert held == []
    # That this would find something: what may be there is found.
    everything = b"".join(found.values())
    assert hashlib.sha256(seen.key.encode()).digest() in everything
    assert b"engine_crashed" in everything


def _spelled(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    yield secret.encode("utf-16-le")
    for shift in range(3):  # base64 of it wherever it may begin, without the letters at its ends
        yield base64.b64encode(bytes(shift) + raw)[4:-4]
