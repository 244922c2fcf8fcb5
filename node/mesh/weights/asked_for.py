"""What is to be fetched, remembered over a restart: by whose wish, and since when."""

from typing import Final

import msgspec
import structlog

from aigrid.metagraph.local import LocalState
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS

log = structlog.get_logger()
_SETTING: Final = "weights/asked"


class AskedFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fetch that has not come to its end.

    Attributes:
        manifest: content id.
        since_ms: by the wall clock.
        askers: see `ledger.Askers`; null: the operator, else placement.
    """

    manifest: str
    since_ms: int
    askers: tuple[str, ...] | None = None


class FetchJournal:
    """The newest `fetches_remembered_max` of them. A full disk costs what it cannot note."""

    def __init__(self, local: LocalState) -> None:
        self._local = local
        said = local.get(_SETTING)
        try:
            found = {} if said is None else msgspec.json.decode(said, type=dict[str, AskedFor])
        except msgspec.MsgspecError:
            found = {}
        self._asked: dict[str, AskedFor] = found

    def all(self) -> dict[str, AskedFor]:
        """Model id -> what is known of its fetch."""
        return dict(self._asked)

    def note(self, model: str, asked: AskedFor) -> None:
        if self._asked.get(model) != asked:
            self._asked.pop(model, None)
            self._asked[model] = asked
            while len(self._asked) > LIMITS.fetches_remembered_max:
                del self._asked[next(iter(self._asked))]
            self._write()

    def forget(self, model: str) -> None:
        if self._asked.pop(model, None) is not None:
            self._write()

    def _write(self) -> None:
        try:
            self._local.set(_SETTING, msgspec.json.encode(self._asked).decode())
        except AigridError as error:
            log.warning("fetch_not_noted", code=error.code.value, reason=error.message)
