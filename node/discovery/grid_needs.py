"""What a node's place in its grid rests on: its keys, and where memberships are revoked."""

from collections.abc import Sequence
from typing import Protocol

from aigrid.protocol.record import Record
from aigrid.protocol.record_status import StatusEntry


class GridKeys(Protocol):
    """Where the authority key is kept, and what former keys left."""

    def retire_authority(self) -> None:
        """Put the key of a grid that is being left out of use, without destroying it."""

    def pending_rotation(self) -> Record | None:
        """The KeyRotation by which this node's key came, until the grid has taken it."""

    def clear_rotation(self) -> None:
        """The grid has taken it."""

    def of_former_keys(self) -> Sequence[Record]:
        """StatusDelegations by which this node's former keys let its key sign their lists."""


class MemberStatuses(Protocol):
    """Where memberships are revoked: see `node.policy.statuses`."""

    def membership_entry(self, did: str) -> StatusEntry:
        """The entry in the grid's status list that the membership of `did` has, or gets."""

    def revoke_membership(self, did: str) -> Record | None:
        """Set it. Raises PolicyDeniedError where this node may not."""

    def undelegate(self, did: str) -> None:
        """Let `did` sign the grid's status list no more; the authority's key is here."""

    def speak_for(self, delegations: Sequence[Record]) -> None:
        """Sign the status lists of those who let this node, as its former keys do."""
