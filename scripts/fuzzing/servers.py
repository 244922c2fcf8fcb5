"""What servers behind this node say of their models and of themselves, and their refusals."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from scripts.fuzzing.target import Target
from scripts.fuzzing.trees import Tree

from aigrid.engines.base import Served
from aigrid.engines.upstream import open_inference, openai_api
from aigrid.engines.upstream.http import Client
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS

_STATUSES = (200,) * 12 + (400, 401, 404, 413, 422, 429, 500, 503)


class _Server:
    """Says the same to every question; what is at the root of it, too."""

    def __init__(self, status: int, body: bytes) -> None:
        self.location = SimpleNamespace(authority="server:1", host="server")
        self._answer = SimpleNamespace(status=status, read=lambda: body, header=lambda _: "")

    @contextmanager
    def open(self, *_: Any, **__: Any) -> Iterator[Any]:
        yield self._answer


def _listing(data: bytes) -> None:
    """The first byte chooses the status. What is taken of a model is bounded, and can be told."""
    server = cast("Client", _Server(_STATUSES[data[0] % len(_STATUSES)] if data else 200, data[1:]))
    refused, took = None, False
    looks: tuple[Callable[[], tuple[Served, ...]], ...] = (
        lambda: openai_api.listed(server, LIMITS),
        lambda: (openai_api.find(server, "llama", LIMITS),),
        lambda: open_inference.listed(server, LIMITS),
        lambda: (open_inference.find(server, "m", LIMITS),),
    )
    for look in looks:
        try:
            found = look()
        except EngineError as error:
            refused = error
            continue
        took = True
        assert len(found) <= LIMITS.upstream_models_max
        for one in found:
            assert len(one.version) <= LIMITS.upstream_name_max_chars
            one.name.encode()
    openai_api.waiting(data)
    if refused is not None and not took:
        raise refused


class Said(Tree):
    """A status, and a body."""

    def make(self, rng: Random) -> bytes:
        return bytes([rng.randrange(len(_STATUSES))]) + super().make(rng)


_TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 2], "parameters": {}}
_BODIES: tuple[Any, ...] = (
    {
        "data": [
            {"id": "llama", "max_model_len": 4096, "meta": {"n_ctx_train": 8192}},
            {"id": "other", "context_length": 10, "max_context_length": 20, "owned_by": "x"},
        ],
        "models": [{"name": "llama:latest", "digest": "a" * 64}],
    },
    {"data": [{"id": "llama", "aigrid": {"model": "bafy", "context_tokens": 5}}]},
    [{"name": "m", "state": "READY", "version": "1"}, {"name": "n"}],
    {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnx",
        "inputs": [_TENSOR],
        "outputs": [_TENSOR, {**_TENSOR, "name": "t", "datatype": "BYTES", "shape": [1]}],
    },
    {"error": {"message": "the context length is 4096 at server:1", "type": "invalid"}},
    {"detail": "no such model"},
)
_METRICS = (
    b'# HELP x\nvllm:num_requests_waiting{model="m"} 3.0\nvllm:num_requests_waiting 1e400\n'
    b"llamacpp:requests_deferred 2\n"
)
TARGETS = (
    Target(
        "upstream-listings",
        lambda: Said([*(json.dumps(one).encode() for one in _BODIES), _METRICS]),
        _listing,
        (EngineError,),
    ),
)
