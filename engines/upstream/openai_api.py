"""Models behind a server that speaks OpenAI's dialect: text, and vectors of texts.

vLLM, SGLang, llama-server, Ollama, LM Studio, or the gateway of another node.
"""

import math
from collections.abc import Iterator
from typing import Final

import msgspec

from aigrid.engines.base import CancelToken, ModelSource, Served, wrong_task
from aigrid.engines.upstream.connections import Bounds
from aigrid.engines.upstream.engine import Backend, UpstreamEngine
from aigrid.engines.upstream.http import Client, ask_json, brief, refused
from aigrid.engines.upstream.openai_text import (
    Events,
    TextAnswer,
    Usage,
    answer_max_bytes,
    body_of,
    is_chat,
    together,
)
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    ChatMessage,
    Finish,
    InferChunk,
    InferRequest,
    TaskChunk,
    TaskRequest,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS, Limits
from aigrid.protocol.more import EVERYTHING
from aigrid.protocol.upstream import Upstream

EMBEDDING: Final = "feature-extraction"
SIZE: Final = "dimensions"
Texts = list[str | list[int]]
"""Each as text, or as token ids of which the server knows what they are."""

TRIAL_TOKENS: Final = 4
_TRIAL_TEXT: Final = "Hello"
# What waits in front of vLLM, SGLang and llama-server.
_WAITING: Final = (
    b"vllm:num_requests_waiting",
    b"sglang:num_queue_reqs",
    b"llamacpp:requests_deferred",
)
_encode = msgspec.json.Encoder().encode


class _Grid(msgspec.Struct):
    """What the gateway of another node says of a model."""

    model: str = ""
    context_tokens: int = 0


class _Meta(msgspec.Struct):
    n_ctx_train: int | None = None


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    max_context_length: int | None = None
    meta: _Meta | None = None
    aigrid: _Grid | None = None

    @property
    def context_tokens(self) -> int:
        said = (
            self.aigrid.context_tokens if self.aigrid is not None else None,
            self.max_model_len,
            self.context_length,
            self.max_context_length,
            self.meta.n_ctx_train if self.meta is not None else None,
        )
        return max(0, next((n for n in said if n), 0))


class _Models(msgspec.Struct):
    data: list[_Model]


class _Tag(msgspec.Struct):
    name: str
    digest: str = ""


class _Tags(msgspec.Struct):
    models: list[_Tag] | None = None


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: Usage | None = None


class OpenAiEngine(UpstreamEngine):
    """See the module."""

    name = "openai_api"
    tasks = ("text-generation", EMBEDDING)
    takes = (EVERYTHING,)

    def connect(self, client: Client, source: ModelSource, upstream: Upstream) -> Backend:
        return OpenAiModel(client, upstream, source.task, self._limits)

    def served(self, client: Client, model: str) -> tuple[Served, ...]:
        if model:
            return (find(client, model, self._limits),)
        return listed(client, self._limits)


class OpenAiModel:
    """One model at one server."""

    def __init__(self, client: Client, upstream: Upstream, task: str, limits: Limits) -> None:
        self._client = client
        self._model = upstream.model
        self._publisher = upstream.publisher
        self._task = task
        self._limits = limits
        self._by_prompt = False
        self._has_metrics = True

    def look(self) -> tuple[Served, int]:
        """See `Backend.look`."""
        with self._client.open(
            "GET", "/health", bounds=brief(self._limits), from_root=True
        ) as answer:
            if answer.status >= 500:
                raise EngineError(f"the server is not well: status {answer.status}")
        model = _entry(self._client, self._model, self._limits)
        if model.aigrid is not None and model.owned_by == self._publisher:
            raise EngineError(
                "the server's model is one that this node publishes: it would ask itself",
                Code.UNSUPPORTED_MODEL,
            )
        return _served(self._client, model, self._limits), self._waiting()

    def trial(self, bounds: Bounds) -> None:
        """See `Backend.trial`. Finds out whether the model takes messages, or prompts only."""
        if self._task == EMBEDDING:
            self._embed([_TRIAL_TEXT], bounds, CancelToken())
            return
        by_chat = TextRequest(
            messages=(ChatMessage("user", _TRIAL_TEXT),), max_tokens=TRIAL_TOKENS, temperature=0
        )
        by_prompt = TextRequest(prompt=_TRIAL_TEXT, max_tokens=TRIAL_TOKENS, temperature=0)
        if not self._by_prompt:
            try:
                self._generated(by_chat, bounds)
            except EngineError as error:
                if error.code not in (Code.INVALID_REQUEST, Code.UNSUPPORTED_MODEL):
                    raise
            else:
                return
        self._generated(by_prompt, bounds)
        self._by_prompt = True  # a model without a chat template

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        """See `Backend.answer`."""
        limits = self._limits
        silence, whole = limits.upstream_silence_seconds, limits.upstream_answer_seconds
        match request:
            case TextRequest() if self._task != EMBEDDING:
                bounds = Bounds(silence, whole, answer_max_bytes(request))
                yield from self._generate(request, bounds, cancel)
            case TaskRequest() if self._task == EMBEDDING:
                if request.task != EMBEDDING and "#" not in request.task:
                    raise EngineError(f"this model does {EMBEDDING}", Code.INVALID_REQUEST)
                bounds = Bounds(silence, whole, 2 * LIMITS.task_json_max_bytes)
                vectors, tokens = self._embed(_texts(request), bounds, cancel, _size(request))
                yield TaskChunk(_encode(vectors))
                yield Finish("stop", tokens)
            case _:
                raise wrong_task(OpenAiEngine.name, request)

    def _generate(
        self, request: TextRequest, bounds: Bounds, cancel: CancelToken
    ) -> Iterator[InferChunk]:
        chat = is_chat(request)
        if chat and self._by_prompt:
            raise EngineError(
                "this model has no chat template, give it a prompt instead of messages",
                Code.INVALID_REQUEST,
            )
        body = body_of(request, self._model)
        path = "/chat/completions" if chat else "/completions"
        headers = {"Accept": "text/event-stream"}
        with self._client.open(
            "POST", path, body, bounds=bounds, cancel=cancel, headers=headers
        ) as answer:
            if answer.status != 200:
                error = refused(answer, answer.read(), self._client.location)
                if error.code is Code.UNSUPPORTED_MODEL and not chat and not self._by_prompt:
                    raise EngineError(
                        "this model's server takes messages, not a prompt", Code.INVALID_REQUEST
                    )
                raise error
            said = Events(answer.pieces())
            for chunk in together(TextAnswer(request).chunks(said), said):
                if said.done:
                    answer.says_no_more()
                yield chunk

    def _generated(self, request: TextRequest, bounds: Bounds) -> None:
        *_, finish = self._generate(request, bounds, CancelToken())
        if not isinstance(finish, Finish) or not finish.completion_tokens:
            raise EngineError("the server ends its answer without a token")

    def _embed(
        self, texts: Texts, bounds: Bounds, cancel: CancelToken, size: int | None = None
    ) -> tuple[list[list[float]], int]:
        """A vector of `size` numbers for each text, and how many tokens the texts have."""
        asked = {"model": self._model, "input": texts, "encoding_format": "float"}
        body = _encode(asked if size is None else {**asked, SIZE: size})
        said = ask_json(self._client, "/embeddings", _Vectors, body, bounds=bounds, cancel=cancel)
        found = {entry.index: entry.embedding for entry in said.data}
        sizes = {len(vector) for vector in found.values()}
        if sorted(found) != list(range(len(texts))) or len(sizes) != 1 or 0 in sizes:
            raise EngineError("the server did not answer with a vector for each text")
        if size is not None and sizes != {size}:
            raise EngineError(
                f"the model's server gives vectors of {max(sizes)} numbers whatever is asked: "
                f"leave {SIZE} out",
                Code.INVALID_REQUEST,
            )
        tokens = said.usage.prompt_tokens if said.usage is not None else None
        tokens = min(LIMITS.prompt_tokens_max, max(0, tokens or 0))
        return [found[n] for n in range(len(texts))], tokens

    def _waiting(self) -> int:
        """How many requests wait at the server, as far as it tells; 0 where it does not."""
        if not self._has_metrics:
            return 0
        try:
            with self._client.open(
                "GET", "/metrics", bounds=brief(self._limits), from_root=True
            ) as answer:
                self._has_metrics = answer.status == 200
                return waiting(answer.read()) if self._has_metrics else 0
        except EngineError:
            return 0  # what it says elsewhere counts


def listed(client: Client, limits: Limits) -> tuple[Served, ...]:
    """All models of a server."""
    return tuple(_plain(model) for model in _entries(client, limits))


def find(client: Client, name: str, limits: Limits) -> Served:
    """What the server says of one model.

    Raises:
        EngineError: `unsupported_model` where it has no such model.
    """
    return _served(client, _entry(client, name, limits), limits)


def _entries(client: Client, limits: Limits) -> list[_Model]:
    said = ask_json(client, "/models", _Models, bounds=brief(limits))
    return said.data[: limits.upstream_models_max]


def _entry(client: Client, name: str, limits: Limits) -> _Model:
    for model in _entries(client, limits):
        if model.id == name:
            return model
    raise EngineError("the server does not have the model", Code.UNSUPPORTED_MODEL)


def _plain(model: _Model) -> Served:
    """As `GET /v1/models` has it; a gateway of a grid says which model it is exactly."""
    version = model.aigrid.model if model.aigrid is not None else ""
    return Served(model.id, version[: LIMITS.upstream_name_max_chars], model.context_tokens)


def _served(client: Client, model: _Model, limits: Limits) -> Served:
    served = _plain(model)
    return served if served.version else _with_digest(client, served, limits)


def _with_digest(client: Client, served: Served, limits: Limits) -> Served:
    """Ollama says beside its API in OpenAI's dialect which files a name stands for."""
    with client.open("GET", "/api/tags", bounds=brief(limits), from_root=True) as answer:
        said = answer.read()
    if answer.status != 200:
        return served
    try:
        tags = msgspec.json.decode(said, type=_Tags).models or []
    except (ValueError, RecursionError):
        return served
    names = (served.name, f"{served.name}:latest")
    digest = next((tag.digest for tag in tags if tag.name in names), "")
    return Served(served.name, digest[: LIMITS.upstream_name_max_chars], served.context_tokens)


def waiting(metrics: bytes) -> int:
    """The requests that wait, from metrics in the text format of Prometheus; pure."""
    total = 0.0
    for line in metrics.splitlines():
        if line.startswith(_WAITING):
            try:
                total += float(line.rsplit(b" ", 1)[-1])
            except ValueError:
                continue
    return int(min(max(total, 0.0), 2.0**31)) if math.isfinite(total) else 0


def _size(request: TaskRequest) -> int | None:
    """How many numbers a vector shall have; None where the request leaves that to the model."""
    if unknown := sorted(request.parameters.keys() - {SIZE}):
        raise EngineError(f"{EMBEDDING} has no parameter {unknown[0]!r}", Code.INVALID_REQUEST)
    size = request.parameters.get(SIZE)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise EngineError(f"{SIZE} is a number from 1", Code.INVALID_REQUEST)
    return size


def _texts(request: TaskRequest) -> Texts:
    try:
        texts = msgspec.json.decode(request.input, type=Texts)
    except (ValueError, RecursionError):
        texts = []
    if not 0 < len(texts) <= LIMITS.task_items_max:
        raise EngineError(
            f"the input of {EMBEDDING} is an array of 1 to {LIMITS.task_items_max} texts, or of "
            "arrays of token ids",
            Code.INVALID_REQUEST,
        )
    return texts
