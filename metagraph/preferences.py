"""Whom a request would rather be answered by, in OpenRouter's terms. Pure.

Source: https://openrouter.ai/docs/features/provider-routing. A node is named by its PeerId or its
DID. There are no prices here, so none can be asked for.
"""

from dataclasses import dataclass
from typing import Final, Literal

from aigrid.metagraph.index import Candidate

# Families of precisions, as OpenRouter calls them -> what formats of files call theirs.
_PRECISIONS: Final = {
    "int4": ("int4", "q4", "iq4"),
    "int8": ("int8", "q8"),
    "fp4": ("fp4", "mxfp4", "nvfp4"),
    "fp6": ("fp6",),
    "fp8": ("fp8", "float8"),
    "fp16": ("fp16", "f16", "float16"),
    "bf16": ("bf16", "bfloat16"),
    "fp32": ("fp32", "f32", "float32"),
}
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Preferences:
    """Whom to ask. An empty tuple prefers nobody.

    Attributes:
        order: nodes to ask first, in that order; the others after them.
        only: no other nodes.
        pinned: the one, by PeerId, that this time is asked of all that may be; "" for any.
        ignore: never these.
        sort: what counts most of what is known of a node; None leaves it to `rank`.
        allow_fallbacks: whether another node may be asked if the first fails; where not, and there
            is an `order`, none that it does not name.
        require_parameters: only nodes that take every member of the request, harmless ones too.
        precisions: of the weights, by the name of a family ("int8", "fp16") or exactly ("q4_k_m");
            "unknown" where none is stated.
    """

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sort: Literal["latency", "throughput"] | None = None
    allow_fallbacks: bool = True
    require_parameters: bool = False
    precisions: tuple[str, ...] = ()
    pinned: str = ""

    def place(self, candidate: Candidate) -> int:
        """Where `order` puts a node: the first is 0."""
        named = (n for n, name in enumerate(self.order) if _is(candidate, name))
        return next(named, len(self.order))

    def permits(self, candidate: Candidate) -> str:
        """Why a node is not asked, in words; "" where it may be."""
        if any(_is(candidate, name) for name in self.ignore):
            return "is to be ignored"
        if self.only and not any(_is(candidate, name) for name in self.only):
            return "is none of those to be asked"
        if self.pinned and not _is(candidate, self.pinned):
            return "is not the one whose turn it is"
        if self.order and not self.allow_fallbacks and self.place(candidate) == len(self.order):
            return "would be a fallback"
        return ""

    def fits(self, precision: str) -> bool:
        """Whether weights of that precision, as a manifest states it, will do."""
        return not self.precisions or any(_matches(precision, name) for name in self.precisions)


ANY: Final = Preferences()


def _is(candidate: Candidate, name: str) -> bool:
    return name in (candidate.node, candidate.signer)


def _matches(precision: str, wanted: str) -> bool:
    stated, wanted = precision.lower(), wanted.lower()
    if not stated or wanted == UNKNOWN:
        return not stated and wanted == UNKNOWN
    return stated == wanted or stated.startswith(_PRECISIONS.get(wanted, (wanted,)))
