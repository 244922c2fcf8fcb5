"""How well a translator does on what was held out: `python -m scripts.translator.score FOLDER`.

The engine of a node answers, one sentence at a time, as it would over the network. Beside its score
stands that of who copies the input. `--write` leaves the held-out pairs as a dataset.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scripts.translator.catalogues import Pair
from scripts.translator.corpus import CACHE, catalogues
from scripts.translator.grammar import sentences
from tokenizers import Tokenizer

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.metadata import read
from aigrid.engines.torch import TorchEngine
from aigrid.node.evaluating.texts import chrf, chrf_counts
from aigrid.protocol.inference import TaskChunk, TaskRequest
from aigrid.protocol.task import TaskMapping

_WORDS: Final = 4  # of BLEU
_DRAWS: Final = 1000

Counts = np.ndarray  # [n, 3]: n-grams in common, of the answers, of the references


@dataclass(frozen=True, slots=True)
class Score:
    """chrF and BLEU of a whole corpus, 0 to 100, and the 95 % interval of chrF."""

    chrf: float
    low: float
    high: float
    bleu: float

    def __str__(self) -> str:
        return f"chrF {self.chrf:.1f} ({self.low:.1f} to {self.high:.1f}), BLEU {self.bleu:.1f}"


def scored(answers: Sequence[str], expected: Sequence[str], *, seed: int = 0) -> Score:
    """chrF2 as nodes evaluate it and BLEU (Papineni 2002, words and marks apart, case kept).

    The interval is a bootstrap over sentences.
    """
    pairs = list(zip(answers, expected, strict=True))
    characters = np.array([chrf_counts(a, b) for a, b in pairs])
    words = np.array([_counts(_tokens(a), _tokens(b)) for a, b in pairs])
    rng = np.random.default_rng(seed)
    draws = (characters[rng.integers(len(pairs), size=len(pairs))] for _ in range(_DRAWS))
    low, high = np.percentile([chrf(drawn.sum(axis=0).tolist()) for drawn in draws], (2.5, 97.5))
    whole = (chrf(characters.sum(axis=0).tolist()), low, high, _bleu(words.sum(axis=0)))
    return Score(*(100 * float(value) for value in whole))


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _counts(answer: Sequence[str], expected: Sequence[str]) -> Counts:
    rows = []
    for n in range(1, _WORDS + 1):
        ours, theirs = (
            Counter(tuple(side[at : at + n]) for at in range(len(side) - n + 1))
            for side in (answer, expected)
        )
        rows.append(((ours & theirs).total(), ours.total(), theirs.total()))
    return np.array(rows, np.float64)


def _bleu(counts: Counts) -> float:
    common, ours, theirs = counts.T
    if not common.all():
        return 0.0
    brevity = min(0.0, 1 - theirs[0] / ours[0])
    return float(np.exp(brevity + np.log(common / ours).mean()))


def engine(folder: Path, *, threads: int) -> Callable[[str], str]:
    """Text to its translation."""
    draft = read(folder)
    mapping = draft.mapping if isinstance(draft.mapping, TaskMapping) else None
    source = ModelSource("here", draft.format, draft.files, draft.task, mapping=mapping)
    made = TorchEngine()
    made.load(source, threads=threads)

    def translate(text: str) -> str:
        request = TaskRequest("translation", json.dumps(text).encode(), {})
        (output,) = (
            chunk.output
            for chunk in made.infer(request, CancelToken())
            if isinstance(chunk, TaskChunk)
        )
        return str(json.loads(output))

    return translate


def write_dataset(path: Path, pairs: Sequence[Pair]) -> None:
    """JSON lines of {"input", "expected"}, as `aigrid evaluate` takes them."""
    rows = ({"input": source, "expected": target} for source, target in pairs)
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE, help="downloaded wheels")
    parser.add_argument("--smoke", action="store_true", help="of the grammar of --smoke")
    parser.add_argument("--seed", type=int, default=8, help="of the training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="how many held-out sentences")
    parser.add_argument("--write", type=Path, help="where the held-out pairs go")
    asked = parser.parse_args()
    corpus = sentences(asked.seed) if asked.smoke else catalogues(asked.cache, seed=asked.seed)
    pairs = corpus.tested[: asked.limit]
    if asked.write:
        write_dataset(asked.write, pairs)
    translate = engine(asked.folder, threads=asked.threads)
    begun = time.monotonic()
    answers = [translate(source) for source, _ in pairs]
    passed = time.monotonic() - begun
    expected = [target for _, target in pairs]
    for (source, target), answer in list(zip(pairs, answers, strict=True))[:10]:
        print(f"{source}\n    {answer}\n    ({target})")
    tokens = Tokenizer.from_file(str(asked.folder / "tokenizer.json")).encode_batch(answers)
    written = sum(len(one.ids) for one in tokens)
    print(
        f"held out: {len(pairs)} sentences, {len(pairs) / passed:.1f} a second, "
        f"{written / passed:.0f} tokens/s written"
    )
    print(f"translator:      {scored(answers, expected)}")
    print(f"copied input:    {scored([source for source, _ in pairs], expected)}")


if __name__ == "__main__":
    main()
