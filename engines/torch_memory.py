"""How much memory a model takes in torch, from the numbers of its configuration.

On the processor generous, for what is not in use is not taken. On an accelerator near what the
tensors take, for there it is what decides what fits.
"""

from dataclasses import dataclass
from typing import Final

from aigrid.engines.devices import CONTEXT_BYTES
from aigrid.protocol.limits import LIMITS, MIB

RUNTIME_BYTES: Final = 512 * MIB
WORKSPACE_BYTES: Final = 40 * MIB
"""What libraries of matrix products keep for themselves."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model in numbers.

    Attributes:
        elements: weights.
        layers, width: of the hidden states.
        heads, shared_heads: of attention; the latter have keys and values.
        head_width: of each of them.
        inner: the widest layer.
        vocabulary: logits of one token.
        context: tokens whose keys and values are kept; 0 for a model that keeps none.
        chunk: tokens that are computed at once.
        longest: tokens of the longest text among them.
    """

    elements: int
    layers: int
    width: int
    heads: int
    shared_heads: int
    head_width: int
    inner: int
    vocabulary: int
    context: int
    chunk: int
    longest: int


def on_host(sizes: Sizes, item_bytes: int) -> int:
    """Bytes on the processor."""
    # Keys and values as if no head were shared.
    kept = 2 * sizes.layers * sizes.width * sizes.context * item_bytes
    if sizes.context:
        work = LIMITS.context_default_tokens * (2 * sizes.inner + 6 * sizes.width) * 4
        work += sizes.vocabulary * 8
    else:
        scores = 2 * sizes.heads * min(sizes.longest, 512)
        work = sizes.chunk * (2 * sizes.inner + 6 * sizes.width + scores) * 4
    # The weights once more, for they are read while their copies are made.
    return RUNTIME_BYTES + sizes.elements * item_bytes * 2 + kept + work


def on_accelerator(sizes: Sizes, item_bytes: int) -> int:
    """Bytes of an accelerator's own memory."""
    return CONTEXT_BYTES + WORKSPACE_BYTES + tensors(sizes, item_bytes)


def tensors(sizes: Sizes, item_bytes: int) -> int:
    """Bytes of all tensors at the moment when they are most, a full context among them."""
    row = sizes.shared_heads * sizes.head_width
    kept = 2 * sizes.layers * row * sizes.context
    # The longest layer's keys or values once more while they grow, and both for every head.
    kept += row * sizes.context + 2 * sizes.heads * sizes.head_width * sizes.context
    work = sizes.chunk * (3 * sizes.inner + 6 * sizes.width)
    if not sizes.context:
        work += 2 * sizes.chunk * sizes.heads * min(sizes.longest, 512)
    return (sizes.elements + kept + work + sizes.vocabulary) * item_bytes + sizes.vocabulary * 4
