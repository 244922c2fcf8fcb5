"""How near a text is to the one that was expected. Pure; what each returns adds up over items.

Sources: chrF: Popovic, "chrF: character n-gram F-score for automatic MT evaluation" (WMT 2015),
with beta 2 and n up to 6, the default of sacreBLEU 2; ROUGE-L: Lin, "ROUGE" (2004); exact match and
token F1: Rajpurkar et al., "SQuAD" (2016), and its script's normalisation; word accuracy: 1 - WER.
Texts are compared in NFC.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

CHRF_ORDER: Final = 6
_CHRF_BETA: Final = 2.0
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"\w+")


def plain_words(text: str) -> list[str]:
    """The words of a short answer: small letters, no punctuation, no English articles."""
    bare = unicodedata.normalize("NFC", text).lower().translate(_PUNCTUATION)
    return _ARTICLES.sub(" ", bare).split()


def words(text: str) -> list[str]:
    """Runs of letters and digits, in small letters."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def exact_match(answer: str, expected: Iterable[str]) -> float:
    """1 where the answer is one of those expected, but for case, punctuation and articles."""
    return float(any(plain_words(answer) == plain_words(one) for one in expected))


def token_f1(answer: str, expected: Iterable[str]) -> float:
    """F1 of the words in common with the expected text that has most, without regard to order."""
    return max((_f1_of_bags(plain_words(answer), plain_words(one)) for one in expected), default=0)


def rouge_l(answer: str, expected: Iterable[str]) -> float:
    """F1 of the longest common subsequence of words, with the expected text that has most."""
    return max((_rouge_l(words(answer), words(one)) for one in expected), default=0)


def word_errors(answer: str, expected: str) -> tuple[int, int]:
    """(words to insert, delete or replace, words expected)."""
    wanted = words(expected)
    return distance(words(answer), wanted), len(wanted)


def chrf_counts(answer: str, expected: str) -> tuple[float, ...]:
    """For each n from 1 to 6: n-grams in common, of the answer, and of what was expected.

    Of characters, white space left out.
    """
    got, wanted = (_letters(text) for text in (answer, expected))
    counts: list[float] = []
    for n in range(1, CHRF_ORDER + 1):
        ours, theirs = _ngrams(got, n), _ngrams(wanted, n)
        counts += [(ours & theirs).total(), ours.total(), theirs.total()]
    return tuple(counts)


def chrf(counts: Sequence[float]) -> float:
    """The F-score of added counts: precision and recall are means over the n that both have."""
    orders = [counts[i : i + 3] for i in range(0, 3 * CHRF_ORDER, 3)]
    usable = [(same, got, wanted) for same, got, wanted in orders if got and wanted]
    if not usable:
        # Nothing to compare: right only if nothing was expected, and nothing said.
        return float(not any(counts))
    precision = sum(same / got for same, got, _ in usable) / len(usable)
    recall = sum(same / wanted for same, _, wanted in usable) / len(usable)
    return f_score(precision, recall, _CHRF_BETA)


def f_score(precision: float, recall: float, beta: float = 1.0) -> float:
    """Their weighted harmonic mean; recall counts `beta` times as much as precision."""
    weighted = beta * beta * precision + recall
    return (1 + beta * beta) * precision * recall / weighted if weighted else 0.0


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's distance between two sequences.

    In numbers of as many bits as `a` is long: Hyyro, "A bit-vector algorithm for computing
    Levenshtein and Damerau edit distances" (2003).
    """
    if not a:
        return len(b)
    places = _places(a)
    mask, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, found = mask, 0, len(a)
    for item in b:
        here = places.get(item, 0)
        diagonal = (((here & up) + up) ^ up) | here | down
        left_up = down | ~(diagonal | up)
        left_down = up & diagonal
        found += bool(left_up & last) - bool(left_down & last)
        left_up, left_down = (left_up << 1) | 1, left_down << 1
        up = (left_down | ~(diagonal | left_up)) & mask
        down = left_up & diagonal & mask
    return found


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Source: Hyyro, "Bit-parallel LCS-length computation revisited" (2004).
    """
    places, mask = _places(a), (1 << len(a)) - 1
    row = mask
    for item in b:
        here = row & places.get(item, 0)
        row = ((row + here) | (row - here)) & mask
    return len(a) - row.bit_count()


def _places(items: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for place, item in enumerate(items):
        found[item] = found.get(item, 0) | 1 << place
    return found


def _rouge_l(got: list[str], wanted: list[str]) -> float:
    if not got or not wanted:
        return float(got == wanted)
    same = common(got, wanted)
    return f_score(same / len(got), same / len(wanted))


def _f1_of_bags(got: list[str], wanted: list[str]) -> float:
    if not got or not wanted:
        return float(got == wanted)
    same = (Counter(got) & Counter(wanted)).total()
    return f_score(same / len(got), same / len(wanted))


def _letters(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))
