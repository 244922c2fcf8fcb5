"""Bodies that clients send, in every dialect."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

from scripts.fuzzing import bodies
from scripts.fuzzing.mutations import Text
from scripts.fuzzing.target import Target
from scripts.fuzzing.trees import Tree

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.metagraph.query import check_query
from aigrid.node.evaluating.dataset import parse_dataset
from aigrid.node.evaluating.forms import form_of
from aigrid.node.gateway.by_capability import capability_of, task_of
from aigrid.node.gateway.ollama import requests as ollama
from aigrid.node.gateway.open_inference.infer_request import decode_infer
from aigrid.node.gateway.openai.chat_request import decode_chat
from aigrid.node.gateway.openai.completion_request import decode_completion
from aigrid.node.gateway.openai.embeddings import decode_embeddings
from aigrid.node.gateway.openai.response_request import decode_response
from aigrid.node.gateway.tasks import decode_task
from aigrid.node.outcome import request as outcome
from aigrid.node.outcome.contracts import Contracts
from aigrid.protocol import messages
from aigrid.protocol.errors import InvalidRequestError, UsageError
from aigrid.protocol.inference import InferRequest, TextRequest
from aigrid.protocol.more import check_more, needed
from aigrid.protocol.receipt import request_hash

_SALT = bytes(16)


@cache
def _contracts() -> Contracts:
    return Contracts(LiveConcepts(default_taxonomy()), now_ms=lambda: 1_790_000_000_000)


def _sendable(request: InferRequest) -> None:
    """What the gateway takes any other node takes, and both make the same hash of it."""
    sent = messages.Infer("req_00000001", "m", "m", request, _SALT, b"")
    read = messages.decode_rpc_request(messages.encode(sent))
    assert isinstance(read, messages.Infer)
    assert request_hash(_SALT, read.request) == request_hash(_SALT, request)
    check_more(read.request)
    needed(read.request)


def _text(decode: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    """A call for text; one that names a capability is looked at as that, too."""

    def run(data: bytes) -> None:
        decoded = decode(data)
        call = getattr(decoded, "call", decoded)
        if isinstance(call, ollama.TouchCall):
            return
        for request in (call.request, *call.others):
            if (
                len(messages.encode(messages.Infer("req_00000001", "m", "m", request, _SALT, b"")))
                < 1 << 20
            ):
                _sendable(request)
        found = capability_of(call.models)
        if found is not None:
            task_of(call.request, _contracts().of(found[0]))

    return run


def _task(data: bytes) -> None:
    for task in ("text-classification", "translation", "urn:x"):
        _sendable(decode_task(task, data).request)


def _embeddings(data: bytes) -> None:
    _sendable(decode_embeddings(data).call.request)


def _embed(data: bytes) -> None:
    for single in (False, True):
        _sendable(ollama.decode_embed(data, single=single).request)


def _infer(data: bytes) -> None:
    """The first line is the header that says where the JSON ends; without one there is none."""
    head, found, body = data.partition(b"\n")
    call = decode_infer(body if found else data, head.decode("latin-1") if found else None)
    sent = messages.Infer("req_00000001", "m", "m", call.asked.request, _SALT, b"")
    messages.decode_rpc_request(messages.encode(sent))


def _capability(data: bytes) -> None:
    for name in ("text-generation", "text-classification", "translation", "image-classification"):
        contract = _contracts().of(name)
        body = outcome.decode(data)
        asked = outcome.asked(contract, body)
        if not isinstance(asked.want.request, TextRequest):
            _sendable(asked.want.request)


def _dataset(data: bytes) -> None:
    for task in ("text-classification", "translation"):
        form, _ = form_of(task)
        parse_dataset(data, _contracts().of(task), form, {})


def _query(data: bytes) -> None:
    check_query(data.decode("utf-8", "surrogateescape"))


class Lined(Tree):
    """Bodies with their length before them, and now and then binary data behind."""

    def make(self, rng: Random) -> bytes:
        body = super().make(rng).replace(b"\n", b" ")
        tail = rng.randbytes(rng.choice((0, 0, 4, 8, 8, 16)))
        length = str(
            rng.choice((len(body), len(body), len(body), len(body) - 1, "x", "-1", 10**12))
        )
        return length.encode() + b"\n" + body + tail if tail or rng.getrandbits(1) else body


_LINES = b"""{"input": "a text", "expected": "yes", "parameters": {"labels": "a"}}
{"input": {"text": "Hello"}, "expected": {"text": "Bonjour"}}
{"input": "a", "expected": [{"label": "b", "score": 1.5}]}"""
_QUERIES = (
    b"PREFIX a: <urn:a#> SELECT ?s WHERE { GRAPH ?g { ?s a:b 'x' } } # FROM",
    b'ASK { ?s ?p """SERVICE""" }\nDESCRIBE <urn:x>',
)
_WORDS = (
    b"SERVICE",
    b"FROM",
    b"INSERT",
    b"DATA",
    b"SELECT",
    b"'''",
    b'"""',
    b"<",
    b">",
    b"\\u0041",
)


def made(bodies: Sequence[Any], form: type[Tree] = Tree) -> Callable[[], Tree]:
    return lambda: form([json.dumps(one).encode() for one in bodies])


INVALID = (InvalidRequestError,)
TARGETS = (
    Target("openai-chat", made(bodies.CHAT), _text(decode_chat), INVALID),
    Target("openai-completions", made(bodies.COMPLETION), _text(decode_completion), INVALID),
    Target("openai-responses", made(bodies.RESPONSE), _text(decode_response), INVALID),
    Target("openai-embeddings", made(bodies.EMBEDDINGS), _embeddings, INVALID),
    Target("ollama-chat", made(bodies.OLLAMA), _text(ollama.decode_chat), INVALID),
    Target("ollama-generate", made(bodies.OLLAMA), _text(ollama.decode_generate), INVALID),
    Target("ollama-embed", made(bodies.OLLAMA), _embed, INVALID),
    Target("ollama-show", made(bodies.OLLAMA), ollama.decode_show, INVALID),
    Target("open-inference", made(bodies.INFER, Lined), _infer, INVALID),
    Target("typed-tasks", made(bodies.TASKS), _task, INVALID),
    Target("capabilities", made((*bodies.CAPABILITIES, *bodies.TASKS)), _capability, INVALID),
    Target(
        "datasets", lambda: Text([_LINES], (b'"input"', b'"expected"')), _dataset, (UsageError,)
    ),
    Target("sparql", lambda: Text(_QUERIES, _WORDS, b" "), _query, INVALID),
)
