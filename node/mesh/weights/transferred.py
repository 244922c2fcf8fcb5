"""How far a fetch has come."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Transferred:
    """How far it has come.

    Attributes:
        all_bytes: of the model.
        here_bytes: of these on the disk, checked.
        resumed_bytes: of these what was there at the beginning.
        received_bytes: that came, wrong and doubled ones included.
        given: DID of a holder -> good bytes that it has sent.
    """

    all_bytes: int
    here_bytes: int = 0
    resumed_bytes: int = 0
    received_bytes: int = 0
    given: dict[str, int] = field(default_factory=dict)

    @property
    def percent(self) -> int:
        """Rounded down."""
        return 100 * self.here_bytes // self.all_bytes if self.all_bytes else 100
