"""Models of text that look things up: what they answer is known without any library."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from tests.engines.tasks.models import graph, source
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer, Metaspace, Whitespace

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import TaskMapping, TaskOutput, TextInput

TEXT = TextInput(tokenizer="tokenizer.json", mask="")


def lookup(
    folder: Path,
    tokenizer: Tokenizer,
    rows: dict[str, list[float]],
    *,
    task: str,
    output: TaskOutput,
    pooled: bool = False,
    text: TextInput = TEXT,
) -> ModelSource:
    """Each token's row of numbers, or their sum over the text; tokens without a row have noughts.

    There is no input that says which tokens are padding.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.zeros((tokenizer.get_vocab_size(), len(next(iter(rows.values())))), np.float32)
    for token, row in rows.items():
        table[tokenizer.token_to_id(token)] = row
    nodes = [helper.make_node("Gather", ["w", "input_ids"], ["rows" if pooled else "logits"])]
    held = {"w": table}
    if pooled:
        nodes.append(helper.make_node("ReduceSum", ["rows", "middle"], ["logits"], keepdims=0))
        held["middle"] = np.array([1])
    ids: list[Any] = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    ]
    made = source(folder, graph(nodes, ids, "logits", held), task, TaskMapping(text, output=output))
    files = {**made.files, "tokenizer.json": folder / "tokenizer.json"}
    return replace(made, files=files)


def word_pieces(*words: str) -> Tokenizer:
    """Words in pieces, as BERT has them, without special tokens."""
    made = Tokenizer(WordPiece({w: n for n, w in enumerate(("[UNK]", *words))}, unk_token="[UNK]"))
    made.normalizer = Lowercase()
    made.pre_tokenizer = BertPreTokenizer()
    return made


def plain_words(*words: str) -> Tokenizer:
    made = Tokenizer(WordLevel({w: n for n, w in enumerate(("[UNK]", *words))}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return made


def spaced_pieces(*words: str) -> Tokenizer:
    """Words with their space, as SentencePiece has them: "▁new", and pieces without."""
    vocabulary = {w: n for n, w in enumerate(("[UNK]", *words))}
    made = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=""))
    made.pre_tokenizer = Metaspace()
    return made
