"""The RDF dataset: the quads of the records that are believed now, and the vocabulary.

Free queries are evaluated where a process can be killed: `dataset_worker.py` holds one of these,
the node itself never does.
"""

from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from pyoxigraph import NamedNode, QueryBoolean, QuerySolutions, RdfFormat, Store, serialize

from aigrid.metagraph import results, terms
from aigrid.metagraph.mapping import form_graph, to_quads
from aigrid.metagraph.query import AnswerFormat
from aigrid.metagraph.results import Bounded, TooLargeError, capped
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError
from aigrid.protocol.limits import LIMITS, Limits

VOCABULARY_FILES = ("aigrid.ttl", "capabilities.ttl")
_PROVENANCE = NamedNode(terms.PROVENANCE)
_MESSAGE_CHARS = 300
_RDF_FORMATS = {
    AnswerFormat.TURTLE: RdfFormat.TURTLE,
    AnswerFormat.NQUADS: RdfFormat.N_QUADS,
    AnswerFormat.JSONLD: RdfFormat.JSON_LD,
}


class Dataset:
    """Quads in memory. `answer` may take any time and memory: run it where it can be killed."""

    def __init__(self, *, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._store = Store()
        folder = resources.files("aigrid.metagraph") / "vocabulary"
        for name in VOCABULARY_FILES:
            self._store.load(
                (folder / name).read_bytes(),
                format=RdfFormat.TURTLE,
                to_graph=NamedNode(terms.VOCABULARY),
            )

    def __len__(self) -> int:
        return len(self._store)

    def add(self, records: Iterable[tuple[str, bytes]]) -> None:
        """Take in verified records, each a content id and canonical bytes."""
        for content_id, raw in records:
            self._store.extend(to_quads(raw, content_id))

    def remove(self, content_ids: Iterable[str]) -> None:
        """Forget records; those that are not held are passed over."""
        for content_id in content_ids:
            graph = NamedNode(terms.graph_iri(content_id))
            self._store.remove_graph(graph)
            self._store.remove_graph(NamedNode(form_graph(content_id)))
            for quad in list(self._store.quads_for_pattern(graph, None, None, _PROVENANCE)):
                self._store.remove(quad)

    def answer(self, query: str, answer_format: AnswerFormat) -> bytes:
        """Evaluate a query that `check_query` has let through, over the union of all graphs.

        Raises:
            InvalidRequestError: `query_malformed`.
            AigridError: `query_too_expensive`, for an answer that is too large.
        """
        try:
            return self._write(
                self._store.query(query, use_default_graph_as_union=True), answer_format
            )
        except (SyntaxError, TooLargeError, ValueError, OSError, RuntimeError) as error:
            problem = _typed(error)
        # Raised where it has no context, by a frame that keeps neither it nor the solutions: these
        # would live until some thread collects garbage, and no other may let go of them.
        try:
            raise problem
        finally:
            del problem

    def _write(self, found: Any, answer_format: AnswerFormat) -> bytes:
        if isinstance(found, QueryBoolean):
            return results.truth(bool(found), answer_format)
        rows_max, bytes_max = self._limits.query_rows_max, self._limits.query_answer_max_bytes
        if isinstance(found, QuerySolutions):
            out = Bounded(bytes_max)
            names = [variable.value for variable in found.variables]
            results.rows(names, _rows(capped(found, rows_max)), answer_format, out)
            return out.whole()
        prefixes = dict(terms.PREFIXES) if answer_format is AnswerFormat.TURTLE else None
        body = serialize(
            capped(found, rows_max), format=_RDF_FORMATS[answer_format], prefixes=prefixes
        )
        if body is None or len(body) > bytes_max:
            raise TooLargeError("the answer has too many bytes")
        return body


def _rows(solutions: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    return (tuple(solution) for solution in solutions)


def _typed(error: Exception) -> AigridError:
    """What to say of an error that evaluating a query ran into."""
    if isinstance(error, TooLargeError):
        return AigridError(f"Too large: {error}.", Code.QUERY_TOO_EXPENSIVE)
    what, code = "parsed", Code.QUERY_MALFORMED
    if not isinstance(error, SyntaxError):
        what, code = "evaluated", Code.QUERY_REFUSED
    return InvalidRequestError(f"The query cannot be {what}: {_short(error)}", code, param="query")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:_MESSAGE_CHARS]
