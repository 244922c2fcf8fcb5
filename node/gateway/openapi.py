"""The OpenAPI 3.1 document of the gateway, from the structs that decode its requests. Pure.

It says no less than the code: what a path takes is the struct that its body is decoded into, and a
test compares the operations with the routes both ways. It may say more: bounds that a check holds
and no type says are answered with an error that is documented. Answers: see `openapi_answers`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version
from operator import or_
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT

from aigrid.node.gateway.http.errors import SpellError
from aigrid.node.gateway.ollama import requests as ollama
from aigrid.node.gateway.open_inference.endpoints import RepositoryBody
from aigrid.node.gateway.open_inference.infer_request import InferBody
from aigrid.node.gateway.openai import chat_request, completion_request, response_request
from aigrid.node.gateway.openai.answers import error_body
from aigrid.node.gateway.openai.embeddings import EmbeddingsBody
from aigrid.node.gateway.openapi_answers import ANSWERS
from aigrid.node.gateway.tasks import TaskBody
from aigrid.node.outcome.request import Body as OutcomeBody
from aigrid.protocol.errors import CODES, Code

PATH: Final = "/openapi.json"
_SCHEMA: Final = "#/components/schemas/{name}"
_JSON, _EVENTS, _LINES = "application/json", "text/event-stream", "application/x-ndjson"
_OCTETS, _FORM = "application/octet-stream", "application/x-www-form-urlencoded"
_RESULTS = (
    *("application/sparql-results+json", "application/sparql-results+xml", "text/csv"),
    *("text/tab-separated-values", "application/n-triples", "application/ld+json"),
)
_STATUSES: Final = sorted({info.http for info in CODES.values()} - {CODES[Code.CANCELLED].http})
_NAMES: Final = {
    "ChatRequest": chat_request.ChatBody,
    "CompletionRequest": completion_request.CompletionBody,
    "ResponseRequest": response_request.ResponseBody,
    "EmbeddingsRequest": EmbeddingsBody,
    "TaskRequest": TaskBody,
    "OutcomeRequest": OutcomeBody,
    "OllamaChatRequest": ollama.ChatBody,
    "OllamaGenerateRequest": ollama.GenerateBody,
    "OllamaEmbedRequest": ollama.EmbedBody,
    "OllamaShowRequest": ollama.NamedBody,
    "InferRequest": InferBody,
    "RepositoryRequest": RepositoryBody,
}


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path.

    Attributes:
        request: name of the body's schema; "" where there is none.
        answer: schema of a whole answer in JSON, of those in `openapi_answers`; "" where it may be
            anything, or is no JSON.
        is_list: whether it is an array of such.
        kinds: content types of the answer.
        takes: content types of the body.
        optional: whether there need be no body.
    """

    method: str
    path: str
    summary: str
    request: str = ""
    answer: str = ""
    is_list: bool = False
    kinds: tuple[str, ...] = (_JSON,)
    takes: tuple[str, ...] = (_JSON,)
    optional: bool = False


def _get(path: str, summary: str, answer: str = "") -> Operation:
    return Operation("GET", path, summary, answer=answer)


def _post(path: str, summary: str, request: str, answer: str, *, streams: str = "") -> Operation:
    kinds = (_JSON, streams) if streams else (_JSON,)
    return Operation("POST", path, summary, request, answer, kinds=kinds)


def _managed(path: str, summary: str) -> Operation:
    return Operation("POST", path, summary, "RepositoryRequest", optional=True)


def _elsewhere(path: str, method: str = "POST") -> Operation:
    return Operation(method, path, "Refused: the operator does it with a command.")


def _model_operations(path: str) -> tuple[Operation, ...]:
    both = (_JSON, _OCTETS)
    return (
        _get(path, "A model and its tensors.", "Metadata"),
        _get(f"{path}/ready", "Whether a model answers.", "ModelReady"),
        Operation(
            "POST", f"{path}/infer", "Tensors to tensors.", "InferRequest", "Inferred", kinds=both
        ),
    )


OPERATIONS: Final[tuple[Operation, ...]] = (
    _post("/v1/chat/completions", "Chat.", "ChatRequest", "ChatCompletion", streams=_EVENTS),
    _post("/v1/completions", "Continue texts.", "CompletionRequest", "Completion", streams=_EVENTS),
    _post("/v1/responses", "A response.", "ResponseRequest", "Response", streams=_EVENTS),
    _post("/v1/embeddings", "Texts to vectors.", "EmbeddingsRequest", "Embeddings"),
    _get("/v1/models", "Every model that somebody offers.", "Models"),
    _get("/v1/models/{model}", "One model, by name or id.", "Model"),
    Operation("GET", "/", "A greeting.", kinds=("text/plain",)),
    _get("/api/version", "The version of Ollama's interface that is followed.", "OllamaVersion"),
    _get("/api/tags", "Every model that somebody offers.", "OllamaModels"),
    _get("/api/ps", "Models that are loaded, wherever.", "OllamaModels"),
    _post("/api/show", "One model.", "OllamaShowRequest", "OllamaShown"),
    _post("/api/chat", "Chat.", "OllamaChatRequest", "OllamaChat", streams=_LINES),
    _post(
        "/api/generate",
        "Answer a text.",
        "OllamaGenerateRequest",
        "OllamaGenerated",
        streams=_LINES,
    ),
    _post("/api/embed", "Texts to vectors.", "OllamaEmbedRequest", "OllamaEmbeddings"),
    _post("/api/embeddings", "One text to a vector.", "OllamaEmbedRequest", "OllamaEmbedding"),
    *(_elsewhere(f"/api/{what}") for what in ("pull", "push", "create", "copy")),
    _elsewhere("/api/delete", "DELETE"),
    _get("/v2", "This server.", "Server"),
    _get("/v2/health/live", "Whether this node lives.", "Live"),
    _get("/v2/health/ready", "Whether this node takes requests.", "Ready"),
    *_model_operations("/v2/models/{model}"),
    *_model_operations("/v2/models/{model}/versions/{version}"),
    Operation(
        "POST",
        "/v2/repository/index",
        "The models on this node's disk.",
        "RepositoryRequest",
        "Held",
        is_list=True,
        optional=True,
    ),
    _managed("/v2/repository/models/{model}/load", "Load a model and keep it."),
    _managed("/v2/repository/models/{model}/unload", "Unload a model."),
    _post("/aigrid/v1/tasks/{task}", "A typed task.", "TaskRequest", "TaskAnswer"),
    _get("/v1/capabilities", "Every capability that is known.", "Capabilities"),
    _get("/v1/capabilities/{name}", "One capability: what goes in, and comes out.", "Capability"),
    _post("/v1/capabilities/{name}", "An outcome.", "OutcomeRequest", "Outcome", streams=_EVENTS),
    _get("/aigrid/v1/status", "This node."),
    _get("/healthz", "Whether this node takes requests.", "Health"),
    Operation("GET", "/metrics", "Figures for Prometheus.", kinds=("text/plain",)),
    _get(PATH, "This document.", "Document"),
    Operation("GET", "/sparql", "A query.", kinds=_RESULTS),
    Operation("POST", "/sparql", "A query.", "Query", kinds=_RESULTS, takes=(_FORM,)),
)


def document(
    served: Iterable[tuple[str, str]],
    dialect: Callable[[str], SpellError],
    operations: Sequence[Operation],
) -> dict[str, Any]:
    """The document of those `operations` that are served: (method, path) with plain `{name}`."""
    kept = set(served)
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        if (one.method, one.path) in kept:
            plain = "" if dialect(one.path) is error_body else "Plain"
            paths.setdefault(one.path, {})[one.method.lower()] = _spelled(one, f"{plain}Error")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AIGrid gateway",
            "version": version("aigrid-node"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": dict(_failures()),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _spelled(one: Operation, error: str) -> dict[str, Any]:
    failed = {
        str(status): {"$ref": f"#/components/responses/{error}{status}"} for status in _STATUSES
    }
    whole: dict[str, Any] = {"$ref": _SCHEMA.format(name=one.answer)} if one.answer else {}
    if one.is_list:
        whole = {"type": "array", "items": whole}
    content = {kind: {"schema": whole if kind == _JSON else {}} for kind in one.kinds}
    said: dict[str, Any] = {
        "summary": one.summary,
        "operationId": f"{one.method.lower()} {one.path}",
        "responses": {"200": {"description": "The answer.", "content": content}, **failed},
    }
    names = [piece.partition("}")[0] for piece in one.path.split("{")[1:]]
    if names:
        said["parameters"] = [_parameter(name, "path") for name in names]
    elif one.path == "/sparql" and not one.request:
        said["parameters"] = [_parameter("query", "query")]
    if one.request:
        body = {"schema": {"$ref": _SCHEMA.format(name=one.request)}}
        said["requestBody"] = {
            "required": not one.optional,
            "content": dict.fromkeys(one.takes, body),
        }
    return said


def _failures() -> Iterator[tuple[str, dict[str, Any]]]:
    """Errors of each status in each spelling; the codes that a status stands for describe it."""
    for status in _STATUSES:
        codes = ", ".join(sorted(code for code, info in CODES.items() if info.http == status))
        for error in ("Error", "PlainError"):
            content = {_JSON: {"schema": {"$ref": _SCHEMA.format(name=error)}}}
            yield f"{error}{status}", {"description": codes, "content": content}


def _parameter(name: str, place: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": place, "required": True, "schema": schema}


def _schemas() -> dict[str, Any]:
    """What bodies and answers may be, under names of our own, and both spellings of an error."""
    found: dict[str, Any] = {}
    for name, struct in {**_NAMES, **ANSWERS}.items():
        (told,), more = msgspec.json.schema_components(
            [_readable(struct, name)], ref_template=_SCHEMA
        )
        if told != {"$ref": _SCHEMA.format(name=name)}:
            raise RuntimeError(f"{name} is no struct")
        found |= more
    text = {"type": "string"}
    error = {
        "type": "object",
        "required": ["message", "type", "code"],
        "properties": {
            "message": text,
            "type": text,
            "code": {"enum": sorted(CODES)},
            "param": {"type": ["string", "null"]},
        },
    }
    query = {"type": "object", "required": ["query"], "properties": {"query": text}}
    return {**found, "Query": query, "Error": _error(error), "PlainError": _error(text)}


def _error(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": ["error"], "properties": {"error": schema}}


def _readable(kind: Any, name: str) -> Any:
    """A type without `Raw`, which has no schema: what is passed on as it was sent may be anything.

    Structs within a struct get its name before their own, so that no two are alike.
    """
    if kind is msgspec.Raw:
        return Any
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = [_field(field, name) for field in msgspec.structs.fields(kind)]
        strict = kind.__struct_config__.forbid_unknown_fields
        return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=strict)
    origin, given = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return reduce(or_, [_readable(one, name) for one in given])
    if origin is Annotated:
        return Annotated[(_readable(given[0], name), *given[1:])]
    if origin in (list, dict):
        return origin[tuple(_readable(one, name) for one in given)]
    return kind


def _field(field: msgspec.structs.FieldInfo, owner: str) -> tuple[Any, ...]:
    kind = _readable(field.type, owner + field.encode_name.title().replace("_", ""))
    if field.default_factory is not NODEFAULT:
        return field.encode_name, kind, msgspec.field(default_factory=field.default_factory)
    if isinstance(field.default, msgspec.Raw):
        return field.encode_name, kind, None
    if field.default is not NODEFAULT:
        return field.encode_name, kind, field.default
    return field.encode_name, kind
