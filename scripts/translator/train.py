"""Train a small English to French translator: `python -m scripts.translator.train FOLDER`.

On one core the full one takes about an hour; `--smoke` takes seconds, on sentences of a
small grammar, and needs no download. The same seed, threads and versions give the same weights.
"""

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from scripts.translator.catalogues import Pair
from scripts.translator.corpus import CACHE, Corpus, catalogues
from scripts.translator.grammar import sentences
from scripts.translator.model import FULL, PAD_ID, POSITIONS, SMOKE, Plan, built, saved, tokenizer

_IGNORED: Final = -100  # of a label: counts for nothing
_SMOOTHING: Final = 0.1
_NORM_MAX: Final = 1.0
_SAID_EVERY: Final = 100  # steps

Example = tuple[list[int], list[int]]


def examples(pairs: Sequence[Pair], tokens: Any) -> list[Example]:
    """Token ids of both sides; what is longer than a model's positions is left out."""
    sides = (tokens.encode_batch([pair[side] for pair in pairs]) for side in (0, 1))
    made = [(source.ids, target.ids) for source, target in zip(*sides, strict=True)]
    return [one for one in made if max(map(len, one)) < POSITIONS]


def batches(given: Sequence[Example], most: int, rng: random.Random) -> Iterator[list[Example]]:
    """All examples again and again, those of similar length together, in an order of the seed."""
    while True:
        order = sorted(given, key=lambda one: max(map(len, one)) + 2 * rng.random())
        made: list[list[Example]] = [[]]
        for one in order:
            longest = max(map(len, one))
            if made[-1] and (len(made[-1]) + 1) * longest > most:
                made.append([])
            made[-1].append(one)
        rng.shuffle(made)
        yield from made


def loss_of(
    model: Any, batch: Sequence[Example], *, smoothing: float = 0.0, blanked: float = 0.0
) -> Any:
    """Mean cross entropy of the French tokens of a batch, in nats.

    `blanked`: the chance of each token before the one to be told to be hidden.
    """
    import torch

    given = torch.from_numpy(_padded([source for source, _ in batch], PAD_ID))
    wanted = torch.from_numpy(_padded([target for _, target in batch], _IGNORED))
    before = wanted.clamp(min=PAD_ID).roll(1, dims=1)
    before[:, 0] = PAD_ID  # where the decoder starts
    if blanked:
        before = before.masked_fill(torch.rand(before.shape) < blanked, PAD_ID)
    logits = model(
        input_ids=given, attention_mask=(given != PAD_ID).long(), decoder_input_ids=before,
        use_cache=False,
    ).logits  # fmt: skip
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED, label_smoothing=smoothing
    )


def _padded(rows: Sequence[Sequence[int]], filler: int) -> np.ndarray:
    made = np.full((len(rows), max(map(len, rows))), filler, np.int64)
    for n, row in enumerate(rows):
        made[n, : len(row)] = row
    return made


def rate(step: int, warmup: int) -> float:
    """The share of the highest learning rate that a step learns with."""
    return min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


def trained(
    corpus: Corpus,
    plan: Plan,
    *,
    seed: int,
    threads: int,
    half: bool = False,
    keep: Callable[[Any, Any], None] | None = None,
) -> tuple[Any, Any]:
    """A model and its tokenizer. Progress goes to standard error.

    Args:
        half: products are computed with bfloat16, which some processors do faster.
        keep: is given both every so often, for who does not want to wait for the end.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a sixth of the time, for nothing
    tokens = tokenizer((text for pair in corpus.trained for text in pair), plan.vocabulary)
    model = built(plan, tokens.get_vocab_size()).train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(plan.averaged)).eval()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, plan.warmup))
    watched = examples(corpus.watched, tokens)
    rng = random.Random(seed)
    learned = examples(corpus.trained, tokens)
    copies = [(ids, ids) for _, ids in rng.sample(learned, int(plan.copied * len(learned)))]
    feed = batches([*learned, *copies], plan.batch_tokens, rng)
    begun, seen = time.monotonic(), 0
    for step, batch in zip(range(1, plan.steps + 1), feed, strict=False):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = loss_of(model, batch, smoothing=_SMOOTHING, blanked=plan.blanked)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _NORM_MAX)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        seen += sum(len(ids) for one in batch for ids in one)
        if step % _SAID_EVERY == 0:
            with torch.inference_mode():
                held = loss_of(average.module, watched).item()
            passed = time.monotonic() - begun
            _say(
                f"step {step}/{plan.steps}: loss {loss.item():.3f}, held out {held:.3f}, "
                f"{seen / passed:.0f} tokens/s, {passed:.0f} s"
            )
            if keep is not None:
                keep(average.module, tokens)
    return average.module, tokens


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("--cache", type=Path, default=CACHE, help="downloaded wheels")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="faster where the CPU has it")
    asked = parser.parse_args()
    plan = SMOKE if asked.smoke else FULL
    plan = replace(plan, steps=asked.steps or plan.steps)
    corpus = sentences(asked.seed) if asked.smoke else catalogues(asked.cache, seed=asked.seed)
    _say(
        f"{len(corpus.trained)} pairs to train on, {len(corpus.tested)} held out, "
        f"{corpus.dropped} dropped as too like those; sha256 {corpus.digest}"
    )
    card = f"English to French. {plan}, seed {asked.seed}, corpus sha256 {corpus.digest}.\n"

    def keep(model: Any, tokens: Any) -> None:
        saved(asked.folder, model, tokens, plan, card=card)

    options = {"seed": asked.seed, "threads": asked.threads, "half": asked.bfloat16}
    model, tokens = trained(corpus, plan, keep=keep, **options)
    keep(model, tokens)
    _say(f"{model.num_parameters()} parameters in {asked.folder}; {time.process_time():.0f} s CPU")


if __name__ == "__main__":
    main()
