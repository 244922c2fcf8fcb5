"""How candidates compete or work together for one outcome: what a request may say of it. Pure.

A mode is its name, or an object with `name` and its settings. It says how candidates are asked,
once selection has put them in order; a strategy says in which order.
"""

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import CAPABILITY

CapabilityName = Annotated[
    str, Meta(max_length=LIMITS.capability_max_chars, pattern=rf"^({CAPABILITY})\Z")
]
StepName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]
Parameters = Annotated[
    dict[Annotated[str, Meta(max_length=64)], str | int | float | bool],
    Meta(max_length=LIMITS.task_parameters_max),
]
Share = Annotated[float, Meta(ge=0, le=1)]


class _Mode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name"):
    pass


class Fallback(_Mode, frozen=True, tag="fallback"):
    """One after the other, until one answers."""


class Race(_Mode, frozen=True, tag="race"):
    """A second one is asked where the first is late, and whoever answers first counts.

    Attributes:
        after_ms: when it is late; left out: see `Mesh.late_after_seconds`, else after a second.
        of: candidates under way at most; more take the places of those that fail.
    """

    after_ms: Annotated[int, Meta(ge=0, le=3_600_000)] | None = None
    of: Annotated[int, Meta(ge=2, le=LIMITS.mode_candidates_max)] = 2


class Vote(_Mode, frozen=True, tag="vote"):
    """Several answer, and what most of them say counts.

    Attributes:
        of: candidates asked; more take the places of those that fail.
        agree: so many must say the same; left out: more than half of `of`.
    """

    of: Annotated[int, Meta(ge=2, le=LIMITS.mode_candidates_max)] = 3
    agree: Annotated[int, Meta(ge=1, le=LIMITS.mode_candidates_max)] | None = None

    @property
    def needed(self) -> int:
        """How many must say the same."""
        return self.of // 2 + 1 if self.agree is None else self.agree


class Cascade(_Mode, frozen=True, tag="cascade"):
    """The smallest model first, and the next larger one while the answer is not sure enough.

    Attributes:
        confidence: how sure it must be; see `confidence`.
        of: models at most.
    """

    confidence: Share = 0.8
    of: Annotated[int, Meta(ge=2, le=LIMITS.mode_candidates_max)] = 3


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One capability of a pipeline.

    Attributes:
        name: under which others refer to its output.
        capability: what is asked for.
        input: JSON; an object `{"$from": NAME}` in it, or `{"$from": NAME, "path": POINTER}`,
            stands for the output of the step of that name, or for what a JSON Pointer (RFC 6901)
            finds in it. `input` is the name of the pipeline's own. Left out: the output of the
            step before.
        parameters, constraints, strategy, mode: as in a request of its own.
    """

    name: StepName
    capability: CapabilityName
    input: msgspec.Raw | UnsetType = UNSET
    parameters: Parameters = {}
    constraints: msgspec.Raw = msgspec.Raw(b"{}")
    strategy: msgspec.Raw | UnsetType = UNSET
    mode: msgspec.Raw | UnsetType = UNSET


class Pipeline(_Mode, frozen=True, tag="pipeline"):
    """The outputs of capabilities are the inputs of others: an acyclic graph.

    The capability that the request names is the first step, by the name `first`.

    Attributes:
        steps: those after it.
        output: the step whose output is the answer; left out: the last.
    """

    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=LIMITS.pipeline_steps_max)]
    output: StepName | None = None


Mode = Fallback | Race | Vote | Cascade | Pipeline
FALLBACK: Final = Fallback()
_DECODER: Final = msgspec.json.Decoder(Mode | str | None)
_NAMED: Final[dict[str, Mode]] = {
    "fallback": FALLBACK,
    "race": Race(),
    "vote": Vote(),
    "cascade": Cascade(),
}


def mode_of(said: bytes) -> Mode:
    """The mode that a request means, as JSON text: a name, an object, or null for `fallback`.

    Raises:
        InvalidRequestError: which is none, and which there are.
    """
    try:
        mode = _DECODER.decode(said)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        wrong = str(error)[:300]  # it names members that are none, however long
        raise InvalidRequestError(f"The mode is not understood: {wrong}.", param="mode") from None
    if isinstance(mode, str):
        found = _NAMED.get(mode)
        if found is None:
            if mode == "pipeline":
                raise InvalidRequestError(
                    'A pipeline needs its steps: send `{"name": "pipeline", "steps": [...]}`.',
                    param="mode",
                )
            known = ", ".join(f"`{name}`" for name in _NAMED)
            raise InvalidRequestError(
                f"{mode[:64]!r} is no mode: there are {known}, and `pipeline` as an object with "
                "`steps`.",
                param="mode",
            )
        return found
    if isinstance(mode, Vote) and mode.needed > mode.of:
        raise InvalidRequestError(
            f"Of {mode.of} that vote, {mode.needed} cannot agree: raise `of`.", param="mode"
        )
    return FALLBACK if mode is None else mode
