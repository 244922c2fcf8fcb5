"""The engine interface: the whole surface a new runtime has to fill.

An engine is a class that is found through the entry point group `aigrid.engines`. It is used in two
places: `probe` and `estimate` are called in a short-lived child of the node, and `load` to `unload`
in a worker process that serves exactly one model and is killed to unload it. So an engine never
has to clean up after itself, may block, and may crash.
"""

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

from msgspec import Meta

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TaskRequest, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import Takes
from aigrid.protocol.names import PRINTABLE
from aigrid.protocol.task import TaskMapping
from aigrid.protocol.tensors import TensorSpec
from aigrid.protocol.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Device:
    """A place to compute.

    Attributes:
        kind: "cpu", "cuda", "rocm", "metal"...
        memory_total_bytes, memory_free_bytes: 0 where that is not known.
        index: among the devices of its kind, as its runtimes count them.
        unified: its memory is the machine's, shared with the processor.
    """

    kind: str
    name: str
    memory_total_bytes: int = 0
    memory_free_bytes: int = 0
    index: int = 0
    unified: bool = False

    @property
    def place(self) -> str:
        """How settings and budgets call it: "cpu", "cuda:0"."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True)
class Probe:
    """What an engine found on this machine; `problem` says why it cannot run, or is empty.

    `code_formats` are those of `formats` that may run code of whoever made the file, however it is
    checked: such a model is loaded only where its publisher is trusted. `refuses` says in short
    sentences, "what: why", which models of its formats the engine does not take.
    `network` is for an adapter that asks other servers and has its own list of those it may: its
    workers may connect. Workers of an engine whose `devices` are not all "cpu" may use
    accelerators, and their memory is not bounded by the system. `lacks` says of a kind of device
    why the engine does not use it, where that can be mended or is not plain. `fallback` is for an
    engine that takes nearly everything: others that take the same model come before it, unless it
    is preferred. `takes` names the further members of a text request that the engine takes, "*" for
    all: see `protocol.more`.
    """

    engine: str
    version: str
    formats: tuple[str, ...]
    tasks: tuple[str, ...]
    devices: tuple[Device, ...]
    problem: str = ""
    network: bool = False
    code_formats: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    lacks: Mapping[str, str] = field(default_factory=dict)
    fallback: bool = False
    takes: Takes = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is, and the key to it. Known to this node and its worker alone."""

    url: str = field(repr=False)
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Served:
    """A model as its server reports it; 0 and "" where it does not.

    `inputs` and `outputs` are empty for models of text.
    """

    name: str
    version: str = ""
    context_tokens: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A verified model on this machine's disk.

    Attributes:
        model_id: CID of the model.
        format: "onnx", "gguf", "echo"...
        files: name in the manifest -> absolute path of a regular file whose hash was checked.
        task: Hugging Face pipeline tag the model is loaded for.
        options: the adapter's own settings (strings, numbers, booleans).
        mapping: how typed input and output are made; None where the adapter knows by itself.
        cache_directory: where the engine may keep derived files, by content; None for nowhere.
        upstream, endpoint: of a model behind a server: what it is there, and where that is.
        trusted: whether this node trusts whoever published the model to run code here.
        room: place of a device -> bytes that this node has for models there; a place that is not
            named is not bounded. A model that can never fit on a device belongs on another.
    """

    model_id: str
    format: str
    files: Mapping[str, Path]
    task: str
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    cache_directory: Path | None = None
    mapping: TaskMapping | None = None
    upstream: Upstream | None = None
    endpoint: Endpoint | None = None
    trusted: bool = False
    room: Mapping[str, int] = field(default_factory=dict)


Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""Bytes or tokens, as many as a record can say."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What loading would take, known before loading; conservative.

    A worker says it, in whose process foreign code ran, and some of it goes into records: what is
    beyond these bounds is refused when it is read.

    Attributes:
        memory_bytes: of the device that the model is put on.
        slots: how many requests run at once.
        context_tokens: 0 where there is no context.
        precision: of the numbers computed with.
        device: the device's `place`.
        host_bytes: of the machine's memory beside that; 0 where `device` is "cpu".
    """

    memory_bytes: Count
    slots: Annotated[int, Meta(ge=1, le=LIMITS.slots_max)] = 1
    context_tokens: Count = 0
    precision: Annotated[str, Meta(max_length=32, pattern=PRINTABLE)] = ""
    device: Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)] = "cpu"
    host_bytes: Count = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since load.

    Attributes:
        waiting: requests that wait at the server behind the engine, as far as it tells.
        problem: why no request would be answered now, or "": the model is not offered meanwhile.
    """

    requests: int = 0
    running: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    busy_seconds: float = 0.0
    waiting: int = 0
    problem: str = ""


class CancelToken:
    """What links a running `infer` to whoever waits for it, in both directions.

    Set from another thread, it stops the run: checked at least once per token. And a run that
    computes for long without a result tells through it that the work goes on.
    """

    __slots__ = ("_advanced", "_event", "_hooks", "_lock")

    def __init__(self) -> None:
        self._advanced: CancelHook | None = None
        self._event = threading.Event()
        self._hooks: list[CancelHook] = []
        self._lock = threading.Lock()

    def cancel(self) -> None:
        with self._lock:
            self._event.set()
            hooks, self._hooks = self._hooks, []
        for hook in hooks:
            hook()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def on_cancel(self, hook: "CancelHook") -> None:
        """Call `hook` (from the cancelling thread) once cancelled; at once if it already is."""
        with self._lock:
            if not self._event.is_set():
                self._hooks.append(hook)
                return
        hook()

    def on_advance(self, hook: "CancelHook") -> None:
        """Call `hook`, from the computing thread, at each `advance`; it has to be quick."""
        self._advanced = hook

    def over(self) -> None:
        """The run has ended: whatever it hooked on goes now, and not when garbage is collected."""
        with self._lock:
            self._hooks, self._advanced = [], None

    def advance(self) -> None:
        """Say that something was computed: a layer, a token, a batch. Never where work only waits.

        As cheap as a call; how often that is told to anybody is the hook's business.
        """
        if self._advanced is not None:
            self._advanced()


class Cancelled(Exception):  # noqa: N818 -- not an error: nobody waits for the answer any more
    """A run was cut short because its `CancelToken` was set."""


class CancelHook(Protocol):
    """Anything callable without arguments."""

    def __call__(self) -> object: ...


@runtime_checkable
class Engine(Protocol):
    """A runtime. Every method may block; every failure is an `EngineError` with its code.

    The constructor takes no arguments and does no work: importing a runtime happens in `probe` and
    `load`, so that listing engines is cheap.

    An engine may have `preimports`, a tuple of names of modules: what `load` imports for any model.
    A spare worker imports them before it has one, and before it is confined; where that starts a
    thread, the engine has no spares.
    """

    name: str

    def probe(self) -> Probe:
        """Say what this engine can do here. Never raises for a missing runtime: `problem`."""

    def estimate(self, source: ModelSource) -> Estimate:
        """Say what loading takes, from headers alone; nothing is loaded.

        Raises:
            EngineError: `unsupported_model` (an option that is not known, too), or
                `unsupported_quantisation`, or `unsafe_file`.
        """

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        """Load the one model of this worker; the estimate returned is now the real figure."""

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        """Run one request; the last chunk is `Finish`.

        At most `Estimate.slots` calls run at once, each in a thread of its own. A cancelled request
        ends with `Finish(reason="cancelled")`. An engine that computes for long without a result
        yields an empty `TextChunk` now and then, or calls `cancel.advance()` at each step, which
        comes to the same: `worker_silence_seconds` of silence mean trouble.
        """

    def stats(self) -> EngineStats:
        """Counters; cheap, callable from another thread."""

    def unload(self) -> None:
        """Flush what must not be lost; the process is killed afterwards."""


@runtime_checkable
class ServerEngine(Engine, Protocol):
    """An engine for models behind a server. Its worker stays loaded while the model is offered."""

    def discover(self, endpoint: Endpoint, model: str) -> tuple[Served, ...]:
        """Ask a server for `model`, or where that is "" for all that it has (names may be all).

        Raises:
            EngineError: `usage`, `unreachable`, `unsupported_model` where it has no such model.
        """


def model_file(source: ModelSource, format_: str) -> Path:
    """The one model file of a source: its mapping may need further files beside it.

    Raises:
        EngineError: `unsupported_model` for another format, or none or several such files.
    """
    found = [path for name, path in source.files.items() if name.endswith(f".{format_}")]
    if source.format != format_ or len(found) != 1:
        raise EngineError(
            f"a model in format {format_} has one file *.{format_}, this one has {len(found)}",
            Code.UNSUPPORTED_MODEL,
        )
    return found[0]


def check_options(source: ModelSource, *known: str) -> None:
    """Refuse a setting that would do nothing.

    Raises:
        EngineError: `unsupported_model`, naming it and those that are `known`.
    """
    if unknown := sorted(source.options.keys() - set(known)):
        raise EngineError(
            f"there is no option {unknown[0]!r}; the engine has {', '.join(known) or 'none'}",
            Code.UNSUPPORTED_MODEL,
        )


def may_load(source: ModelSource, code_formats: Collection[str]) -> bool:
    """Whether a model may come near a runtime that may run code hidden in it.

    `code_formats` is what the engine's `Probe` says. Asked before a worker is started, and in the
    worker before its engine sees the file.
    """
    return source.trusted or source.format not in code_formats


def check_trusted(source: ModelSource, code_formats: Collection[str]) -> None:
    """See `may_load`.

    Raises:
        EngineError: `unsafe_file`, with what would have to be said for it to be loaded.
    """
    if not may_load(source, code_formats):
        raise EngineError(
            f"a model in format {source.format} can run code of whoever made it, and this node "
            "does not trust its publisher: `aigrid up --trust-publisher DID` says whom it does",
            Code.UNSAFE_FILE,
        )


def wrong_task(engine: str, request: InferRequest) -> EngineError:
    """The error for a request whose shape the engine does not take."""
    lacks = {TextRequest: "writes no text", TaskRequest: "does no typed task"}
    what = lacks.get(type(request), "takes no tensors")
    return EngineError(f"the model {what} with engine {engine}", Code.INVALID_REQUEST)
