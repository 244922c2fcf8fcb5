"""The metrics of SPEC.md, each in [0, 1], where more is better. Pure.

A metric makes a tally of each item, and one value of all tallies; so intervals need no item twice.
An answer of None is one that did not come: it is as wrong as an answer can be.

Sources: macro F1 and AUC as scikit-learn's `f1_score(average="macro")` and `roc_auc_score` (AUC by
ranks: Mann and Whitney, 1947); nDCG at 10: Jarvelin and Kekalainen, 2002; span F1: CoNLL 2003; R2:
the coefficient of determination. For those of texts see `texts`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from aigrid.node.evaluating import texts
from aigrid.protocol.evidence import Metric

FIRST: Final = 5
"""How many of the answered labels recall looks at."""
_CUTOFF: Final = 10
_GAIN_MAX: Final = 32.0  # of relevance: the gain is 2 to that power
Span = tuple[int, int, str]
Tally = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """How one metric is computed.

    Attributes:
        tally: of (answer or None, expected), as `forms` reads them.
        value: of at least one tally.
    """

    name: Metric
    tally: Callable[[Any, Any], Tally]
    value: Callable[[Sequence[Tally]], float]

    def of(self, answers: Iterable[Any], expected: Iterable[Any]) -> float:
        """The value of answers beside what was expected."""
        pairs = zip(answers, expected, strict=True)
        return self.value([self.tally(answer, wanted) for answer, wanted in pairs])


Rankings = Sequence[Sequence[str]]
"""For each row of an item the labels that were answered, likeliest first."""


def _share(tallies: Sequence[Tally]) -> float:
    """Of tallies of (part, whole), both added up."""
    whole = sum(tally[1] for tally in tallies)
    return sum(tally[0] for tally in tallies) / whole if whole else 0.0


def _first(ranking: Sequence[str]) -> str | None:
    return ranking[0] if ranking else None


def _rows(answer: Rankings | None, expected: Sequence[str]) -> Rankings:
    return [()] * len(expected) if answer is None else answer


def _accuracy(answer: Rankings | None, expected: Sequence[str]) -> Tally:
    pairs = zip(_rows(answer, expected), expected, strict=True)
    return sum(_first(ranking) == label for ranking, label in pairs), len(expected)


def _recall(answer: Rankings | None, expected: Sequence[str]) -> Tally:
    pairs = zip(_rows(answer, expected), expected, strict=True)
    return sum(label in ranking[:FIRST] for ranking, label in pairs), len(expected)


def _labels(answer: Rankings | None, expected: Sequence[str]) -> Tally:
    return tuple(zip(map(_first, _rows(answer, expected)), expected, strict=True))


def _macro_f1(tallies: Sequence[Tally]) -> float:
    """The mean over all labels that were answered or expected."""
    pairs = Counter(pair for tally in tallies for pair in tally)
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()  # answered, and expected
    for (answered, wanted), times in pairs.items():
        seen[wanted] += times
        if answered is not None:
            seen[answered] += times
        if answered == wanted:
            right[wanted] += times
    return math.fsum(2 * right[label] / seen[label] for label in seen) / len(seen) if seen else 0.0


def _flags(answer: Sequence[tuple[float, bool]] | None, expected: Sequence[bool]) -> Tally:
    if answer is None:
        return tuple((-math.inf if wanted else math.inf, wanted) for wanted in expected)
    return tuple((score, wanted) for (score, _), wanted in zip(answer, expected, strict=True))


def _auc(tallies: Sequence[Tally]) -> float:
    """How often what is expected to be an anomaly scores above what is not; ties count half."""
    scored = Counter(pair for tally in tallies for pair in tally)
    truths = sum(times for (_, wanted), times in scored.items() if wanted)
    others = scored.total() - truths
    if not truths or not others:
        return 0.5  # nothing to tell apart
    below, won = 0, 0.0
    for score in sorted({score for score, _ in scored}):
        here, beside = scored[score, True], scored[score, False]
        won += here * (below + beside / 2)
        below += beside
    return won / (truths * others)


def _flagged(measure: Callable[[Rankings | None, Sequence[str]], Tally]) -> Any:
    """A metric of labels, of which there are two here."""

    def tally(answer: Sequence[tuple[float, bool]] | None, expected: Sequence[bool]) -> Tally:
        said = None if answer is None else [(str(flag),) for _, flag in answer]
        return measure(said, [str(flag) for flag in expected])

    return tally


def _residuals(answer: Sequence[float] | None, expected: Sequence[float]) -> Tally:
    """(numbers, their sum, sum of squares, sum of squared errors)."""
    wanted = [math.inf] * len(expected) if answer is None else answer
    errors = [a - b for a, b in zip(wanted, expected, strict=True)]
    return len(expected), _sum(expected), _sum(e * e for e in expected), _sum(e * e for e in errors)


def _sum(numbers: Iterable[float]) -> float:
    """Infinite where it is too great: a model may answer whatever there is."""
    try:
        return math.fsum(numbers)
    except OverflowError:
        return math.inf


def _r2(tallies: Sequence[Tally]) -> float:
    """1 - (squared errors / variance), and 0 where that is less; 0 where nothing varies."""
    numbers, total, squares, errors = map(_sum, zip(*tallies, strict=True))
    variance = squares - total * total / numbers if numbers else 0.0
    if variance <= 0:
        return float(errors == 0)
    return max(0.0, 1 - errors / variance) if math.isfinite(errors) else 0.0


def _ndcg(answer: Sequence[float] | None, expected: Sequence[float]) -> Tally:
    """Documents in order of their scores, of equal ones the last given first: no luck in ties."""
    if answer is None:
        return 0.0, 1
    order = sorted(range(len(answer)), key=lambda n: (-answer[n], -n))
    best = _gain(sorted(expected, reverse=True))
    return (_gain([expected[n] for n in order]) / best if best else 0.0), 1


def _gain(relevances: Sequence[float]) -> float:
    top = enumerate(relevances[:_CUTOFF])
    return math.fsum((2.0 ** min(one, _GAIN_MAX) - 1) / math.log2(n + 2) for n, one in top)


def _spans(answer: frozenset[Span] | None, expected: frozenset[Span]) -> Tally:
    """(right ones twice, all that were answered or expected): F1 is their ratio."""
    found = answer or frozenset()
    return 2 * len(found & expected), len(found) + len(expected)


def _span_f1(tallies: Sequence[Tally]) -> float:
    return _share(tallies) if any(tally[1] for tally in tallies) else 1.0


def _mean(score: Callable[[str, Iterable[str]], float]) -> Callable[[str | None, Any], Tally]:
    return lambda answer, expected: (0.0 if answer is None else score(answer, expected), 1)


def _chrf(answer: str | None, expected: Sequence[str]) -> Tally:
    """Counts beside the expected text that is nearest."""
    return max((texts.chrf_counts(answer or "", one) for one in expected), key=texts.chrf)


def _chrf_of(tallies: Sequence[Tally]) -> float:
    return texts.chrf([sum(column) for column in zip(*tallies, strict=True)])


def _word_accuracy(answer: str | None, expected: Sequence[str]) -> Tally:
    """(errors, words) beside the expected text that is nearest."""
    errors = (texts.word_errors(answer or "", one) for one in expected)
    return min(errors, key=lambda found: found[0] / max(1, found[1]))


def _word_accuracy_of(tallies: Sequence[Tally]) -> float:
    errors, wanted = (sum(column) for column in zip(*tallies, strict=True))
    return max(0.0, 1 - errors / wanted) if wanted else float(errors == 0)


def _by_name(*measures: Measure) -> Mapping[Metric, Measure]:
    return MappingProxyType({measure.name: measure for measure in measures})


LABELS: Final = _by_name(
    Measure("accuracy", _accuracy, _share),
    Measure("macro_f1", _labels, _macro_f1),
    Measure("recall", _recall, _share),
)
FLAGS: Final = _by_name(
    Measure("auc", _flags, _auc),
    Measure("accuracy", _flagged(_accuracy), _share),
    Measure("macro_f1", _flagged(_labels), _macro_f1),
)
NUMBERS: Final = _by_name(Measure("r2", _residuals, _r2))
RELEVANCES: Final = _by_name(Measure("ndcg", _ndcg, _share))
SPANS: Final = _by_name(Measure("span_f1", _spans, _span_f1))
TEXTS: Final = _by_name(
    Measure("exact_match", _mean(texts.exact_match), _share),
    Measure("token_f1", _mean(texts.token_f1), _share),
    Measure("rouge_l", _mean(texts.rouge_l), _share),
    Measure("chrf", _chrf, _chrf_of),
    Measure("word_accuracy", _word_accuracy, _word_accuracy_of),
)
