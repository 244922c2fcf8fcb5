"""The contracts of all capabilities that are known here: shipped ones, and what members publish."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial

from aigrid.metagraph.capabilities import Concept
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.outcome.contract import SELECTING, Contract, check_schema
from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.kinds import CapabilityBody, JsonSchema
from aigrid.protocol.limits import LIMITS

_Schemas = tuple[bytes, bytes, bytes]


class Contracts:
    """`now_ms` is wall time: what somebody published counts while its record is believed.

    `stated` names the parameters of which live manifests state values, for a capability.
    """

    def __init__(
        self,
        concepts: LiveConcepts,
        *,
        now_ms: Callable[[], int],
        stated: Callable[[str], Collection[str]] = lambda _: (),
    ) -> None:
        self._concepts = concepts
        self._now_ms = now_ms
        self._stated = stated
        # Once: every request for text asks for one, and canonical JSON takes its time.
        shipped, groups = concepts.shipped(), concepts.broadest()
        below = {name: _below(name, shipped) for name in groups}
        self._shipped = {
            one.name: replace(
                _shipped(one, below.get(one.name, ())),
                stated=partial(self._selecting, one.name, one.name),
            )
            for one in shipped
        }
        self._usable: OrderedDict[str, _Schemas] = OrderedDict()  # by id of a record

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
        listed = self._listed(body, record)
        above = self._shipped.get(listed.task) or Contract("", "", "", ())
        taken, given, settings = self._schemas_of(body, record)
        return replace(
            listed,
            stated=partial(self._selecting, body.id, listed.task),
            input=taken or above.input,
            output=given or above.output,
            parameters=settings or above.parameters,
        )

    def all(self) -> Iterator[Contract]:
        """Every one, groups included: shipped ones as they are listed, published ones by IRI.

        Published ones come without schemas: anybody may publish many that take long to compile.
        """
        yield from self._shipped.values()
        for body, record in self._concepts.published(self._now_ms()):
            yield self._listed(body, record)

    def counted(self, models: Iterable[Iterable[str]]) -> Counter[str]:
        """How many of the models with these capabilities can be asked for each capability."""
        return Counter(name for named in models for name in self._concepts.satisfied(named))

    def _selecting(self, capability: str, task: str) -> frozenset[str]:
        """What engines know as a setting is none: a manifest could take it away from all others."""
        shipped = self._shipped.get(task)
        settings = frozenset[str]() if shipped is None else shipped.settings
        return frozenset(self._stated(capability)) - (settings - SELECTING)

    def _listed(self, body: CapabilityBody, record: str) -> Contract:
        return Contract(
            capability=body.id,
            label=body.labels.get("en") or min(body.labels.items())[1],
            task=self._concepts.task_of(body.id),
            broader=body.broader,
            published=record,
        )

    def _schemas_of(self, body: CapabilityBody, record: str) -> _Schemas:
        """Of input, output and parameters; b"" for what it leaves out, or nobody can use."""
        found = self._usable.pop(record, None)
        if found is None:
            found = (
                _usable(body.input_schema),
                _usable(body.output_schema),
                _usable(body.parameters_schema),
            )
        self._usable[record] = found
        if len(self._usable) > LIMITS.schemas_kept_max:
            self._usable.popitem(last=False)
        return found


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
