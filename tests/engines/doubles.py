"""Engines that misbehave, each in the way that a prompt or an option names."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from aigrid.engines import ipc
from aigrid.engines.base import CancelToken, Estimate, ModelSource, Probe
from aigrid.engines.echo import EchoEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TextChunk, TextRequest

HERE = "tests.engines.doubles"


class BadEngine(EchoEngine):
    name = "bad"

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        self._misbehave(str(source.options.get("load", "")))
        return super().load(replace(source, options={}), threads=threads)

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        assert isinstance(request, TextRequest)
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
        elif prompt == "no end":
            return
        elif prompt == "nonsense":
            yield "not a chunk"
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
            case "secret":
                raise KeyError("yranac"[::-1])
            case "refuse":
                raise EngineError("not this one", Code.UNSUPPORTED_QUANTISATION)
            case "noise":
                for _ in range(2000):
                    sys.stdout.write("x" * 100)
                sys.stdout.flush()


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
