"""What a node remembers of fetched models: which was used when."""

import structlog

from aigrid.metagraph.local import LocalState
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.errors import AigridError

log = structlog.get_logger()
_USED = "weights/used/"


class WeightsBooks:
    """Times are those of the wall clock. What a full disk does not take is not noted."""

    def __init__(self, local: LocalState, *, now_ms: NowMs) -> None:
        self._local = local
        self._failed = False
        self.now_ms = now_ms

    def used(self, model: str) -> None:
        """A fetched model, or one that is on its way, is of use now."""
        try:
            self._local.set(_USED + model, str(self.now_ms()))
        except AigridError as error:
            if not self._failed:  # once
                log.warning("use_not_noted", code=error.code.value, reason=error.message)
            self._failed = True
        else:
            self._failed = False

    def used_ms(self, model: str) -> int:
        """When that was; now, where nothing is known of it."""
        found = self._local.get(_USED + model)
        return self.now_ms() if found is None else int(found)

    def forget(self, model: str) -> None:
        try:
            self._local.remove(_USED + model)
        except AigridError as error:
            log.warning("use_not_forgotten", code=error.code.value, reason=error.message)
