"""What becomes of requests, at a stand-in for a gateway."""

import http.client
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from scripts.testnets.grid import State
from scripts.testnets.schedule import Ask
from scripts.testnets.workload import HIT, NO_NODE, OK, WRONG, Outcome, Prompts, Workload
from tests.patience import PATIENCE_SECONDS

TEXT = "word3-0 word3-1"
LAST: dict[str, Any] = {
    "choices": [],
    "aigrid": {"attempts": 2, "segments": [{"node": "A"}, {"node": "B"}]},
}


def piece(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


class Gateway(BaseHTTPRequestHandler):
    """Answers what `server.says` holds: (status, body), or a list of events."""

    server: Any

    def do_POST(self) -> None:
        self.server.asked.append(
            (json.loads(self.rfile.read(int(self.headers["Content-Length"]))), dict(self.headers))
        )
        self.server.wait.wait(PATIENCE_SECONDS)
        says = self.server.says
        self.send_response(200 if isinstance(says, list) else says[0])
        self.send_header("x-aigrid-node", "A")
        self.end_headers()
        if isinstance(says, list):
            for event in says:
                data = event if isinstance(event, str) else json.dumps(event)
                self.wfile.write(f"data: {data}\n\n".encode())
        else:
            self.wfile.write(json.dumps(says[1]).encode())

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        running: Any = server
        running.asked, running.wait = [], Event()
        running.wait.set()
        Thread(target=server.serve_forever, daemon=True).start()
        yield running
        server.shutdown()


def member(gateway: Any) -> Any:
    node = SimpleNamespace(gateway=f"http://127.0.0.1:{gateway.server_address[1]}")
    return SimpleNamespace(number=4, node=node, state=State.UP, hit_at=-1.0)


def workload(began: float = 0.0) -> Workload:
    def connect(_number: int, netloc: str, patience: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(netloc, timeout=patience)

    return Workload(began or time.monotonic(), Prompts(2, 8, PATIENCE_SECONDS), 2, connect)


def come_of(gateway: Any, says: Any, *, streamed: bool = False, model: str = "echo") -> Outcome:
    gateway.says = says
    made = workload()
    made.start(Ask(0.0, 3, model, streamed, 0.5), [member(gateway)])
    made.finish(PATIENCE_SECONDS)
    (found,) = made.outcomes
    return found


def test_a_whole_answer_is_taken(gateway):
    said = (200, {"choices": [{"message": {"content": TEXT}}]})
    found = come_of(gateway, said)
    assert (found.code, found.served_by, found.asker, found.first_seconds) == (OK, "A", 4, 0.0)
    assert found.took_seconds > 0
    ((body, headers),) = gateway.asked
    assert body["messages"] == [{"role": "user", "content": TEXT}]
    assert (body["model"], body["max_tokens"], body["stream"]) == ("echo", 8, False)
    assert headers["x-aigrid-patience"] == f"{PATIENCE_SECONDS:.0f}"


def test_a_stream_is_taken_piece_by_piece(gateway):
    found = come_of(gateway, [piece("word3-0 "), piece("word3-1"), LAST, "[DONE]"], streamed=True)
    assert (found.code, found.served_by, found.attempts) == (OK, "B", 2)
    assert 0 < found.first_seconds <= found.took_seconds


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ([piece("word3-0 ")], "stream_cut"),
        ([piece("word3-0 "), {"error": {"code": "connection_lost", "message": "m"}}], "connection_lost"),
        ([piece("word3-1"), "[DONE]"], WRONG),
        ((503, {"error": {"code": "no_candidate", "message": "m"}}), "no_candidate"),
        ((500, {"error": {}}), "unknown"),
    ],
)  # fmt: skip
def test_what_is_no_answer_has_a_code(gateway, says, code):
    assert come_of(gateway, says, streamed=True).code == code


def test_what_other_models_say_is_not_judged(gateway):
    assert come_of(gateway, [piece("Hello!"), "[DONE]"], streamed=True, model="smollm2").code == OK


def test_who_cannot_be_reached_or_speaks_no_http_is_told_by_what_the_client_saw(gateway):
    assert come_of(gateway, (200, "no object")).code == "client_TypeError"
    gateway.server_close()
    assert come_of(gateway, []).code.startswith("client_Connection")


@pytest.mark.parametrize("change", [{"state": State.DOWN}, {"hit_at": 1e12}])
def test_a_request_whose_gateway_was_broken_meanwhile_is_told_apart(gateway, change):
    gateway.says = (200, {"choices": [{"message": {"content": TEXT}}]})
    gateway.wait.clear()
    made, asker = workload(), member(gateway)
    made.start(Ask(0.0, 3, "echo", streamed=False, draw=0.5), [asker])
    vars(asker).update(change)
    gateway.wait.set()
    made.finish(PATIENCE_SECONDS)
    assert [one.code for one in made.outcomes] == [HIT]


def test_without_a_node_nobody_is_asked():
    made = workload()
    made.start(Ask(0.0, 3, "echo", streamed=False, draw=0.5), [])
    assert [one.code for one in made.outcomes] == [NO_NODE]


def test_time_counts_from_when_a_request_was_due(gateway):
    gateway.says = (200, {"choices": [{"message": {"content": TEXT}}]})
    made = workload(time.monotonic() - 7)
    made.start(Ask(0.0, 3, "echo", streamed=False, draw=0.5), [member(gateway)])
    made.finish(PATIENCE_SECONDS)
    assert made.outcomes[0].took_seconds >= 7


def test_a_request_that_does_not_end_hangs(gateway):
    gateway.says = (200, {})
    gateway.wait.clear()
    made = workload()
    made.start(Ask(0.0, 3, "echo", streamed=False, draw=0.5), [member(gateway)])
    made.finish(0.05)
    gateway.wait.set()
    assert [one.code for one in made.outcomes] == ["hangs"]
