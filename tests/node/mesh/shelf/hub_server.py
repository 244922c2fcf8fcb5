"""A hub on this machine: the few pages of the Hugging Face Hub that its own library asks for.

Source: what huggingface_hub 2.4 requests for `model_info` and `hf_hub_download`.
"""

import contextlib
import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """Serves `folder` as the model `repo`.

    Attributes:
        url: its address, once it runs.
        held_bytes: how much of a large file is sent before nothing more comes; -1 for all of it.
        wrong_hash: whether the list says another hash of large files than they have.
        swollen: "chunked" or "gzip", where more of a large file comes than was said, in that way.
        head_bytes: what is said of a large file's size before it is sent; 0 for the truth, -1 for
            nothing.
        held_list: whether the list never comes; `asked` is set when it should, and `left` when
            whoever asked is gone.
        invented: how many further files are listed, which are not there.
        gated: whether a token is wanted that nobody has.
        sent: the large files that were sent, or begun.
        ranges: the ranges that were asked for.
        tokens: the tokens that were sent.
    """

    repo: str
    folder: Path
    url: str = ""
    held_bytes: int = -1
    wrong_hash: bool = False
    swollen: str = ""
    head_bytes: int = 0
    held_list: bool = False
    invented: int = 0
    gated: bool = False
    sent: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)

    def files(self) -> Iterator[Path]:
        yield from sorted(path for path in self.folder.rglob("*") if path.is_file())

    def info(self) -> dict[str, Any]:
        siblings = []
        for path in self.files():
            data = path.read_bytes()
            one: dict[str, Any] = {
                "rfilename": path.relative_to(self.folder).as_posix(),
                "size": len(data),
                "blobId": hashlib.sha1(data).hexdigest(),
            }
            if is_large(path):
                digest = hashlib.sha256(data + b"x" * self.wrong_hash).hexdigest()
                one["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(one)
        siblings += [{"rfilename": f"logs/{n}.txt", "size": 1} for n in range(self.invented)]
        return {"id": self.repo, "modelId": self.repo, "sha": REVISION, "siblings": siblings}


SWELLING = bytes(64 << 20)


def is_large(path: Path) -> bool:
    return path.suffix in (".safetensors", ".gguf", ".onnx")


@contextmanager
def serving(hub: HubServer) -> Iterator[HubServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            path = unquote(urlsplit(self.path).path)
            if hub.gated:
                self._say(403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif path.startswith(f"/api/models/{hub.repo}") and hub.held_list:
                self._hold()
            elif path.startswith(f"/api/models/{hub.repo}"):
                self._say(200, json.dumps(hub.info()).encode())
            elif path.startswith(f"/{hub.repo}/resolve/{REVISION}/"):
                self._file(hub.folder / path.split(f"{REVISION}/", 1)[1], with_body=with_body)
            else:
                self._say(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _file(self, path: Path, *, with_body: bool) -> None:
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            headers = {"ETag": f'"{sha256}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
            if not with_body:
                size = hub.head_bytes if hub.head_bytes and is_large(path) else len(data)
                self._head(200, {**headers, **({"Content-Length": str(size)} if size > 0 else {})})
                return
            if is_large(path):
                hub.sent.append(path.name)
                if hub.swollen:
                    self._swell(data, headers)
                    return
            status, asked = 200, self.headers.get("Range", "")
            if asked.startswith("bytes="):
                hub.ranges.append(asked)
                start = int(asked[6:].split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                data, status = data[start:], 206
            if hub.held_bytes < 0 or not is_large(path):
                self._say(status, data, headers)
                return
            self._head(status, {**headers, "Content-Length": str(len(data))})
            self.wfile.write(data[: hub.held_bytes])
            self.wfile.flush()
            hub.over.wait()
            self.close_connection = True

        def _swell(self, data: bytes, headers: dict[str, str]) -> None:
            if hub.swollen == "gzip":
                packed = gzip.compress(data + SWELLING, compresslevel=1)
                self._say(200, packed, {**headers, "Content-Encoding": "gzip"})
                return
            self._head(200, {**headers, "Transfer-Encoding": "chunked"})
            with contextlib.suppress(ConnectionError):
                for piece in (data, SWELLING, b""):
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.close_connection = True

        def _hold(self) -> None:
            hub.asked.set()
            self.close_connection = True
            self.connection.settimeout(30)
            try:
                self.connection.recv(1)  # nothing is said here; it returns when they hang up
            except TimeoutError:
                return
            except ConnectionError:
                pass
            hub.left.set()

        def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self._head(status, {"Content-Length": str(len(body)), **(headers or {})})
            self.wfile.write(body)

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
