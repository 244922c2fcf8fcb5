"""Bodies that clients send, in every dialect."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import msgspec
from scripts.fuzzing import bodies
from scripts.fuzzing.known import contracts
from scripts.fuzzing.mutations import Text
from scripts.fuzzing.target import Target
from scripts.fuzzing.trees import Tree

from aigrid.metagraph.query import check_query
from aigrid.node.gateway.by_capability import capability_of, task_of
from aigrid.node.gateway.ollama import requests as ollama
from aigrid.node.gateway.open_inference.endpoints import check_load, decode_repository
from aigrid.node.gateway.open_inference.infer_request import decode_infer
from aigrid.node.gateway.openai.chat_request import decode_chat
from aigrid.node.gateway.openai.completion_request import decode_completion
from aigrid.node.gateway.openai.embeddings import decode_embeddings
from aigrid.node.gateway.openai.response_request import decode_response
from aigrid.node.gateway.tasks import decode_task
from aigrid.node.policy.receipt_proof import proved, requests_in
from aigrid.protocol import messages
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.more import check_more, needed
from aigrid.protocol.receipt import request_hash

_SALT = bytes(16)


def sendable(request: InferRequest) -> None:
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
                sendable(request)
        found = capability_of(call.models, lambda _: ("domain",))
        if found is not None:
            task_of(call.request, contracts().of(found[0]))

    return run


def _task(data: bytes) -> None:
    for task in ("text-classification", "translation", "urn:x"):
        sendable(decode_task(task, data).request)


def _embeddings(data: bytes) -> None:
    sendable(decode_embeddings(data).call.request)


def _embed(data: bytes) -> None:
    """As the old path reads it, which has one `prompt`, and as the new one does."""
    try:
        sendable(ollama.decode_embed(data, single=True).request)
    except InvalidRequestError:
        pass
    sendable(ollama.decode_embed(data, single=False).request)


def _infer(data: bytes) -> None:
    """The first line is the header that says where the JSON ends; without one there is none."""
    head, found, body = data.partition(b"\n")
    call = decode_infer(body if found else data, head.decode("latin-1") if found else None)
    sent = messages.Infer("req_00000001", "m", "m", call.asked.request, _SALT, b"")
    messages.decode_rpc_request(messages.encode(sent))


def _repository(data: bytes) -> None:
    """As all calls to the repository read it, and as the one does that loads a model."""
    check_load(decode_repository(data))


def _proof(data: bytes) -> None:
    """A request that somebody shows beside a receipt: its hashes can be made, however it is."""
    requests = requests_in(data)
    proved((request_hash(_SALT, requests[0]), ""), _SALT, *requests)


def _proof_seeds() -> Tree:
    chosen = (*bodies.CHAT, *bodies.COMPLETION, *bodies.RESPONSE)
    sent = decoded_of(bodies.CHAT, bodies.COMPLETION, bodies.INFER, bodies.TASKS)
    written = (msgspec.json.encode(one) for one in sent)
    return Tree([*(json.dumps(one).encode() for one in chosen), *written])


def _query(data: bytes) -> None:
    check_query(data.decode("utf-8", "surrogateescape"))


class Lined(Tree):
    """Bodies with their length before them, and behind them the binary data that they declare."""

    def make(self, rng: Random) -> bytes:
        body = super().make(rng).replace(b"\n", b" ")
        tail = self._tail(rng, body)
        if not tail and rng.getrandbits(1):
            return body
        length = rng.choice((*[len(body)] * 13, len(body) - 1, "x", "-1", 10**12))
        return f"{length}\n".encode() + body + tail

    def _tail(self, rng: Random, body: bytes) -> bytes:
        sizes = [int(found) for found in _DECLARED.findall(body)]
        if rng.getrandbits(3) == 0 or sum(sizes) > _TAIL_MAX_BYTES:
            return rng.randbytes(rng.choice((0, 0, 4, 8, 8, 16)))
        return b"".join(_binary(rng, size) for size in sizes)


def _binary(rng: Random, size: int) -> bytes:
    """Elements of that many bytes: any, or one text with its length before it."""
    if size < 4 or rng.getrandbits(1):
        return rng.randbytes(size) if rng.getrandbits(1) else bytes(size)
    return (size - 4).to_bytes(4, "little") + b"a" * (size - 4)


_DECLARED = re.compile(rb'"binary_data_size": ?(\d{1,6})')
_TAIL_MAX_BYTES = 4096
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


def decoded_of(
    chats: Sequence[Any], completions: Sequence[Any], infers: Sequence[Any], tasks: Sequence[Any]
) -> Iterator[InferRequest]:
    """The requests that valid ones of these bodies are."""
    looks: tuple[tuple[Sequence[Any], Callable[[bytes], InferRequest]], ...] = (
        (chats, lambda data: decode_chat(data).call.request),
        (completions, lambda data: decode_completion(data).call.request),
        (infers, lambda data: decode_infer(data, None).asked.request),
        (tasks, lambda data: decode_task("text-classification", data).request),
    )
    for said, look in looks:
        for one in said:
            try:
                yield look(json.dumps(one).encode())
            except InvalidRequestError:
                continue


INVALID = (InvalidRequestError,)
TARGETS = (
    Target("openai-chat", made(bodies.CHAT), _text(decode_chat), INVALID),
    Target("openai-completions", made(bodies.COMPLETION), _text(decode_completion), INVALID),
    Target("openai-responses", made(bodies.RESPONSE), _text(decode_response), INVALID),
    Target("openai-embeddings", made(bodies.EMBEDDINGS), _embeddings, INVALID),
    Target("ollama-chat", made(bodies.OLLAMA), _text(ollama.decode_chat), INVALID),
    Target("ollama-generate", made(bodies.OLLAMA), _text(ollama.decode_generate), INVALID),
    Target("ollama-embed", made(bodies.EMBED), _embed, INVALID),
    Target("ollama-show", made(bodies.OLLAMA), ollama.decode_show, INVALID),
    Target("open-inference", made(bodies.INFER, Lined), _infer, INVALID),
    Target("repository-calls", made(bodies.REPOSITORY), _repository, INVALID),
    Target("typed-tasks", made(bodies.TASKS), _task, INVALID),
    Target("receipt-proofs", _proof_seeds, _proof, INVALID),
    Target("sparql", lambda: Text(_QUERIES, _WORDS, b" "), _query, INVALID),
)
