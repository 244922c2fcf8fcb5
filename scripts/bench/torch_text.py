"""What the node adds to torch: tokens per second of the engine beside plain transformers.

    python scripts/bench/torch_text.py --layers 30 --tokens 32

Makes a causal language model of the shape of SmolLM2-135M with random weights, and prints one JSON
line. Bare is `generate` of transformers on the model that transformers itself loaded, greedily,
with the same prompt. The two take turns, and of each the median counts. The tokens have to be the
same.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.generation.streamers import BaseStreamer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_least, tell

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.torch import TorchEngine
from aigrid.protocol.inference import TextChunk, TextRequest

VOCABULARY = 49152

Timed = tuple[list[int], float, float]
"""Tokens, seconds to the first of them, seconds to the last."""


def make(folder: Path, layers: int) -> ModelSource:
    """A model whose answer has no end, and a tokenizer of as many tokens."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        initializer_range=0.04,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(a + b for a in letters for b in letters)][:VOCABULARY]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    return ModelSource("bench", "safetensors", files, "text-generation")


class FirstToken(BaseStreamer):  # type: ignore[misc]  # of a library without types
    """When the first new token came; the prompt is put first."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = 0.0

    def put(self, value: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        pass


def bare(folder: Path, threads: int) -> Callable[[tuple[int, ...], int], Timed]:
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    def run(prompt: tuple[int, ...], count: int) -> Timed:
        first = FirstToken()
        began = time.perf_counter()
        made = model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=count,
            streamer=first,
            pad_token_id=0,
        )
        ended = time.perf_counter()
        return made[0, len(prompt) :].tolist(), first.at - began, ended - began

    return run


def engine(source: ModelSource, threads: int) -> Callable[[tuple[int, ...], int], Timed]:
    loaded = TorchEngine()
    loaded.load(source, threads=threads)

    def run(prompt: tuple[int, ...], count: int) -> Timed:
        tokens: list[int] = []
        first = 0.0
        began = time.perf_counter()
        request = TextRequest(token_ids=prompt, max_tokens=count, temperature=0.0)
        for chunk in loaded.infer(request, CancelToken()):
            if isinstance(chunk, TextChunk):
                first = first or time.perf_counter() - began
                tokens += chunk.token_ids
        return tokens, first, time.perf_counter() - began

    return run


def measure(layers: int, threads: int, count: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        source = make(Path(name), layers)
        ways = {"bare": bare(Path(name), threads), "engine": engine(source, threads)}
        prompt = tuple(100 + n * 37 % 5000 for n in range(64))
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        answers = {way: run(prompt, count)[0] for way, run in ways.items()}  # and warm
        if answers["bare"] != answers["engine"]:
            raise SystemExit("the tokens differ")
        for _ in range(rounds):
            for way, run in ways.items():
                _, first, whole = run(prompt, count)
                times[way].append((first, (count - 1) / (whole - first)))
    figures: dict[str, Any] = {"layers": layers, "threads": threads, "tokens": count}
    for way, found in times.items():
        figures[way] = {
            "first_token_ms": round(1000 * median(first for first, _ in found), 1),
            "tokens_per_second": round(median(speed for _, speed in found), 1),
        }
    speeds = [[speed for _, speed in times[way]] for way in ("engine", "bare")]
    told = ("plain transformers", speeds[1])
    tell("decode, tokens/s", speeds[0], "1/s", beside=told, aim=at_least(0.95))
    ratios = [e[1] / b[1] for b, e in zip(times["bare"], times["engine"], strict=True)]
    return figures | {"engine_to_bare": round(median(ratios), 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    figures = measure(arguments.layers, arguments.threads, arguments.tokens, arguments.rounds)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
