"""What an accelerator gives: its speed beside the processor's, and its memory beside the estimate.

    python scripts/bench/accelerator.py --layers 8 --tokens 96

Makes a causal language model with random weights in bfloat16, runs it with the engine `torch` on
the processor and on the accelerator that the engine chooses, in turns, and prints one JSON line.
Memory is what torch's allocator had at most, from before the model was loaded to a full context,
and beside it what the estimate says without the part that a driver takes before there is a model.
Without an accelerator it prints why it did nothing: {"skipped": ...}.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import skip, tell

from aigrid.engines.base import CancelToken, Device, Estimate, ModelSource
from aigrid.engines.devices import CONTEXT_BYTES
from aigrid.protocol.inference import TextChunk, TextRequest

VOCABULARY, CONTEXT = 8192, 512
_ROOM_NOWHERE = 0


@dataclass(frozen=True)
class Run:
    """Tokens, the logarithm of the probability of each, and tokens per second after the first."""

    tokens: list[int]
    logprobs: list[float]
    tokens_per_second: float


def accelerator() -> Device | str:
    """The accelerator that the engine would choose, or why there is none."""
    try:
        from aigrid.engines.devices import choose
        from aigrid.engines.torch_devices import accelerators

        found = choose(accelerators(), lambda _: 0, {})
    except ImportError as error:
        return f"{error.name} is not installed"
    return found or "torch sees no accelerator here"


def make(folder: Path, *, layers: int, width: int, dtype: str) -> ModelSource:
    """A model that never ends by itself, and a tokenizer of as many tokens."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 256),
        max_position_embeddings=2 * CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        initializer_range=0.04,
    )
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(a + b for a in letters for b in letters)][:VOCABULARY]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    options = {"context": CONTEXT}
    return ModelSource("bench", "safetensors", files, "text-generation", options)


def elsewhere(source: ModelSource, device: Device) -> ModelSource:
    """The same model, for a node that gives no memory of the accelerator to models."""
    return replace(source, room={device.place: _ROOM_NOWHERE})


def loaded(source: ModelSource, threads: int) -> tuple[Any, Estimate]:
    from aigrid.engines.torch import TorchEngine

    engine = TorchEngine()
    return engine, engine.load(source, threads=threads)


def generate(engine: Any, count: int, prompt_tokens: int | None = None) -> Run:
    """Greedily; with its prompt the answer fills the context unless told otherwise."""
    length = CONTEXT - count if prompt_tokens is None else prompt_tokens
    prompt = tuple(100 + n * 37 % 5000 for n in range(length))
    request = TextRequest(token_ids=prompt, max_tokens=count, temperature=0.0, top_logprobs=1)
    tokens: list[int] = []
    logprobs: list[float] = []
    first = 0.0
    for chunk in engine.infer(request, CancelToken()):
        if isinstance(chunk, TextChunk):
            first = first or time.perf_counter()
            tokens += chunk.token_ids
            logprobs += [entry.logprob for entry in chunk.logprobs]
    return Run(tokens, logprobs, (len(tokens) - 1) / (time.perf_counter() - first))


def agreeing(one: Run, other: Run, tolerance: float) -> int:
    """How many tokens are the same and about as likely, until two were as good as equal.

    Where the tokens part, both were the likeliest for their device: those probabilities have to be
    near each other, else it is -1. What comes after is another text.
    """
    for n, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=True)):
        if abs(one.logprobs[n] - other.logprobs[n]) > tolerance:
            return -1
        if a != b:
            return n
    return len(one.tokens)


def memory(source: ModelSource, device: Device, count: int, threads: int) -> dict[str, Any]:
    """The most that tensors took on the accelerator, beside the estimate."""
    import torch

    torch.accelerator.reset_peak_memory_stats(device.index)
    before = torch.accelerator.memory_allocated(device.index)
    engine, estimate = loaded(source, threads)
    generate(engine, count)
    real = torch.accelerator.max_memory_allocated(device.index) - before
    estimated = estimate.memory_bytes - CONTEXT_BYTES
    return {
        "device": estimate.device,
        "precision": estimate.precision,
        "memory_estimate_bytes": estimated,
        "memory_real_bytes": real,
        "memory_reserved_bytes": torch.accelerator.memory_reserved(device.index),
        "estimate_to_real": round(estimated / real, 3),
    }


def measure(device: Device, arguments: argparse.Namespace) -> dict[str, Any]:
    count, threads = arguments.tokens, arguments.threads
    with tempfile.TemporaryDirectory() as name:
        source = make(Path(name), layers=arguments.layers, width=arguments.width, dtype="bfloat16")
        figures = {"name": device.name, **memory(source, device, count, threads)}
        engines = {
            "accelerator": loaded(source, threads)[0],
            "cpu": loaded(elsewhere(source, device), threads)[0],
        }
        speeds: dict[str, list[float]] = {way: [] for way in engines}
        for engine in engines.values():
            generate(engine, 4)
        for _ in range(arguments.rounds):
            for way, engine in engines.items():
                speeds[way].append(generate(engine, count).tokens_per_second)
    real, estimated = figures["memory_real_bytes"], figures["memory_estimate_bytes"]
    tell("memory estimated", [estimated], "B", beside=("what tensors took", [real]))
    tell("tokens/s", speeds["accelerator"], "1/s", beside=("the processor", speeds["cpu"]))
    ratios = [a / c for a, c in zip(speeds["accelerator"], speeds["cpu"], strict=True)]
    told = {f"{way}_tokens_per_second": round(median(found), 1) for way, found in speeds.items()}
    return {**figures, **told, "accelerator_to_cpu": round(median(ratios), 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = accelerator()
    if isinstance(device, str):
        skip(device)
        told: dict[str, Any] = {"skipped": device}
    else:
        told = measure(device, arguments)
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
