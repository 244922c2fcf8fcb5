"""Small BERTs with random weights, as files; and what they answer, computed once more with numpy.

The reference follows the paper and the definition of each layer. It shares nothing with the
builder, and reads the file with the format's own library.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import TaskMapping, TaskOutput, TextInput

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "mat", "##s", "fast", "quick", "fox")
VOCABULARY = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "vocab_size": len(VOCABULARY),
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
}
TEXT = TextInput(tokenizer="tokenizer.json", types="token_type_ids")
VECTORS = TaskMapping(text=TEXT, output=TaskOutput(pooling="mean", normalize=True))

Weights = dict[str, np.ndarray]


def weights(config: dict[str, Any], classes: int = 0, seed: int = 0) -> Weights:
    """Random weights under the names that Hugging Face gives them."""
    rng = np.random.default_rng(seed)
    width, hidden = config["hidden_size"], config["intermediate_size"]

    def draw(*shape: int, mean: float = 0.0, spread: float = 0.3) -> np.ndarray:
        return rng.normal(mean, spread, shape).astype(np.float32)

    made = {
        "embeddings.word_embeddings.weight": draw(config["vocab_size"], width),
        "embeddings.position_embeddings.weight": draw(config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": draw(config["type_vocab_size"], width),
        "pooler.dense.weight": draw(width, width),
        "pooler.dense.bias": draw(width),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            made[f"{at}attention.{part}.weight"] = draw(width, width)
            made[f"{at}attention.{part}.bias"] = draw(width)
        made[f"{at}intermediate.dense.weight"] = draw(hidden, width)
        made[f"{at}intermediate.dense.bias"] = draw(hidden)
        made[f"{at}output.dense.weight"] = draw(width, hidden)
        made[f"{at}output.dense.bias"] = draw(width)
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    for norm in norms:
        made[f"{norm}.weight"] = draw(width, mean=1.0)
        made[f"{norm}.bias"] = draw(width)
    if classes:
        made = {f"bert.{name}": array for name, array in made.items()}
        made["classifier.weight"] = draw(classes, width)
        made["classifier.bias"] = draw(classes)
    return made


def save(
    folder: Path,
    config: dict[str, Any],
    made: Weights,
    *,
    task: str = "feature-extraction",
    mapping: TaskMapping | None = VECTORS,
    cache: Path | None = None,
) -> ModelSource:
    """A model of three files."""
    files = {name: folder / name for name in ("model.safetensors", "config.json", "tokenizer.json")}
    save_file(made, files["model.safetensors"])
    files["config.json"].write_text(json.dumps(config))
    tokenizer().save(str(files["tokenizer.json"]))
    return ModelSource("bafymodel", "safetensors", files, task, {}, cache, mapping)


def tokenizer() -> Tokenizer:
    made = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
    made.normalizer = BertNormalizer()
    made.pre_tokenizer = BertPreTokenizer()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return made


class Reference:
    """The forward pass of a saved model, one text at a time and without any padding."""

    def __init__(self, source: ModelSource) -> None:
        self.weights = load_file(source.files["model.safetensors"])
        self.config = json.loads(source.files["config.json"].read_text())
        self.tokenizer = Tokenizer.from_file(str(source.files["tokenizer.json"]))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        bare = "embeddings.word_embeddings.weight" in self.weights
        self.prefix = "" if bare else "bert."

    def hidden(self, text: str, second: str | None = None) -> np.ndarray:
        """float32 [tokens, width] of a text, or of a pair."""
        read = self.tokenizer.encode(text, second)
        at = f"{self.prefix}embeddings."
        x = self.weights[f"{at}word_embeddings.weight"][read.ids]
        x = x + self.weights[f"{at}position_embeddings.weight"][: len(read.ids)]
        x = x + self.weights[f"{at}token_type_embeddings.weight"][read.type_ids]
        x = self.normed(x, f"{at}LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            x = self.layer(x, f"{self.prefix}encoder.layer.{layer}.")
        return x

    def vector(self, text: str) -> np.ndarray:
        mean = self.hidden(text).mean(axis=0)
        return mean / np.linalg.norm(mean)

    def layer(self, x: np.ndarray, at: str) -> np.ndarray:
        heads = self.config["num_attention_heads"]
        split = (len(x), heads, x.shape[1] // heads)
        q, k, v = (
            self.dense(x, f"{at}attention.self.{part}").reshape(split).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / math.sqrt(split[2])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares = shares / shares.sum(axis=-1, keepdims=True)
        attended = (shares @ v).swapaxes(0, 1).reshape(x.shape)
        added = x + self.dense(attended, f"{at}attention.output.dense")
        x = self.normed(added, f"{at}attention.output.LayerNorm")
        wide = self.activated(self.dense(x, f"{at}intermediate.dense"))
        return self.normed(x + self.dense(wide, f"{at}output.dense"), f"{at}output.LayerNorm")

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def normed(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def activated(self, x: np.ndarray) -> np.ndarray:
        match self.config["hidden_act"]:
            case "gelu":
                return x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))
            case "relu":
                return np.maximum(x, 0)
        return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def classes(self, text: str, second: str | None = None) -> np.ndarray:
        """Logits of a sequence."""
        pooled = np.tanh(self.dense(self.hidden(text, second)[0], f"{self.prefix}pooler.dense"))
        return self.dense(pooled, "classifier")
