"""The contracts of all capabilities that are known here: shipped ones, and what members publish."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from aigrid.metagraph.capabilities import Concept
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.outcome.contract import Contract, check_schema
from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.kinds import CapabilityBody, JsonSchema


class Contracts:
    """`now_ms` is wall time: what somebody published counts while its record is believed."""

    def __init__(self, concepts: LiveConcepts, *, now_ms: Callable[[], int]) -> None:
        self._concepts = concepts
        self._now_ms = now_ms
        # Once: every request for text asks for one, and canonical JSON takes its time.
        shipped, groups = concepts.shipped(), concepts.broadest()
        below = {name: _below(name, shipped) for name in groups}
        self._shipped = {one.name: _shipped(one, below.get(one.name, ())) for one in shipped}

    def of(self, capability: str) -> Contract:
        """What whoever serves it takes and gives. Where it says nothing itself, a broader one does.

        Raises:
            InvalidRequestError: `not_found`; what may have been meant.
        """
        if (shipped := self._shipped.get(capability)) is not None:
            return shipped
        now_ms = self._now_ms()
        if not self._concepts.known(capability, now_ms):
            near = self._concepts.similar(capability, now_ms)
            meant = " or ".join(f"`{name}`" for name in near)
            hint = f" Did you mean {meant}?" if near else ""
            raise InvalidRequestError(
                f"There is no capability {capability[:64]!r}.{hint} "
                "GET /v1/capabilities lists all that are known here, as does "
                "`aigrid capability list`.",
                Code.NOT_FOUND,
                param="capability",
            )
        body, record = self._concepts.published_as(capability)
        return self._inherited(body, record)

    def all(self) -> Iterator[Contract]:
        """Every one, groups included: shipped ones as they are listed, published ones by IRI."""
        yield from self._shipped.values()
        for body, record in self._concepts.published(self._now_ms()):
            yield self._inherited(body, record)

    def counted(self, models: Iterable[Iterable[str]]) -> Counter[str]:
        """How many of the models with these capabilities can be asked for each capability."""
        return Counter(name for named in models for name in self._concepts.satisfied(named))

    def _inherited(self, body: CapabilityBody, record: str) -> Contract:
        """A published one. Schemas that it leaves out, or that nobody can use, are those above."""
        task = self._concepts.task_of(body.id)
        above = self._shipped.get(task) or Contract("", "", "", ())
        return Contract(
            capability=body.id,
            label=body.labels.get("en") or min(body.labels.items())[1],
            task=task,
            broader=body.broader,
            input=_usable(body.input_schema) or above.input,
            output=_usable(body.output_schema) or above.output,
            parameters=_usable(body.parameters_schema) or above.parameters,
            published=record,
        )


def _below(group: str, shipped: Iterable[Concept]) -> tuple[str, ...]:
    return tuple(one.name for one in shipped if group in one.broader)


def _shipped(concept: Concept, narrower: tuple[str, ...]) -> Contract:
    return Contract(
        capability=concept.name,
        label=concept.label,
        task=concept.name,
        broader=concept.broader,
        input=canonical(concept.input),
        output=canonical(concept.output),
        parameters=canonical(concept.parameters),
        narrower=narrower,
    )


def _usable(schema: JsonSchema) -> bytes:
    if not schema or check_schema(schema):
        return b""
    return canonical(schema)
