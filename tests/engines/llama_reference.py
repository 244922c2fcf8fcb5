"""The llama forward pass in float64, written for reading: what the graph has to agree with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tests.engines.gguf_writer import TYPES, Gguf, unpack

Array = np.ndarray[Any, Any]
KINDS = {number: name for name, number in TYPES.items()}


class Reference:
    def __init__(self, model: Gguf) -> None:
        self.weights = {
            tensor.name: unpack(tensor.data, KINDS[tensor.kind], tensor.dims[0])
            for tensor in model.tensors
        }
        self.kind = model.metadata["general.architecture"]
        said = {
            key.removeprefix(f"{self.kind}."): value
            for key, value in model.metadata.items()
            if key.startswith(f"{self.kind}.")
        }
        self.layers = said["block_count"]
        self.heads, self.kv_heads = said["attention.head_count"], said["attention.head_count_kv"]
        self.size = size = said["rope.dimension_count"]
        self.epsilon = said["attention.layer_norm_rms_epsilon"]
        frequencies = said["rope.freq_base"] ** (-np.arange(0, size, 2) / size)
        if "rope_freqs.weight" in self.weights:
            frequencies = frequencies / self.weights["rope_freqs.weight"][0]
        self.frequencies = frequencies / said.get("rope.scaling.factor", 1.0)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """After every position: (tokens, vocabulary)."""
        hidden = self.weights["token_embd.weight"][list(tokens)].astype(np.float64)
        for layer in range(self.layers):
            normed = self._norm(hidden, f"blk.{layer}.attn_norm")
            hidden = hidden + self._attention(normed, f"blk.{layer}.attn_")
            normed = self._norm(hidden, f"blk.{layer}.ffn_norm")
            gate = self._times(normed, f"blk.{layer}.ffn_gate")
            up = self._times(normed, f"blk.{layer}.ffn_up")
            hidden = hidden + self._times(gate / (1 + np.exp(-gate)) * up, f"blk.{layer}.ffn_down")
        head = "output" if "output.weight" in self.weights else "token_embd"
        return self._times(self._norm(hidden, "output_norm"), head)

    def _times(self, values: Array, name: str) -> Array:
        bias = self.weights.get(f"{name}.bias", np.zeros((1, 1)))[0]
        return values @ self.weights[f"{name}.weight"].astype(np.float64).T + bias

    def _norm(self, values: Array, name: str) -> Array:
        mean = (values**2).mean(-1, keepdims=True)
        return values / np.sqrt(mean + self.epsilon) * self.weights[f"{name}.weight"][0]

    def _rotate(self, heads: Array) -> Array:
        """Turn each pair by its angle; heads is (positions, heads, size).

        A pair is two neighbours, or in the qwen2 architecture an element of the first half and the
        one in its place in the second.
        """
        turns = np.exp(1j * np.outer(np.arange(len(heads)), self.frequencies)[:, None])
        if self.kind == "qwen2":
            half = self.size // 2
            turned = (heads[..., :half] + 1j * heads[..., half:]) * turns
            return np.concatenate([turned.real, turned.imag], -1)
        turned = (heads[..., 0::2] + 1j * heads[..., 1::2]) * turns
        return np.stack([turned.real, turned.imag], -1).reshape(heads.shape)

    def _attention(self, normed: Array, prefix: str) -> Array:
        count, size = len(normed), self.size
        query = self._rotate(self._times(normed, f"{prefix}q").reshape(count, self.heads, size))
        key = self._rotate(self._times(normed, f"{prefix}k").reshape(count, self.kv_heads, size))
        value = self._times(normed, f"{prefix}v").reshape(count, self.kv_heads, size)
        out = np.zeros((count, self.heads, size))
        for head in range(self.heads):
            shared = head * self.kv_heads // self.heads
            scores = query[:, head] @ key[:, shared].T / np.sqrt(size)
            scores[np.triu_indices(count, 1)] = -np.inf
            odds = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = odds / odds.sum(-1, keepdims=True) @ value[:, shared]
        return self._times(out.reshape(count, -1), f"{prefix}output")
