"""What answers look like, for the OpenAPI document alone: nothing is encoded by these structs.

They say what a client may rely on; answers may have further members. `schemathesis` holds real
answers against them in CI.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from aigrid.node.gateway.repository import Held
from aigrid.node.mesh.routing.answer import Segment
from aigrid.protocol.inference import FinishReason
from aigrid.protocol.tensors import TensorType


class _Aigrid(msgspec.Struct):
    node: str
    model: str
    attempts: int
    overhead_ms: float
    segments: list[Segment]


# OpenAI's
class _Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class _Message(msgspec.Struct):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[dict[str, Any]] = []


class _ChatChoice(msgspec.Struct):
    index: int
    message: _Message
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class _ChatCompletion(msgspec.Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_ChatChoice]
    usage: _Usage
    aigrid: _Aigrid


class _TextChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class _Completion(msgspec.Struct):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[_TextChoice]
    usage: _Usage
    aigrid: _Aigrid


class _Item(msgspec.Struct):
    id: str
    type: Literal["message", "reasoning", "function_call"]
    status: Literal["completed", "incomplete"]


class _ResponseUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class _Response(msgspec.Struct):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[_Item]
    usage: _ResponseUsage
    aigrid: _Aigrid


class _Embedding(msgspec.Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class _Embeddings(msgspec.Struct):
    object: Literal["list"]
    data: list[_Embedding]
    model: str
    usage: _Usage
    aigrid: _Aigrid


class _Model(msgspec.Struct):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    aigrid: dict[str, Any]


class _Models(msgspec.Struct):
    object: Literal["list"]
    data: list[_Model]


# Ollama's
class _OllamaModel(msgspec.Struct):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: dict[str, Any]


class _OllamaModels(msgspec.Struct):
    models: list[_OllamaModel]


class _OllamaShown(msgspec.Struct):
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]


class _OllamaEnded(msgspec.Struct):
    """Without counts where a model was only loaded, or let go."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class _OllamaMessage(msgspec.Struct):
    role: Literal["assistant"]
    content: str
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []


class _OllamaChat(_OllamaEnded, kw_only=True):
    message: _OllamaMessage


class _OllamaGenerated(_OllamaEnded, kw_only=True):
    response: str


class _OllamaEmbeddings(msgspec.Struct):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class _OllamaEmbedding(msgspec.Struct):
    embedding: list[float]


class _OllamaVersion(msgspec.Struct):
    version: str


# The Open Inference Protocol's
class _Server(msgspec.Struct):
    name: str
    version: str
    extensions: list[str]


class _Live(msgspec.Struct):
    live: bool


class _Ready(msgspec.Struct):
    ready: bool


class _ModelReady(msgspec.Struct):
    name: str
    ready: bool


class _Tensor(msgspec.Struct):
    name: str
    datatype: TensorType
    shape: list[int]


class _Metadata(msgspec.Struct):
    name: str
    versions: list[str]
    platform: str
    inputs: list[_Tensor]
    outputs: list[_Tensor]


class _Output(_Tensor):
    """`data`, or in the parameters how many bytes of it follow the JSON."""

    data: list[Any] = []
    parameters: dict[str, Any] = {}


class _Inferred(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: str = ""
    parameters: dict[str, Any] = {}


# Ours
class _TaskUsage(msgspec.Struct):
    prompt_tokens: int


class _TaskAnswer(msgspec.Struct):
    task: str
    model: str
    output: Any
    usage: _TaskUsage
    aigrid: _Aigrid


class _Capability(msgspec.Struct):
    name: str
    label: str
    task: str
    broader: list[str]
    published: str
    askable: bool
    models: int
    reason: str = ""
    narrower: list[str] = []
    input: dict[str, Any] = {}
    output: dict[str, Any] = {}
    parameters: dict[str, Any] = {}


class _Capabilities(msgspec.Struct):
    object: Literal["list"]
    data: list[_Capability]


class _Outcome(msgspec.Struct):
    output: Any
    aigrid: dict[str, Any]


class _Health(msgspec.Struct):
    status: Literal["ok"]


class _Document(msgspec.Struct):
    openapi: str
    paths: dict[str, Any]


ANSWERS: Final[Mapping[str, Any]] = {
    "ChatCompletion": _ChatCompletion,
    "Completion": _Completion,
    "Response": _Response,
    "Embeddings": _Embeddings,
    "Model": _Model,
    "Models": _Models,
    "OllamaModels": _OllamaModels,
    "OllamaShown": _OllamaShown,
    "OllamaChat": _OllamaChat,
    "OllamaGenerated": _OllamaGenerated,
    "OllamaEmbeddings": _OllamaEmbeddings,
    "OllamaEmbedding": _OllamaEmbedding,
    "OllamaVersion": _OllamaVersion,
    "Server": _Server,
    "Live": _Live,
    "Ready": _Ready,
    "ModelReady": _ModelReady,
    "Metadata": _Metadata,
    "Inferred": _Inferred,
    "Held": Held,
    "TaskAnswer": _TaskAnswer,
    "Capability": _Capability,
    "Capabilities": _Capabilities,
    "Outcome": _Outcome,
    "Health": _Health,
    "Document": _Document,
}
"""By the name of the schema."""
