"""What each type of weight costs `onnx_text`: bytes, memory, time for a token and for a prompt.

    python scripts/bench/quantisations.py [--model SmolLM2-135M-Instruct.Q4_1.gguf]

Prints one JSON line. The types run side by side in this process, turn by turn, on the same random
llama; `ms` and `tokens_per_second` are of the quickest turn, so that others on the machine count
least. With a model, the file itself and its matrices rounded anew, by the tests' own rounding, do
the same and answer a question.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnxruntime
from scripts.bench.reporting import tell
from tests.engines.gguf_writer import TYPES, Gguf, Shape, tiny_llama
from tests.engines.requantise import requantise
from tests.engines.texts import ask, inside, source

from aigrid.engines import gguf
from aigrid.engines.base import CancelToken
from aigrid.engines.batched_sequence import BatchedSequence
from aigrid.engines.onnx_decoder import PREFILL_CHUNK, Run
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.protocol.inference import ChatMessage

ONE_LAYER = Shape(layers=1, width=768, hidden=2048, heads=12, kv_heads=4, head_size=64)
LAYERS = 12
ANEW = ("Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K_M", "Q6_K")
QUESTION = (ChatMessage("user", "Name three colours."),)


def random_llama(kind: str) -> Gguf:
    """Twelve times the same layer: rounding takes longer than running."""
    model = tiny_llama(kind, shape=ONE_LAYER)
    model.metadata["llama.block_count"] = LAYERS
    layer = [tensor for tensor in model.tensors if tensor.name.startswith("blk.0.")]
    for number in range(1, LAYERS):
        model.tensors += [
            replace(tensor, name=tensor.name.replace("blk.0.", f"blk.{number}."))
            for tensor in layer
        ]
    return model


def load(path: Path, threads: int) -> tuple[OnnxTextEngine, dict[str, Any]]:
    engine = OnnxTextEngine()
    model = source(path, cache=path.parent / "cache", context=256, spin=False, reuse_prefix=False)
    estimate = engine.estimate(model)
    began = time.perf_counter()
    engine.load(model, threads=threads)
    header = gguf.parse(path.read_bytes())
    types = Counter(tensor.type.name for tensor in header.tensors.values())
    return engine, {
        "types": dict(types.most_common()),
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "estimate_mb": round(estimate.memory_bytes / 1e6, 1),
        "build_seconds": round(time.perf_counter() - began, 2),
    }


def take_turns(
    engines: Mapping[str, OnnxTextEngine], rounds: int, tokens: int, what: str
) -> dict[str, Any]:
    """The quickest of the rounds, type by type."""
    best: dict[str, tuple[float, float]] = {}
    steps: dict[str, list[float]] = {kind: [] for kind in engines}
    for _ in range(rounds):
        for kind, engine in engines.items():
            turn = take_turn(BatchedSequence(inside(engine).batch), tokens)
            known = best.get(kind, turn)
            steps[kind].append(turn[1] * 1e3)
            best[kind] = min(turn[0], known[0]), min(turn[1], known[1])
    first, *rest = steps
    for kind in rest:
        tell(f"{what}: a token of {kind}", steps[kind], "ms", beside=(first, steps[first]))
    return {
        kind: {
            "ms": round(step * 1e3, 2),
            "tokens_per_second": round(1 / step, 1),
            "prompt_tokens_per_second": round(PREFILL_CHUNK / prompt),
        }
        for kind, (prompt, step) in best.items()
    }


def take_turn(decoder: BatchedSequence[Run], tokens: int) -> tuple[float, float]:
    """Seconds for a prompt of one chunk, and for each token after it."""
    run = Run(CancelToken())
    began = time.perf_counter()
    all(decoder.prefill([5 + index % 200 for index in range(PREFILL_CHUNK)], run))
    between = time.perf_counter()
    for _ in range(tokens):
        decoder.step([9], run)
    ended = time.perf_counter()
    decoder.leave()
    return between - began, (ended - between) / tokens


def measure(
    paths: Mapping[str, Path], options: argparse.Namespace, *, answers: bool
) -> dict[str, Any]:
    engines, found = {}, {}
    what = "the model" if answers else "a random llama"
    for kind, path in paths.items():
        engines[kind], found[kind] = load(path, options.threads)
    for kind, figures in take_turns(engines, options.rounds, options.tokens, what).items():
        found[kind] |= figures
    if answers:
        for kind, engine in engines.items():
            found[kind]["answer"] = ask(engine, messages=QUESTION, max_tokens=24)[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    result: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "threads": options.threads}
    with tempfile.TemporaryDirectory() as name:
        folder, paths = Path(name), {}
        for kind in TYPES:
            paths[kind] = folder / f"{kind}.gguf"
            paths[kind].write_bytes(random_llama(kind).build())
        result["random"] = measure(paths, options, answers=False)
    if options.model is not None:
        with tempfile.TemporaryDirectory() as name:
            anew = {
                kind: requantise(options.model, kind, Path(name) / f"{kind}.gguf") for kind in ANEW
            }
            result["model"] = measure({"as it is": options.model, **anew}, options, answers=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
