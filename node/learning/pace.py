"""How long whole answers take: the time by which most of them have come. Pure, in memory alone.

Of each node, model and capability the last `pace_window` answers are remembered, which is as much
as is needed to say what is late now; nothing is, until `pace_answers_min` are.
"""

import math
from collections import OrderedDict, deque

from aigrid.protocol.limits import LIMITS

Key = tuple[str, str, str]  # PeerId, model id, capability
_SHARE = 0.95
_MARGIN = 1.05  # one that takes as long as ever is not late


class Paces:
    """Durations in seconds; those go first that were not added to for longest."""

    def __init__(self) -> None:
        self._windows: OrderedDict[Key, deque[float]] = OrderedDict()

    def took(self, node: str, model: str, capability: str, seconds: float) -> None:
        """A whole answer has come after so long."""
        key = node, model, capability
        window = self._windows.pop(key, None)
        if window is None:
            window = deque(maxlen=LIMITS.pace_window)
        window.append(seconds)
        self._windows[key] = window
        if len(self._windows) > LIMITS.paces_max:
            self._windows.popitem(last=False)

    def given_up(self, node: str, model: str, capability: str, seconds: float) -> None:
        """Nobody waited longer for it. That says something only where it was late already."""
        late = self.late_after_seconds(node, model, capability)
        if late is not None and seconds >= late:
            self.took(node, model, capability, seconds)

    def late_after_seconds(self, node: str, model: str, capability: str) -> float | None:
        """A little after 95 % of its answers had come (nearest rank); None: too few have."""
        window = self._windows.get((node, model, capability), ())
        if len(window) < LIMITS.pace_answers_min:
            return None
        return _MARGIN * sorted(window)[math.ceil(_SHARE * len(window)) - 1]
