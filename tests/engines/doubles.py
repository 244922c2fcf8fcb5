"""Engines that misbehave, each in the way that a prompt or an option names."""

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigrid.engines import ipc
from aigrid.engines.base import CancelToken, Estimate, ModelSource, Probe
from aigrid.engines.echo import EchoEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest, TextChunk, TextRequest

HERE = "tests.engines.doubles"


class BadEngine(EchoEngine):
    name = "bad"

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        self._misbehave(str(source.options.get("load", "")))
        kept = {k: v for k, v in source.options.items() if k == "memory_bytes"}
        return super().load(replace(source, options=kept, files={}), threads=threads)

    def estimate(self, source: ModelSource) -> Estimate:
        kept = {k: v for k, v in source.options.items() if k != "load"}
        return super().estimate(replace(source, options=kept, files={}))

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        assert isinstance(request, TextRequest)
        if (request.prompt or "").startswith("{"):
            yield TextChunk(json.dumps(_attempts(json.loads(request.prompt or ""))))
            yield Finish("stop")
            return
        yield from self._begin(request.prompt, cancel)
        yield from super().infer(request, cancel)

    def _begin(self, prompt: str | None, cancel: CancelToken) -> Iterator[Any]:
        if prompt == "cancelled?":
            yield TextChunk("going")
            stopped = threading.Event()
            cancel.on_cancel(stopped.set)
            stopped.wait()
            sys.stdout.write("was cancelled\n")
            sys.stdout.flush()
        elif prompt == "going, going":
            yield TextChunk("going")
            self._misbehave("hang")
        elif prompt == "half":
            yield TextChunk("half", (1,))
            self._misbehave("exit")
        elif prompt == "works on":
            while not cancel.cancelled:
                cancel.advance()
                time.sleep(0.001)
        elif prompt == "no end":
            return
        elif prompt == "nonsense":
            yield "not a chunk"
        elif prompt is not None and prompt.startswith(("allocate ", "keep ")):
            self._kept = bytearray(b"x") * int(prompt.split()[1])
        elif prompt == "environment":
            yield TextChunk(" ".join(sorted(os.environ)))
        else:
            self._misbehave(prompt)

    @staticmethod
    def _misbehave(how: str | None) -> None:
        match how:
            case "exit":
                os._exit(3)
            case "die":
                sys.stderr.write("last words\n")
                sys.stderr.flush()
                signal.raise_signal(signal.SIGSEGV)
            case "hang":
                threading.Event().wait()
            case "hold":  # keeps the interpreter to itself: not even a ping is answered
                ctypes.PyDLL(None).sleep(60)
            case "garbage":
                fd = int(sys.argv[sys.argv.index("--fd") + 1])
                os.write(fd, b"\x00\x00\x00\x03abc")
                threading.Event().wait()
            case "flood":
                fd = int(sys.argv[sys.argv.index("--fd") + 1])
                os.write(fd, b"\xff\xff\xff\xff")
                threading.Event().wait()
            case "too much":  # chunks of the first request, whatever the node grants
                fd = int(sys.argv[sys.argv.index("--fd") + 1])
                frame = ipc.encode(ipc.Chunk(1, TextChunk("x" * 1000)))
                for _ in range(ipc.CHUNK_WINDOW * 4):
                    os.write(fd, frame)
                threading.Event().wait()
            case "close":
                os.close(int(sys.argv[sys.argv.index("--fd") + 1]))
                threading.Event().wait()
            case "memory":
                raise MemoryError
            case "bad_alloc":  # as an exception of C++ that nobody catches
                sys.stderr.write(
                    "terminate called after throwing an instance of 'std::bad_alloc'\n"
                )
                sys.stderr.flush()
                os.abort()
            case "secret":
                raise KeyError("yranac"[::-1])
            case "lost":  # what is raised, and warned of, where nobody can catch it
                for _ in range(2):
                    warnings.warn("yranac"[::-1], stacklevel=1)
                    _Unraisable()
            case "refuse":
                raise EngineError("not this one", Code.UNSUPPORTED_QUANTISATION)
            case "noise":
                for _ in range(2000):
                    sys.stdout.write("x" * 100)
                sys.stdout.flush()


class _Unraisable:
    def __del__(self) -> None:
        raise KeyError("yranac"[::-1])


def _attempts(attempts: dict[str, list[str]]) -> dict[str, str]:
    """Try what a worker must not do; name -> "done", or why not."""
    found = {}
    for name, (what, *arguments) in attempts.items():
        try:
            _attempt(what, *arguments)
            found[name] = "done"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or 0, str(error))
    return found


def _attempt(what: str, argument: str = "") -> None:
    match what:
        case "read":
            Path(argument).read_bytes()
        case "list":
            list(Path(argument).iterdir())
        case "write":
            Path(argument).write_bytes(b"x")
        case "append":
            Path(argument).open("ab").close()  # not written: it may be a program of ours
        case "remove":
            Path(argument).unlink()
        case "link":
            Path(argument).symlink_to("/etc")
        case "run":
            subprocess.run([argument], check=True)
        case "tcp" | "udp" | "unix":
            family = socket.AF_UNIX if what == "unix" else socket.AF_INET
            kind = socket.SOCK_DGRAM if what == "udp" else socket.SOCK_STREAM
            with socket.socket(family, kind) as made:
                made.settimeout(5)
                made.connect("\0" + argument if what == "unix" else ("127.0.0.1", int(argument)))
        case "listen":
            with socket.socket() as made:
                made.bind(("127.0.0.1", 0))
                made.listen()
        case "signal":
            os.kill(int(argument), 0)
        case "memory":
            mmap.mmap(-1, int(argument)).close()  # room that is not used
        case _:
            raise ValueError(what)


class PreparedEngine(BadEngine):
    """Has spares that have imported a real runtime."""

    name = "prepared"
    preimports = ("onnxruntime", "aigrid.engines.gguf_tokenizer", "no_such_module")


class ThreadedEngine(BadEngine):
    """Its runtime starts a thread when it is imported."""

    name = "threaded"
    preimports = ("tests.engines.starts_a_thread",)


class BrokenEngine:
    """Cannot even be constructed."""

    def __init__(self) -> None:
        raise RuntimeError("no such library")


class NoEngine:
    """Lacks most of the interface."""

    name = "none"

    def probe(self) -> Probe:
        return Probe("none", "1", (), (), ())


def source(**options: str | float) -> ModelSource:
    return ModelSource("bafymodel", "echo", {}, "text-generation", options)
