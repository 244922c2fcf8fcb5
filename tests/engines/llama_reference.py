"""The llama forward pass in float64, written for reading: what the graph has to agree with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tests.engines.gguf_writer import HEAD_SIZE, HEADS, KV_HEADS, LAYERS, TYPES, Gguf, unpack

Array = np.ndarray[Any, Any]
KINDS = {number: name for name, number in TYPES.items()}


class Reference:
    def __init__(self, model: Gguf) -> None:
        self.weights = {
            tensor.name: unpack(tensor.data, KINDS[tensor.kind], tensor.dims[0])
            for tensor in model.tensors
        }
        self.epsilon = model.metadata["llama.attention.layer_norm_rms_epsilon"]
        base = model.metadata["llama.rope.freq_base"]
        frequencies = base ** (-np.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
        if "rope_freqs.weight" in self.weights:
            frequencies = frequencies / self.weights["rope_freqs.weight"][0]
        self.frequencies = frequencies / model.metadata.get("llama.rope.scaling.factor", 1.0)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """After every position: (tokens, vocabulary)."""
        hidden = self.weights["token_embd.weight"][list(tokens)].astype(np.float64)
        for layer in range(LAYERS):
            normed = self._norm(hidden, f"blk.{layer}.attn_norm")
            hidden = hidden + self._attention(normed, f"blk.{layer}.attn_")
            normed = self._norm(hidden, f"blk.{layer}.ffn_norm")
            gate = self._times(normed, f"blk.{layer}.ffn_gate")
            up = self._times(normed, f"blk.{layer}.ffn_up")
            hidden = hidden + self._times(gate / (1 + np.exp(-gate)) * up, f"blk.{layer}.ffn_down")
        head = "output" if "output.weight" in self.weights else "token_embd"
        return self._times(self._norm(hidden, "output_norm"), head)

    def _times(self, values: Array, name: str) -> Array:
        return values @ self.weights[f"{name}.weight"].astype(np.float64).T

    def _norm(self, values: Array, name: str) -> Array:
        mean = (values**2).mean(-1, keepdims=True)
        return values / np.sqrt(mean + self.epsilon) * self.weights[f"{name}.weight"][0]

    def _rotate(self, heads: Array) -> Array:
        """Turn each pair of neighbours by its angle; heads is (positions, heads, size)."""
        angles = np.outer(np.arange(len(heads)), self.frequencies)[:, None]
        pairs = heads[..., 0::2] + 1j * heads[..., 1::2]
        turned = pairs * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], -1).reshape(heads.shape)

    def _attention(self, normed: Array, prefix: str) -> Array:
        count = len(normed)
        query = self._rotate(self._times(normed, f"{prefix}q").reshape(count, HEADS, HEAD_SIZE))
        key = self._rotate(self._times(normed, f"{prefix}k").reshape(count, KV_HEADS, HEAD_SIZE))
        value = self._times(normed, f"{prefix}v").reshape(count, KV_HEADS, HEAD_SIZE)
        out = np.zeros((count, HEADS, HEAD_SIZE))
        for head in range(HEADS):
            shared = head * KV_HEADS // HEADS
            scores = query[:, head] @ key[:, shared].T / np.sqrt(HEAD_SIZE)
            scores[np.triu_indices(count, 1)] = -np.inf
            odds = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = odds / odds.sum(-1, keepdims=True) @ value[:, shared]
        return self._times(out.reshape(count, -1), f"{prefix}output")
