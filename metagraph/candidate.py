"""An offer that can be asked for, and where many of them are kept."""

from collections.abc import Iterator
from dataclasses import dataclass

from aigrid.protocol.kinds import OfferState

OfferKey = tuple[str, str]  # DID of the node, model id


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer that can be asked for now.

    Attributes:
        model: model id.
        name: of the model, as the manifest gives it.
        capabilities: as the manifest gives them.
        manifest: content id of the manifest under which it is offered.
        record: content id of the AvailabilityRecord that says so.
        node: PeerId of the node that serves it.
        signer: DID that signed the offer.
        state: how soon it can start.
        slots: requests at once.
        latency_ms: declared time to the first chunk, 0 where the node says nothing.
        valid_until_ms: when offer, manifest, a membership behind them, or the published
            capability by which it was found ends.
        context_tokens: 0 where it does not apply.
        takes: further members of a text request that it takes, by name.
        precision: of the weights, as the manifest states it.
    """

    model: str
    name: str
    capabilities: tuple[str, ...]
    manifest: str
    record: str
    node: str
    signer: str
    state: OfferState
    slots: int
    latency_ms: int
    valid_until_ms: int
    context_tokens: int
    takes: tuple[str, ...] = ()
    precision: str = ""


class Pool:
    """Candidates of one model or capability, soonest first."""

    __slots__ = ("_states",)

    def __init__(self) -> None:
        self._states: dict[OfferState, dict[OfferKey, Candidate]] = {
            "warm": {},
            "loading": {},
            "on_disk": {},
            "can_fetch": {},
        }

    def put(self, key: OfferKey, candidate: Candidate) -> None:
        self._states[candidate.state][key] = candidate

    def discard(self, key: OfferKey, candidate: Candidate) -> None:
        self._states[candidate.state].pop(key, None)

    def live(self, now_ms: int) -> Iterator[Candidate]:
        for candidates in self._states.values():
            for candidate in candidates.values():
                if candidate.valid_until_ms > now_ms:
                    yield candidate

    def __bool__(self) -> bool:
        return any(self._states.values())
