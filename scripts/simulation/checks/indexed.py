"""Whether what a node answers from, its index, follows from what it stores."""

from collections.abc import Iterator

from scripts.simulation.world import SimNode

from aigrid.protocol.kinds import Kind

# Said anew here, as is what follows from the store: the index is what is judged.
_ANSWERED = frozenset(
    {
        Kind.MODEL,
        Kind.AVAILABILITY,
        Kind.NODE,
        Kind.CAPABILITY,
        Kind.DEMAND,
        Kind.EVALUATION,
        Kind.AUDIT,
    }
)


def index_lags(one: SimNode) -> Iterator[str]:
    """What its index lacks of what it believes, and what is there that it does not believe."""
    graph, now_ms = one.node.graph, one.node.now_ms()
    live = graph.live_records(now_ms)
    believed = {record.content_id for record in live if record.kind in _ANSWERED}
    entries = graph.index._current.values()  # noqa: SLF001 - no question names all
    shown = {entry.record.content_id for entry in entries if entry.until_ms > now_ms}
    if missing := len(believed - shown):
        yield f"{one.name} does not answer with {missing} records that it has"
    if wrong := len(shown - believed):
        yield f"{one.name} answers with {wrong} records that it does not believe"
