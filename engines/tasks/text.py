"""Tasks whose input is text: classes, vectors, and what follows from vectors."""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from aigrid.engines.tasks.base import (
    Array,
    Setup,
    TaskCall,
    activate,
    check_count,
    classes,
    finite,
    invalid,
    ranked,
    sigmoid,
    softmax,
    unsupported,
)
from aigrid.engines.tasks.tokens import Pair, Tokens, batches
from aigrid.protocol.limits import LIMITS

ENTAILMENT: Final = "entail"  # how the label begins, as in "entailment"


class OnTokens:
    """Texts through the model: what all of these share."""

    def __init__(self, setup: Setup) -> None:
        self.output = setup.output
        self.runner = setup.runner
        self.tokens = Tokens(setup)
        self.result = setup.output_name()

    def run(self, encodings: Sequence[Any], call: TaskCall) -> list[tuple[Array, Array]]:
        """The result's row and its mask, for each encoding in order."""
        rows: dict[int, tuple[Array, Array]] = {}
        call.tokens += sum(len(encoding.ids) for encoding in encodings)
        for batch in batches(encodings, padded=self.tokens.masked):
            feeds, mask = self.tokens.feeds([encodings[n] for n in batch])
            found = call.run(self.runner, feeds)[self.result]
            if found.ndim < 2 or found.shape[0] != len(batch):
                raise unsupported(f"the model gives {list(found.shape)} for {len(batch)} texts")
            rows.update((n, (found[at], mask[at])) for at, n in enumerate(batch))
        return [rows[n] for n in range(len(encodings))]

    def pool(self, vectors: Array, mask: Array) -> Array:
        """One vector of a text: of [tokens, size], or of [size] as it is."""
        if vectors.ndim == 1:
            pooled = vectors.astype(np.float32)
        else:
            held = vectors[: mask.shape[0]]
            if not mask.all():
                held = held[mask == 1]
            held = held.astype(np.float32, copy=False)
            match self.output.pooling:
                case "mean":
                    pooled = np.add.reduce(held) / np.float32(len(held))
                case "max":
                    pooled = held.max(axis=0)
                case "cls":
                    pooled = held[0]
                case "last":
                    pooled = held[-1]
                case "none":
                    raise unsupported("the model gives a vector per token: name a pooling")
        finite(pooled)
        length = math.sqrt(pooled.dot(pooled))
        return pooled / length if self.output.normalize and length > 0 else pooled


class Embedding(OnTokens):
    """Texts to vectors: one for each."""

    parameters = frozenset[str]()

    def __call__(self, call: TaskCall) -> list[list[float]]:
        texts = call.input(list[str | list[int]], "an array of texts, or of arrays of token ids")
        check_count(len(texts), "texts")
        return [vector.tolist() for vector in self.vectors(texts, call)]

    def vectors(self, texts: Sequence[str | Sequence[int]], call: TaskCall) -> list[Array]:
        """float32 [size] for each text."""
        rows = self.run(self.tokens.given(texts), call)
        return [self.pool(vectors, mask) for vectors, mask in rows]


class _Sentences(msgspec.Struct, forbid_unknown_fields=True):
    source: str
    sentences: list[str]


class Similarity(Embedding):
    """The cosine between a sentence and each of others."""

    def __call__(self, call: TaskCall) -> list[float]:  # type: ignore[override]
        given = call.input(_Sentences, "an object of `source` and `sentences`")
        check_count(len(given.sentences), "sentences")
        return _cosines(self.vectors([given.source, *given.sentences], call))


class _Documents(msgspec.Struct, forbid_unknown_fields=True):
    query: str
    documents: list[str]


class Ranking(Embedding):
    """How relevant each document is to a query.

    A cross-encoder reads query and document as a pair and gives one number; where the mapping has
    a pooling, both are embedded and the cosine is the answer.
    """

    def __call__(self, call: TaskCall) -> list[float]:  # type: ignore[override]
        given = call.input(_Documents, "an object of `query` and `documents`")
        check_count(len(given.documents), "documents")
        if self.output.pooling != "none":
            return _cosines(self.vectors([given.query, *given.documents], call))
        pairs: list[Pair] = [(given.query, document) for document in given.documents]
        rows = [row for row, _ in self.run(self.tokens.encode(pairs), call)]
        if rows[0].size != 1:
            raise unsupported(f"the model gives {list(rows[0].shape)} for a pair, not one number")
        return [float(activate(row, self.output.activation).ravel()[0]) for row in rows]


class TextClassification(OnTokens):
    """Labels of a text by score."""

    parameters = frozenset({"top_k"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._labels = setup.labels()

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        text = call.input(str, "a text")
        top = call.whole("top_k", self.output.top, low=0, high=LIMITS.task_labels_max)
        ((row, _),) = self.run(self.tokens.encode([text]), call)
        return ranked(classes(row, self._labels, self.output.activation), self._labels, top)


class _Candidates(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    labels: list[str]


class ZeroShot(OnTokens):
    """Labels that the request brings, by what a model of entailment says of each.

    With the parameter `multi_label` each label is judged by itself.
    """

    parameters = frozenset({"multi_label", "hypothesis_template"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        names = [label.lower() for label in setup.labels()]
        agreeing = [n for n, name in enumerate(names) if name.startswith(ENTAILMENT)]
        if not agreeing or len(names) < 2:
            raise unsupported("zero-shot classification needs a model with a label 'entailment'")
        self._count = len(names)
        self._yes = agreeing[0]
        others = [n for n, name in enumerate(names) if name.startswith("contradict")]
        self._no = others[0] if others else int(self._yes == 0)
        self._template = self.tokens.mapping.template or "This example is {label}."

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        given = call.input(_Candidates, "an object of `text` and `labels`")
        check_count(len(given.labels), "labels")
        template = call.text("hypothesis_template", self._template)
        place = "{label}" if "{label}" in template else "{}"
        if place not in template:
            raise invalid("the hypothesis template has to hold {label}")
        pairs: list[Pair] = [(given.text, template.replace(place, label)) for label in given.labels]
        logits = np.stack([finite(row) for row, _ in self.run(self.tokens.encode(pairs), call)])
        if logits.ndim != 2 or logits.shape[1] != self._count:
            raise unsupported(f"the model gives {list(logits.shape[1:])} for {self._count} labels")
        yes, no = logits[:, self._yes], logits[:, self._no]
        alone = call.flag("multi_label", default=False) or len(given.labels) == 1
        scores = sigmoid(yes - no) if alone else softmax(yes)
        return ranked(scores, given.labels, 0)


def _cosines(vectors: Sequence[Array]) -> list[float]:
    first, others = vectors[0], np.stack(vectors[1:])
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(first)
    return [float(c) for c in (others @ first) / np.maximum(lengths, 1e-12)]
