"""Engines as a failing grid sees them: how each gets a model, and what it is asked.

`ENGINES` is the table of `test_engine_failures`; another engine is one more entry. Weights that are
no numbers are those of one word, so that only who says `POISON` meets them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from scripts.nodes import NodeProcess
from tests.engines import bert_models
from tests.engines.gguf_writer import TOKENS, tiny_llama
from tests.engines.gguf_writer import write as write_gguf
from tests.engines.tasks.text_models import lookup, plain_words
from tests.engines.upstream.servers import Server

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import TaskOutput

POISON = "fox"


@dataclass(frozen=True)
class Asked:
    """A request to the gateway: a path and a body."""

    path: str
    body: Mapping[str, Any]

    def of(self, gateway: str, *, seconds: float = 60) -> httpx.Response:
        return httpx.post(f"{gateway}{self.path}", json=self.body, timeout=seconds)


@dataclass(frozen=True)
class Kind:
    """An engine in the table.

    Attributes:
        publish: offers a model named like the engine, from a folder or a server.
        usual, large: a small request, and one for which a worker needs memory that it has not.
        poison: one whose answer is no number; None where the engine computes none.
        needs: packages without which it does not run.
        server: whether what fails is a server, rather than the worker.
    """

    publish: Callable[[NodeProcess, Path, Server], None]
    usual: Asked
    large: Asked
    poison: Asked | None = None
    needs: tuple[str, ...] = ()
    server: bool = False


def chat(name: str, text: str) -> Asked:
    messages = [{"role": "user", "content": text}]
    body = {"model": name, "messages": messages, "max_tokens": 3, "temperature": 0}
    return Asked("/v1/chat/completions", body)


def vectors(name: str, *texts: str) -> Asked:
    return Asked("/v1/embeddings", {"model": name, "input": list(texts)})


def task(name: str, what: str, given: Any) -> Asked:
    return Asked(f"/aigrid/v1/tasks/{what}", {"model": name, "input": given})


def published(
    node: NodeProcess, source: ModelSource, name: str, folder: Path, what: Path | None = None
) -> None:
    """Offer files with their mapping, as a person would."""
    mapping = folder / "mapping.json"
    mapping.write_bytes(msgspec.json.encode(source.mapping))
    options = ("--capability", source.task, "--task-mapping", str(mapping), "--name", name)
    node.cli("publish", str(what or folder / f"model.{source.format}"), *options)


def _echo(node: NodeProcess, _: Path, __: Server) -> None:
    node.cli("models", "fetch", "echo")


def _onnx(node: NodeProcess, folder: Path, _: Server) -> None:
    tokenizer = plain_words("the", POISON)
    rows = {"the": [1.0, 0.5], POISON: [float("nan"), 1.0]}
    output, kind = TaskOutput(), "feature-extraction"
    source = lookup(folder, tokenizer, rows, task=kind, output=output, pooled=True)
    published(node, source, "onnx", folder)


def _poisoned(folder: Path) -> ModelSource:
    made = bert_models.weights(bert_models.CONFIG)
    row = bert_models.VOCABULARY[POISON]
    made["embeddings.word_embeddings.weight"][row] = np.nan
    return bert_models.save(folder, bert_models.CONFIG, made)


def _onnx_encoder(node: NodeProcess, folder: Path, _: Server) -> None:
    published(node, _poisoned(folder), "onnx_encoder", folder, folder)


def _onnx_text(node: NodeProcess, folder: Path, _: Server) -> None:
    made = tiny_llama(head="F32")  # else every token would be judged by these weights
    (table,) = [tensor for tensor in made.tensors if tensor.name == "token_embd.weight"]
    values = np.frombuffer(table.data, np.float32).reshape(table.dims[::-1]).copy()
    values[TOKENS.index("~")] = np.nan
    table.data = values.tobytes()
    path = write_gguf(folder, made)
    node.cli("publish", str(path), "--capability", "text-generation", "--name", "onnx_text")


def _torch(node: NodeProcess, folder: Path, _: Server) -> None:
    from tests.engines import torch_models

    # So wide that a long prompt takes hundreds of MiB.
    model = torch_models.llama(max_position_embeddings=4096, intermediate_size=16_384)
    poisoned = torch_models.byte_level().encode("~").ids
    with torch_models.torch.no_grad():
        model.model.embed_tokens.weight[poisoned] = float("nan")
    torch_models.speaker(folder, model)
    node.cli("publish", str(folder), "--capability", "text-generation", "--name", "torch")


def _server_of_text(node: NodeProcess, _: Path, server: Server) -> None:
    given = ("--upstream-model", "parrot", "--capability", "feature-extraction")
    node.cli("publish", f"openai+{server.root}", *given, "--name", "openai_api")


def _server_of_tensors(node: NodeProcess, folder: Path, server: Server) -> None:
    mapping = folder / "mapping.json"
    columns = {"features": [{"name": "a"}, {"name": "b"}]}
    mapping.write_text(json.dumps({"table": columns}))
    given = ("--upstream-model", "adder", "--capability", "tabular-regression")
    what = (f"oip+{server.root}", *given, "--task-mapping", str(mapping))
    node.cli("publish", *what, "--name", "open_inference")


ROW = {"a": 1, "b": 2}
MANY = "the " * 4_000_000
ENGINES: dict[str, Kind] = {
    "echo": Kind(_echo, chat("echo", "the"), chat("echo", MANY)),
    "onnx": Kind(
        _onnx,
        vectors("onnx", "the"),
        vectors("onnx", MANY),
        vectors("onnx", f"the {POISON}"),
    ),
    "onnx_text": Kind(
        _onnx_text,
        chat("onnx_text", "the"),
        chat("onnx_text", MANY),
        chat("onnx_text", "a~b"),
    ),
    "onnx_encoder": Kind(
        _onnx_encoder,
        vectors("onnx_encoder", "the"),
        vectors("onnx_encoder", MANY),
        vectors("onnx_encoder", f"the {POISON}"),
    ),
    "torch": Kind(
        _torch,
        chat("torch", "the"),
        chat("torch", "x " * 1900),
        chat("torch", "a~b"),
        needs=("torch", "transformers"),
    ),
    "openai_api": Kind(
        _server_of_text,
        vectors("openai_api", "the"),
        vectors("openai_api", "the"),
        vectors("openai_api", "the"),
        server=True,
    ),
    "open_inference": Kind(
        _server_of_tensors,
        task("open_inference", "tabular-regression", [ROW]),
        task("open_inference", "tabular-regression", [ROW]),
        task("open_inference", "tabular-regression", [ROW]),
        server=True,
    ),
}
