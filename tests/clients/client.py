"""What every client of the matrix is asked to do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

COLUMNS = ("list", "plain", "stream", "embeddings", "error", "cancel")
ECHO, VECTORS, LINEAR, SLOW, NOTHING = "echo", "vectors", "org/linear:1", "parrot", "nothing"
TEXT = "Pool machines into one grid"
ROWS = {"the": [1.0, 0.5], "grid": [0.25, -2.0]}
"""Of VECTORS: words and their vectors, which are added up."""


class Client:
    """An unmodified client, configured as its docs say; each column is a method or is absent.

    `absent` says of a column why this client has no such thing; `refused` is what it raises for a
    model that nobody has.
    """

    name: ClassVar[str]
    absent: ClassVar[Mapping[str, str]] = {}
    refused: type[Exception]

    def __init__(self, address: str, holder: str, holder_id: str, folder: Path) -> None:
        self.address, self.holder, self.holder_id, self.folder = address, holder, holder_id, folder

    def listed(self) -> set[str]:
        """Names of models."""
        raise NotImplementedError

    def plain(self) -> str | None:
        """The answer to TEXT, of the echo engine; None where it was checked."""
        raise NotImplementedError

    def stream(self) -> list[str]:
        """The same in pieces."""
        raise NotImplementedError

    def embeddings(self, texts: list[str]) -> Any:
        raise NotImplementedError

    def error(self) -> Any:
        """Ask for NOTHING."""
        raise NotImplementedError

    def cancel(self) -> str:
        """Leave an answer of SLOW at its first piece."""
        raise NotImplementedError
