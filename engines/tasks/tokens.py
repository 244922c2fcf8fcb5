"""Text to token ids, in batches that a model takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from msgspec import UNSET

from aigrid.engines.tasks.base import Array, Setup, invalid, unsupported
from aigrid.protocol.limits import MIB
from aigrid.protocol.task import TextInput

TOKENIZER_MAX_BYTES: Final = 64 * MIB
BATCH_TOKENS: Final = 4096  # of one run, padding included: bounds memory, costs no speed

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Given:
    """Token ids that came as such, as an encoding of the tokenizer."""

    ids: Sequence[int]

    @property
    def attention_mask(self) -> Sequence[int]:
        return [1] * len(self.ids)

    @property
    def type_ids(self) -> Sequence[int]:
        return [0] * len(self.ids)


class Tokens:
    """The model's tokenizer, and the tensors it fills."""

    def __init__(self, setup: Setup) -> None:
        if setup.mapping.text is UNSET:
            raise unsupported(f"{setup.name} needs a mapping of text")
        self.mapping: TextInput = setup.mapping.text
        path = setup.file(self.mapping.tokenizer, what="tokenizer")
        if path.stat().st_size > TOKENIZER_MAX_BYTES:
            raise unsupported(f"{path.name} is too large for a tokenizer")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 -- boundary: the library raises it
            raise unsupported(f"{path.name} is not a tokenizer: {error}"[:300]) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if self.mapping.truncate and self.mapping.max_tokens:
            self._tokenizer.enable_truncation(self.mapping.max_tokens)
        known = setup.runner.inputs
        wanted = (self.mapping.ids, self.mapping.mask, self.mapping.types)
        self._ids, self._mask, self._types = (
            setup.input_name(name) if name else "" for name in wanted
        )
        if unfilled := known.keys() - {self._ids, self._mask, self._types}:
            raise unsupported(f"nothing fills the input {min(unfilled)!r} of the model")

    @property
    def masked(self) -> bool:
        """Whether the model is told which tokens are padding."""
        return bool(self._mask)

    def encode(self, texts: Sequence[str] | Sequence[Pair]) -> list[Any]:
        """One encoding for each text or pair, none longer than the model takes.

        Raises:
            EngineError: `invalid_request` for one that is longer.
        """
        if len(texts) == 1 and isinstance(texts[0], str):
            encodings = [self._tokenizer.encode(texts[0])]
        else:
            encodings = self._tokenizer.encode_batch(list(texts))
        return self._checked(encodings)

    def given(self, inputs: Sequence[str | Sequence[int]]) -> list[Any]:
        """One encoding for each text, or array of its token ids.

        Ids are those that the model's own tokenizer gives for a text, special tokens at its ends
        included: ids out of another vocabulary, as clients send for a model that they do not know,
        would give vectors that look right.

        Raises:
            EngineError: `invalid_request` for ids that are not such, or too many.
        """
        texts = [text for text in inputs if isinstance(text, str)]
        of_texts = iter(self.encode(texts) if texts else ())
        return self._checked(
            [
                next(of_texts) if isinstance(one, str) else self._own(one, n)
                for n, one in enumerate(inputs)
            ]
        )

    def _own(self, ids: Sequence[int], n: int) -> Given:
        before, after = self._frame
        size = self._tokenizer.get_vocab_size()
        framed = (*before, *ids[len(before) : len(ids) - len(after)], *after)
        if (
            not (before or after)
            or tuple(ids) != framed
            or not all(0 <= token < size for token in ids)
        ):
            raise invalid(
                f"input {n} has token ids that are not those of this model's tokenizer for a text, "
                "special tokens included: send text (LangChain: check_embedding_ctx_length=False)"
            )
        return Given(ids)

    @cached_property
    def _frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before and after a text."""
        encoding = self._tokenizer.encode("a")
        special = [n for n, is_special in enumerate(encoding.special_tokens_mask) if is_special]
        first = next((n for n in range(len(encoding.ids)) if n not in special), 0)
        before = tuple(encoding.ids[n] for n in special if n < first)
        return before, tuple(encoding.ids[n] for n in special if n > first)

    def _checked(self, encodings: list[Any]) -> list[Any]:
        most = self.mapping.max_tokens
        for n, encoding in enumerate(encodings):
            if most and len(encoding.ids) > most:
                raise invalid(
                    f"text {n} has {len(encoding.ids)} tokens, the model takes {most}: "
                    "shorten it, or send it in parts"
                )
            if not encoding.ids:
                raise invalid(f"text {n} has no tokens")
        return encodings

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def feeds(self, encodings: Sequence[Any]) -> tuple[dict[str, Array], Array]:
        """Input tensors of a batch, and its mask: int64 [batch, tokens]."""
        shape = (len(encodings), max(len(e.ids) for e in encodings))
        ids, mask, types = (np.zeros(shape, np.int64) for _ in range(3))
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            ids[row, :length] = encoding.ids
            mask[row, :length] = encoding.attention_mask
            types[row, :length] = encoding.type_ids
        named = ((self._ids, ids), (self._mask, mask), (self._types, types))
        return {name: array for name, array in named if name}, mask


def batches(
    encodings: Sequence[Any], tokens_max: int = BATCH_TOKENS, *, padded: bool = True
) -> list[list[int]]:
    """Positions in batches of similar length, so that little is padded; pure.

    Where nothing may be padded, since the model has no mask, those of a batch are equally long.
    """
    order = sorted(range(len(encodings)), key=lambda n: len(encodings[n].ids))
    made: list[list[int]] = []
    for position in order:
        length = len(encodings[position].ids)
        fits = made and (padded or len(encodings[made[-1][0]].ids) == length)
        if fits and (len(made[-1]) + 1) * length <= tokens_max:
            made[-1].append(position)
        else:
            made.append([position])
    return made
