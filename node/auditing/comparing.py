"""Whether an answer holds beside the same work done by another holder of the model. Pure.

The model is the same to the byte, so numbers may differ by the rounding of another machine and by
nothing else; `node.outcome.agreement`, which compares different models, is far more lenient. A text
is checked token by token, with the tokens before each as they were answered ("teacher forcing"): so
one near-tie that fell the other way costs one token and not the rest of the text. What those tokens
come to as a text, and whether the answer may end where it does, leaves no such room.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np

from aigrid.protocol.inference import FinishReason, Tensor, TokenLogprob
from aigrid.protocol.limits import LIMITS

Verdict = Literal["same", "different", "unclear"]
_COARSE: Final = {"float16": 8.0, "bfloat16": 64.0}  # of float32's tolerance
_FLOATS: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}  # bytes of each
_LENGTH_FACTOR, _LENGTH_SPARE = 4, 4096  # numbers are written out to more or fewer digits
_NONE: Final = object()
_NEGLIGIBLE: Final = 1e-12  # of a sum of probabilities


@dataclass(frozen=True, slots=True)
class Written:
    """A text, as it was answered.

    Attributes:
        before: ids that came before it, of others.
        tokens: its ids, or as many of the first of them as are checked.
        whole: whether these are all.
        text: all of it.
        reason: why it ended.
        stops: strings that were to end it.
        temperature: it was drawn at.
    """

    before: tuple[int, ...]
    tokens: tuple[int, ...]
    whole: bool
    text: str
    reason: FinishReason
    stops: tuple[str, ...]
    temperature: float


@dataclass(frozen=True, slots=True)
class Reread:
    """What a checker makes of a text: see `TextRequest.checks`.

    Attributes:
        tokens: one by one.
        text: that they come to.
        end: log-probability of an end after the last; None where the answer has to end there.
    """

    tokens: tuple[TokenLogprob, ...]
    text: str
    end: float | None


def outputs(said: bytes, again: bytes) -> Verdict:
    """Of two answers to a task, as JSON text; one that is none is no answer of any model.

    Nor is one of quite another length, whatever it is filled up with. What is as long as answers
    are not is the same only where it is so to the byte: nothing else runs while it is decoded.
    """
    if said == again:
        return "same" if _decoded(said) is not _NONE else "different"
    shorter, longer = sorted((len(said), len(again)))
    if longer > _LENGTH_FACTOR * shorter + _LENGTH_SPARE:
        return "different"
    if longer > LIMITS.capability_answer_max_bytes or _many(said) or _many(again):
        return "unclear"
    one = _decoded(said)
    if one is _NONE:
        return "different"
    other = _decoded(again)
    if other is _NONE:
        return "unclear"
    try:
        return _verdict(_alike(one, other))
    except RecursionError:
        return "unclear"


def tensors(said: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> Verdict:
    """Of two sets of outputs by name."""
    return _verdict(
        said.keys() == again.keys() and all(_same_tensor(said[name], again[name]) for name in said)
    )


def texts(said: Written, again: Reread) -> Verdict:
    """Of a text, by what a checker makes of its tokens."""
    if not _asked(said, again):
        return "unclear"
    if not _same_text(said, again.text) or not _may_end(said, again.end):
        return "different"
    verdict = tokens(again.tokens[len(said.before) :])
    # Of a few tokens little is certain where one differs; where none does, nothing is wrong.
    short = verdict == "unclear" and said.whole and bool(said.tokens)
    return "same" if short and not any(map(_differs, again.tokens)) else verdict


def tokens_of(said: Written, again: Reread) -> Verdict:
    """Of its tokens alone; nothing where the checker has not checked what it was asked to."""
    return tokens(again.tokens[len(said.before) :]) if _asked(said, again) else "unclear"


def _asked(said: Written, again: Reread) -> bool:
    return tuple(one.token_id for one in again.tokens) == said.before + said.tokens


def _same_text(said: Written, again: str) -> bool:
    """Decoders of one tokenizer differ in a space at the beginning, which is passed over."""
    one, other = said.text.lstrip(" "), again.lstrip(" ")
    if said.whole:
        return one == other
    # The checker lets go of what may yet become a stop string, or is half of a character.
    held = max(map(len, said.stops), default=0) + 1
    return one.startswith(other[: max(0, len(other) - held)])


def _may_end(said: Written, end: float | None) -> bool:
    """Whether honest work ends there with any probability that counts.

    It could have ended after each token. Draws at a higher temperature make more of little.
    """
    if not said.whole or end is None:
        return True
    least = math.log(LIMITS.audit_false_alarm / (len(said.tokens) + 1))
    return said.reason == "stop" and end >= least * max(1.0, said.temperature)


def tokens(checked: Sequence[TokenLogprob]) -> Verdict:
    """Of tokens, by what a checker would itself have said in each place.

    A node that did the same work differs in `audit_token_noise` of its tokens at most. Where as
    many as were found are less likely than `audit_false_alarm` at that, it did not.
    """
    counted = [one for one in checked if one.top and one.token_id is not None]
    differing = sum(map(_differs, counted))
    if tail(len(counted), differing, LIMITS.audit_token_noise) < LIMITS.audit_false_alarm:
        return "different"
    return "same" if len(counted) >= LIMITS.audit_tokens_min else "unclear"


def _differs(one: TokenLogprob) -> bool:
    return not one.top or one.top[0][0] != one.token_id


def tail(n: int, least: int, chance: float) -> float:
    """The probability of `least` or more successes in `n` trials (binomial distribution)."""
    if least <= 0:
        return 1.0
    if least > n:
        return 0.0
    log_one = (
        math.lgamma(n + 1) - math.lgamma(least + 1) - math.lgamma(n - least + 1)
        + least * math.log(chance) + (n - least) * math.log1p(-chance)
    )  # fmt: skip
    one, total, odds = math.exp(log_one), 0.0, chance / (1 - chance)
    for k in range(least, n + 1):
        total += one
        one *= (n - k) / (k + 1) * odds
        if one < _NEGLIGIBLE * total and k > n * chance:
            break
    return min(1.0, total)


def _verdict(alike: bool) -> Verdict:  # noqa: FBT001 - its only meaning
    return "same" if alike else "different"


def _many(text: bytes) -> bool:
    """Whether there are more values in it than are compared."""
    most = LIMITS.capability_answer_values_max
    return len(text) > most and sum(map(text.count, (b",", b"[", b"{"))) > most


def _decoded(text: bytes) -> Any:
    """`_NONE` for what is no JSON, or is nested deeper than answers are."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NONE


def _alike(one: Any, other: Any, deep: int = 0) -> bool:
    if deep > LIMITS.audit_depth_max:
        raise RecursionError("both are nested deeper than answers are")
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return _close(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        names = one.keys()
        return names == other.keys() and all(_alike(one[n], other[n], deep + 1) for n in names)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and _alike_lists(one, other, deep + 1)
    return type(one) is type(other) and bool(one == other)


def _alike_lists(one: list[Any], other: list[Any], deep: int) -> bool:
    """Labels with scores come by score, and near-ties may fall either way: label by label then."""
    named, others = _by_label(one), _by_label(other)
    if named is not None and others is not None:
        return _alike(named, others, deep)
    return all(_alike(a, b, deep) for a, b in zip(one, other, strict=True))


def _by_label(rows: Iterable[Any]) -> dict[str, Any] | None:
    """Rows by their label; None where one has none, or no number for a score, or two share it."""
    found: dict[str, Any] = {}
    for row in rows:
        label = row.get("label") if isinstance(row, dict) else None
        scored = label is not None and isinstance(row.get("score"), int | float)
        if not isinstance(label, str) or not scored or label in found:
            return None
        found[label] = row
    return found


def _close(one: float, other: float) -> bool:
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    try:
        one, other = float(one), float(other)
    except OverflowError:  # an integer that no float is near to
        return False
    most = LIMITS.audit_absolute + LIMITS.audit_relative * max(abs(one), abs(other))
    return one == other or (most < math.inf and abs(one - other) <= most)


def _same_tensor(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape, len(one.data)) != (other.dtype, other.shape, len(other.data)):
        return False
    size_bytes = _FLOATS.get(one.dtype)
    if size_bytes is None or len(one.data) % size_bytes:  # what is no tensor has no numbers
        return one.data == other.data
    a, b = (_numbers(each) for each in (one, other))
    coarse = _COARSE.get(one.dtype, 1.0)
    most = coarse * (LIMITS.audit_absolute + LIMITS.audit_relative * np.maximum(abs(a), abs(b)))
    with np.errstate(invalid="ignore"):  # infinities are like their equals alone
        near = (abs(a - b) <= most) & np.isfinite(most)
    return bool((near | (a == b) | (np.isnan(a) & np.isnan(b))).all())


def _numbers(tensor: Tensor) -> "np.ndarray[Any, np.dtype[np.float64]]":
    if tensor.dtype == "bfloat16":  # the upper half of a float32
        raised = np.frombuffer(tensor.data, "<u2").astype("<u4") << 16
        return raised.view("<f4").astype(np.float64)
    return np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<")).astype(np.float64)
