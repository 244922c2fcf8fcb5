"""What records state of a candidate beside its offer, looked up for constraints in the index."""

from collections.abc import Mapping

from msgspec import UNSET

from aigrid.metagraph.index import Candidate, Index
from aigrid.metagraph.selection.constraints import Facts, Stated
from aigrid.protocol.kinds import ModelBody, NodeBody


def facts_of(index: Index, capability: str, now_ms: int) -> Facts:
    """For a question about `capability` now; None of a candidate whose manifest is not believed."""

    def stated(candidate: Candidate) -> Stated | None:
        manifest = index.manifest(candidate.manifest, now_ms)
        if manifest is None or not isinstance(manifest.body, ModelBody):
            return None
        node = index.node(candidate.signer, now_ms)
        about = node.body if node is not None else None
        return Stated(
            manifest.issuer,
            manifest.body,
            about.region if isinstance(about, NodeBody) else "",
            _serves(index, manifest.body, capability, now_ms),
            _how(index, capability, candidate.capabilities, now_ms),
        )

    return stated


def _serves(
    index: Index, body: ModelBody, asked: str, now_ms: int
) -> tuple[Mapping[str, tuple[str, ...]], ...]:
    """Of what the manifest says of `asked`, or of what is narrower."""
    if body.serves is UNSET:
        return ()
    above = index.concepts.ancestors
    return tuple(
        one.parameters
        for one in body.serves
        if one.capability == asked or above(one.capability).get(asked, 0) > now_ms
    )


def _how(index: Index, asked: str, declared: tuple[str, ...], now_ms: int) -> str:
    """Which of the declared capabilities satisfy the one that was asked for."""
    if asked in declared:
        return f"{asked} is declared"
    above = index.concepts.ancestors
    narrower = [name for name in declared if above(name).get(asked, 0) > now_ms]
    if not narrower:  # a model that was asked for by name
        return ""
    verb = "is" if len(narrower) == 1 else "are"
    return f"{', '.join(narrower)} {verb} narrower than {asked}"
