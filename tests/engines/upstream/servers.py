"""A small server that speaks both dialects, or misbehaves in a way that its `mode` names."""

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aigrid.engines.base import Endpoint, ModelSource
from aigrid.protocol.tensors import TensorSpec
from aigrid.protocol.upstream import Upstream

WORDS = ("One", " two", " three", " four")
PAIR = TensorSpec("x", "FP32", (-1, 2))
FATAL, DEADLY = "the prompt of death", -666.0
SUM = TensorSpec("y", "FP32", (-1, 1))


class Server(ThreadingHTTPServer):
    """Answers as `mode` says: "good", or what is wrong with its answers to requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = "good"
        self.digest = ""
        self.connections = 0
        self.binary = False
        self.metrics = ""
        self.said: list[tuple[str, dict[str, str], Any]] = []
        self.client_left = threading.Event()
        self.over = threading.Event()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, path: str) -> list[Any]:
        """The bodies that were posted to `path`."""
        return [body for at, _, body in self.said if at == path]

    def handle_error(self, *_: object) -> None:
        """Clients of these tests leave in the middle."""


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def text_source(server: Server, task: str = "text-generation", key: str = "") -> ModelSource:
    return ModelSource(
        "bafymodel",
        "openai_api",
        {},
        task,
        upstream=Upstream("did:key:zme", "parrot", server.digest),
        endpoint=Endpoint(f"{server.root}/v1", key),
    )


def tensor_source(server: Server, **more: Any) -> ModelSource:
    return ModelSource(
        "bafymodel",
        "open_inference",
        {},
        "tensor",
        upstream=Upstream("did:key:zme", "adder", "3", (PAIR,), (SUM,)),
        endpoint=Endpoint(server.root),
        **more,
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1
        self.asked = 0

    def log_message(self, *_: object) -> None:
        """Not on the terminal of the tests."""

    def do_GET(self) -> None:
        server = self.server
        match self.path:
            case "/v1/models" if server.mode == "ourselves":
                model = {"id": "parrot", "owned_by": "did:key:zme", "aigrid": {"model": "bafy"}}
                self._json({"data": [model]})
            case "/v1/models":
                self._json({"data": [{"id": "parrot", "max_model_len": 2048}, {"id": "other"}]})
            case "/api/tags" if server.digest:
                self._json({"models": [{"name": "parrot:latest", "digest": server.digest}]})
            case "/metrics" if server.metrics:
                self._send(200, server.metrics.encode(), "text/plain")
            case "/v2":
                extensions = ["binary_tensor_data"] if server.binary else []
                self._json({"name": "small", "version": "1", "extensions": extensions})
            case "/v2/models/adder":
                inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
                outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]
                said = {"name": "adder", "versions": ["1", "3"], "platform": "test"}
                self._json({**said, "inputs": inputs, "outputs": outputs})
            case "/v2/models/adder/versions/3/ready":
                self._send(200, b"", "text/plain")
            case _:
                self._send(404, b"{}")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        head = self.headers.get("Inference-Header-Content-Length")
        body = json.loads(raw[: int(head)] if head else raw)
        self.asked += 1
        if self.server.mode == "is deaf to who asks again" and self.asked > 1:
            self.close_connection = True
            return
        self.server.said.append((self.path, dict(self.headers), body))
        if self.path == "/v2/repository/index":
            self._json([{"name": "adder", "state": "READY"}, {"name": "other"}])
        elif FATAL.encode() in raw:
            self._json({"error": {"message": "CUDA error"}}, 500)
        elif not self._misbehave():
            self._answer(body, raw[int(head) :] if head else b"")

    def _answer(self, body: Any, tail: bytes) -> None:
        match self.path:
            case "/v1/chat/completions":
                if body["messages"] and self.server.mode == "no chat":
                    self._json({"error": {"message": "no chat template"}}, 400)
                elif body.get("tools"):
                    self._call(body["tools"][0]["function"]["name"])
                else:
                    self._stream(body, lambda word: {"delta": {"content": word}})
            case "/v1/completions" if self.server.mode != "chat only":
                self._stream(body, lambda word: {"text": word})
            case "/v1/embeddings":
                odd = float("nan") if self.server.mode == "not a number" else 0.5
                data = [
                    {"index": n, "embedding": [float(len(text)), odd]}
                    for n, text in enumerate(body["input"])
                ]
                self._json(
                    {"data": data[::-1], "usage": {"prompt_tokens": self._prompt(len(data))}}
                )
            case "/v2/models/adder/versions/3/infer":
                self._add(body, tail)
            case _:
                self._send(404, b"{}")

    def _add(self, body: Any, tail: bytes) -> None:
        (x,) = body["inputs"]
        flat = x.get("data") or struct.unpack(f"<{len(tail) // 4}f", tail)
        if DEADLY in flat:
            self._json({"error": "CUDA error"}, 500)
            return
        sums = [a + b for a, b in zip(flat[::2], flat[1::2], strict=True)]
        y: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": [len(sums), 1]}
        if self.server.mode == "not a number":
            sums = [float("nan")] * len(sums)
        if self.server.mode == "another shape":
            y["shape"] = [len(sums), 7]
        if not tail:
            self._json({"outputs": [{**y, "data": sums}]})
            return
        data = struct.pack(f"<{len(sums)}f", *sums)
        y["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps({"outputs": [y]}).encode()
        self._send(200, head + data, headers={"Inference-Header-Content-Length": str(len(head))})

    def _stream(self, body: Any, piece: Any) -> None:
        words = WORDS[: body.get("max_tokens", len(WORDS))]
        reason = "length" if len(words) < len(WORDS) else "stop"
        self._begin()
        for word in words:
            self._event({"choices": [piece(word)]})
        if self.server.mode == "dies in the middle":
            self.close_connection = True
            return
        self._event({"choices": [{**piece(None), "finish_reason": reason}]})
        if self.server.mode != "no usage":
            usage = {"prompt_tokens": self._prompt(5), "completion_tokens": len(words)}
            self._event({"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")
        self.close_connection = self.server.mode == "leaves after its answer"

    def _prompt(self, tokens: int) -> int:
        return 2**60 if self.server.mode == "counts too much" else tokens

    def _call(self, name: str) -> None:
        """Call a tool as OpenAI does: its arguments come bit by bit."""
        self._begin()
        head = {"index": 0, "id": "call_1", "type": "function"}
        pieces = [{**head, "function": {"name": name, "arguments": ""}}]
        pieces += [{"index": 0, "function": {"arguments": bit}} for bit in ('{"city":', '"Rome"}')]
        for piece in pieces:
            self._event({"choices": [{"delta": {"content": None, "tool_calls": [piece]}}]})
        self._event({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
        self._event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _misbehave(self) -> bool:
        """Do what the mode says instead of an answer; False where there is nothing to do."""
        match self.server.mode:
            case "hangs":
                self.server.over.wait()
            case "hangs in the middle":
                self._begin()
                self._event({"choices": [{"delta": {"content": "One"}}]})
                self.server.over.wait()
            case "talks for ever" | "talks slowly":
                pause_seconds = 0.02 if self.server.mode == "talks slowly" else 0
                self._begin()
                try:
                    while not self.server.over.wait(pause_seconds):
                        self._event(
                            {"choices": [{"delta": {"content": "again "}, "text": "again "}]}
                        )
                except OSError:
                    self.server.client_left.set()
            case "garbage":
                self.wfile.write(b"\x00\xff these are no headers\r\n\r\n")
            case "no json":
                self._send(200, b"<html>hello</html>")
            case "endless header":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                self._flood(b"X-Again: " + b"y" * 1000 + b"\r\n")
            case "drips":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                try:
                    while not self.server.over.wait(0.02):
                        self.wfile.write(b"y")
                except OSError:
                    self.server.client_left.set()
            case "endless line":
                self._begin()
                self._flood(b"10000\r\n" + b"z" * 65536 + b"\r\n")
            case "endless body":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                self._flood(b" " * 65536)
            case "redirects":
                self._send(307, b"", headers={"Location": "http://127.0.0.1:1/elsewhere"})
            case "fails":
                self._json({"error": {"message": "CUDA error at 10.1.2.3"}}, 500)
            case "is busy":
                self._send(429, b"{}")
            case "wants a key":
                self._send(401, b"{}")
            case _:
                return self._complain()
        self.close_connection = True
        return True

    def _complain(self) -> bool:
        """Answer with an error, where the mode is one."""
        match self.server.mode:
            case "compresses":
                self._send(200, b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
            case "is cut short":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\ndata: {}\n")
            case "wrong chunks":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
            case "refuses":
                said = f"max_tokens is too large, says {self.server.root}\x1b[31m"
                self._json({"error": {"message": said}}, 400)
            case "too long":
                self._json({"error": {"message": "maximum context length is 2048 tokens"}}, 400)
            case "error in the middle":
                self._begin()
                self._event({"choices": [{"delta": {"content": "One"}}]})
                self._event({"error": {"message": "out of memory"}})
                self._chunk(b"")
            case "empty":
                self._begin()
                self._event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
                self._chunk(b"data: [DONE]\n\n")
                self._chunk(b"")
            case _:
                return False
        self.close_connection = True
        return True

    def _flood(self, data: bytes) -> None:
        try:
            while not self.server.over.is_set():
                self.wfile.write(data)
        except OSError:
            self.server.client_left.set()

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _event(self, event: Any) -> None:
        self._chunk(b": a comment\n\ndata: " + json.dumps(event).encode() + b"\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def _send(
        self,
        status: int,
        body: bytes,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
