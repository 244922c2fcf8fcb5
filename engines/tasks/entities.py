"""Entities in a text: what a model says of its tokens, as spans of characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from aigrid.engines.tasks.base import Array, Setup, TaskCall, activate, invalid, unsupported
from aigrid.engines.tasks.text import OnTokens

STRATEGIES: Final = ("first", "max", "average", "simple")


class TokenClassification(OnTokens):
    """Spans of a text with their entity: `{"entity", "score", "start", "end"}`, in characters.

    Labels may be plain or in BIO form; neighbouring words of the same entity are one span. What a
    word of several tokens is, `aggregation_strategy` says, by the names that transformers uses: the
    entity of its "first" token (the default, since models are trained so), of the surest one
    ("max"), or of the "average" of all; with "simple" each token stands for itself.
    """

    parameters = frozenset({"aggregation_strategy"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._labels = setup.labels()

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        text = call.input(str, "a text")
        strategy = call.text("aggregation_strategy", STRATEGIES[0])
        if strategy not in STRATEGIES:
            raise invalid(f"aggregation_strategy is one of {', '.join(STRATEGIES)}")
        (encoding,) = self.tokens.encode([text])
        ((row, _),) = self.run([encoding], call)
        if row.ndim != 2 or row.shape[1] != len(self._labels):
            raise unsupported(f"the model gives {list(row.shape)} for {len(self._labels)} labels")
        scores = activate(row[: len(encoding.ids)], "softmax")
        tokens = [
            Token(n, encoding.word_ids[n], *trimmed(text, *encoding.offsets[n]))
            for n in range(len(encoding.ids))
            if not encoding.special_tokens_mask[n]
        ]
        groups = [[token] for token in tokens] if strategy == "simple" else words(text, tokens)
        found = []
        for group in groups:
            places = [token for token in group if token.start < token.end]
            if places:  # else it stands for white space
                judged = judge(scores[[token.row for token in group]], strategy)
                best = int(judged.argmax())
                found.append(
                    (self._labels[best], float(judged[best]), places[0].start, places[-1].end)
                )
        return spans(found)


@dataclass(frozen=True, slots=True)
class Token:
    """Row `row` of the scores: a part of word `word`, from `start` to before `end` in the text."""

    row: int
    word: int | None
    start: int
    end: int


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's place without the white space that some tokenizers count to it."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, end - (len(piece) - len(piece.rstrip())))


def words(text: str, tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens by the word that they are part of; pure.

    Tokenizers that split at white space alone take a comma for the end of the word before it:
    punctuation around a word stands for itself.
    """
    groups: list[list[Token]] = []
    for token in tokens:
        if groups and token.word is not None and groups[-1][-1].word == token.word:
            groups[-1].append(token)
        else:
            groups.append([token])
    made: list[list[Token]] = []
    for group in groups:
        letters = [any(map(str.isalnum, text[token.start : token.end])) for token in group]
        if not any(letters):
            made += [[token] for token in group]
            continue
        first = letters.index(True)
        while first and group[first - 1].start == group[first - 1].end:
            first -= 1  # a token for the space before the word is its first one
        last = len(letters) - letters[::-1].index(True)
        made += [[token] for token in group[:first]]
        made.append(group[first:last])
        made += [[token] for token in group[last:]]
    return made


def judge(scores: Array, strategy: str) -> Array:
    """Scores of a word from those of its tokens, [tokens, labels]."""
    match strategy:
        case "average":
            mean: Array = scores.mean(axis=0)
            return mean
        case "max":
            surest: Array = scores[int(scores.max(axis=1).argmax())]
            return surest
    first: Array = np.asarray(scores[0])
    return first


def spans(words_: Sequence[tuple[str, float, int, int]]) -> list[dict[str, Any]]:
    """Join (label, score, start, end) of neighbours into spans; pure.

    A span's score is the mean of theirs. "O" stands for no entity; "B-" begins one, "I-" goes on,
    and plain labels go on where the label stays.
    """
    made: list[tuple[str, list[float], int, int]] = []
    previous = "O"
    for label, score, start, end in words_:
        entity = label[2:] if label[:2] in ("B-", "I-") else label
        begins = label.startswith("B-") or entity != previous
        if label == "O":
            entity = "O"
        elif begins:
            made.append((entity, [score], start, end))
        else:
            name, scores, first, _ = made[-1]
            made[-1] = (name, [*scores, score], first, end)
        previous = entity
    return [
        {"entity": name, "score": sum(scores) / len(scores), "start": start, "end": end}
        for name, scores, start, end in made
    ]
