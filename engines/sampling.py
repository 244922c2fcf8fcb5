"""Choose the next token; pure functions over logits.

A draw depends on the seed and the absolute position of the output token alone, so whoever goes on
with a half-finished answer draws the same numbers as the one who began it.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from aigrid.protocol.errors import Code, EngineError

Logits = npt.NDArray[np.float32]
NEAR_TIE: Final = 0.5
"""The margin between the two likeliest tokens, in logits or natural log-probabilities, below which
two right computations of the same text may choose differently.

Measured by `scripts/bench/batching.py` on the starter model (Q4_1, inputs rounded to 8 bits, which
makes much of the last bits): where an answer so far was computed in chunks, not token by token, 5
of 296 positions had another likeliest token, at margins of up to 0.43. Beside other conversations
none of 512 tokens was another one, nor was any bit of its logits.
"""
_KEY_MASK: Final = (1 << 128) - 1
_STRIDE: Final = 256


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose. `seed` may be any integer; of its bits the lowest 128 count.

    Raises:
        EngineError: `invalid_request` for a value out of range.
    """

    temperature: float
    top_p: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise EngineError("temperature must be 0 or above", Code.INVALID_REQUEST)
        if not 0 < self.top_p <= 1:
            raise EngineError("top_p must be above 0 and at most 1", Code.INVALID_REQUEST)


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) for an output position: 53 bits of Philox 4x64, keyed by the seed."""
    generator = np.random.Philox(key=seed & _KEY_MASK, counter=position)
    return float(int(generator.random_raw()) >> 11) * 2.0**-53


def choose(logits: Logits, sampling: Sampling, position: int) -> int:
    """The token at an output position, from finite logits of shape (vocabulary,).

    Of equal logits the lowest token id wins, so ties fall alike everywhere.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    weights = _weights(logits, sampling.temperature)
    draw = uniform(sampling.seed, position)
    if sampling.top_p >= 1:
        return _invert(weights, draw)
    nucleus = _nucleus(weights, sampling.top_p)
    return int(nucleus[_invert(weights[nucleus], draw)])


def all_finite(logits: Logits) -> bool:
    """Whether no logit is NaN or infinite; quick enough to ask after each token."""
    # Both give NaN if there is one, and neither makes an array of answers as isfinite does.
    return math.isfinite(logits.max()) and math.isfinite(logits.min())


def log_probabilities(
    logits: Logits, token: int, top: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Natural log-probability of a token and of the `top` likeliest, under the raw logits."""
    largest = logits.max()
    norm = float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    best = _likeliest(logits, min(top, len(logits))) if top > 0 else ()
    return float(logits[token]) - norm, tuple((int(i), float(logits[i]) - norm) for i in best)


def _weights(logits: Logits, temperature: float) -> npt.NDArray[np.float32]:
    """Unnormalised probabilities; the largest is 1."""
    # Near zero the quotient of all but the largest is minus infinity, and their weight rightly 0.
    # A temperature that float32 rounds to 0 means the same as the smallest that it does not.
    divisor = np.float32(max(temperature, float(np.finfo(np.float32).tiny)))
    with np.errstate(over="ignore", under="ignore"):
        weights: npt.NDArray[np.float32] = np.exp((logits - logits.max()) / divisor)
    return weights


def _invert(weights: npt.NDArray[np.float32], draw: float) -> int:
    """The index at which the running sum passes `draw` of the whole; never one of weight 0."""
    # In two steps, stride by stride and then within one: a running sum over a vocabulary is slow.
    strides = np.add.reduceat(weights, np.arange(0, len(weights), _STRIDE), dtype=np.float64)
    running = strides.cumsum()
    mark = draw * running[-1]
    stride = _passing(running, mark)
    before = running[stride - 1] if stride else 0.0
    within = weights[stride * _STRIDE : (stride + 1) * _STRIDE].cumsum(dtype=np.float64)
    return stride * _STRIDE + _passing(within, mark - before)


def _passing(running: npt.NDArray[np.float64], mark: float) -> int:
    """The first index whose running sum is above the mark, which rounding may put at the end."""
    below_all = min(mark, np.nextafter(running[-1], 0))
    return int(running.searchsorted(below_all, side="right"))


def _nucleus(weights: npt.NDArray[np.float32], top_p: float) -> npt.NDArray[np.intp]:
    """Fewest likeliest tokens that hold `top_p` of the whole, likeliest first."""
    whole = float(weights.sum(dtype=np.float64))
    # All tokens below this weight together hold less than what may be left out, so only the others
    # have to be sorted: sorting a whole vocabulary would cost as much as computing a token.
    least = (1 - top_p) * whole / len(weights)
    candidates = np.flatnonzero(weights >= least)
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    running = weights[order].cumsum(dtype=np.float64)
    return order[: int(running.searchsorted(top_p * whole)) + 1]


def _likeliest(values: Logits, count: int) -> npt.NDArray[np.intp]:
    """Indices of the `count` largest values, largest first, of equal ones the lowest index."""
    least = np.partition(values, len(values) - count)[len(values) - count]
    candidates = np.flatnonzero(values >= least)
    order = np.argsort(-values[candidates], kind="stable")
    return candidates[order][:count]
