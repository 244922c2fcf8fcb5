"""The capability taxonomy: what can be asked for, and what satisfies a broader question.

Names are Hugging Face pipeline tags, in groups. A concept stands below another only where whatever
serves it also serves the broader one (same inputs): zero-shot classification needs labels, so it is
not below classification. Groups ("text", "vision"...) are for finding, not for requests.
"""

import functools
from collections.abc import Iterable
from importlib import resources
from typing import Annotated

import msgspec

from aigrid.protocol.kinds import Capability, JsonSchema, Name


class Concept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One capability; `broader` names those directly above it.

    Attributes:
        tag: whether its name is a pipeline tag of Hugging Face.
        input: JSON Schema of a request's input, empty where nothing is said; `output` likewise.
        parameters: that of an object of a request's settings, each of them optional.
    """

    name: Capability
    label: Name
    broader: tuple[Capability, ...]
    tag: bool = True
    input: JsonSchema = {}
    output: JsonSchema = {}
    parameters: JsonSchema = {}


class _Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    capabilities: Annotated[tuple[Concept, ...], msgspec.Meta(min_length=1)]


class Taxonomy:
    """A closed set of concepts in a directed graph without cycles."""

    def __init__(self, concepts: Iterable[Concept]) -> None:
        """Raises ValueError for a name that is repeated, missing or its own ancestor."""
        self.concepts: dict[str, Concept] = {}
        for concept in concepts:
            if concept.name in self.concepts:
                raise ValueError(f"capability {concept.name!r} is defined twice")
            self.concepts[concept.name] = concept
        self.roots = tuple(name for name, one in self.concepts.items() if not one.broader)
        self._ancestors: dict[str, frozenset[str]] = {}
        for name in self.concepts:
            self._close(name, ())
        descendants: dict[str, set[str]] = {name: set() for name in self.concepts}
        for name, above in self._ancestors.items():
            for ancestor in above:
                descendants[ancestor].add(name)
        self._descendants = {name: frozenset(below) for name, below in descendants.items()}

    def known(self, name: str) -> bool:
        return name in self.concepts

    def ancestors(self, name: str) -> frozenset[str]:
        """Everything broader than `name`, itself excluded; empty for an unknown name."""
        return self._ancestors.get(name, frozenset())

    def descendants(self, name: str) -> frozenset[str]:
        """Everything narrower than `name`, itself excluded; empty for an unknown name."""
        return self._descendants.get(name, frozenset())

    def _close(self, name: str, path: tuple[str, ...]) -> frozenset[str]:
        if name in path:
            raise ValueError(f"capability {name!r} is broader than itself")
        if name in self._ancestors:
            return self._ancestors[name]
        concept = self.concepts.get(name)
        if concept is None:
            raise ValueError(f"capability {name!r} is named as broader but not defined")
        above = frozenset(concept.broader).union(
            *(self._close(broader, (*path, name)) for broader in concept.broader)
        )
        self._ancestors[name] = above
        return above


def parse_taxonomy(data: bytes) -> Taxonomy:
    """Raises ValueError for anything that is not a sound vocabulary."""
    return Taxonomy(msgspec.json.decode(data, type=_Vocabulary).capabilities)


@functools.cache
def default_taxonomy() -> Taxonomy:
    """The vocabulary that ships with the node."""
    source = resources.files("aigrid.metagraph") / "vocabulary" / "capabilities.json"
    return parse_taxonomy(source.read_bytes())


def known(name: str) -> bool:
    """Whether the shipped taxonomy has this capability."""
    return default_taxonomy().known(name)


def ancestors(name: str) -> frozenset[str]:
    """See `Taxonomy.ancestors`."""
    return default_taxonomy().ancestors(name)


def descendants(name: str) -> frozenset[str]:
    """See `Taxonomy.descendants`."""
    return default_taxonomy().descendants(name)
