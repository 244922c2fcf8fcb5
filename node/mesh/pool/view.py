"""What the pool tells of each model: where it stands, what it costs, and how long it will stay."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["warm", "loading", "on_disk"]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """The last load of a model that had no worker: how long it took, and how long ago it ended."""

    seconds: float
    ago_seconds: float


@dataclass(frozen=True, slots=True)
class ModelUse:
    """One model on this node's disk, as it stands now. Sizes in bytes, times in seconds.

    Attributes:
        state: what it would take to use it.
        workers: that are loaded.
        loading: further workers that are on their way.
        engine, device: of the oldest worker; "" while none is loaded.
        memory: purse of the budget ("cpu", "cuda:0") -> what all its workers have of it.
        slots: requests that its workers run at once.
        leases, waiting: requests that run, and those that wait for a load or a slot.
        expires_in_seconds: until its last worker goes if nobody asks; None where it stays, is in
            use, or is not loaded.
        pinned: whether it stays loaded until somebody unpins it.
        wished: whether the operator has said how long this very model stays.
        cold_start: None where it was not loaded since the node started.
        problem: why it is not offered or not loaded now, or "".
    """

    state: State = "on_disk"
    workers: int = 0
    loading: int = 0
    engine: str = ""
    device: str = ""
    memory: Mapping[str, int] = field(default_factory=dict)
    slots: int = 0
    leases: int = 0
    waiting: int = 0
    expires_in_seconds: float | None = None
    pinned: bool = False
    wished: bool = False
    cold_start: ColdStart | None = None
    problem: str = ""
