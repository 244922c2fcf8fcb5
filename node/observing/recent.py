"""What this node has answered lately: tokens in a window of seconds, and how soon answers began.

It counts what runs here, whoever asked, so that the figures of all members add up. A few additions
for each batch of chunks; times are seconds of any one clock, as an argument.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from aigrid.protocol.inference import Finish, InferChunk, TextChunk
from aigrid.protocol.limits import LIMITS

_BUCKET_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """A reading.

    Attributes:
        window_seconds: in these `prompt_tokens` were read and `completion_tokens` written; 0 where
            nothing has been asked yet.
        first_p50_seconds, first_p95_seconds: how long the answers of the last minutes took to
            begin, loads included; None where there was none.
    """

    window_seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_p50_seconds: float | None = None
    first_p95_seconds: float | None = None


class Recent:
    """What `OneAnswer`s are told of, for as long as it is recent."""

    def __init__(
        self,
        *,
        window_seconds: float = LIMITS.recent_window_seconds,
        firsts_seconds: float = LIMITS.recent_firsts_seconds,
        firsts_max: int = LIMITS.recent_firsts_max,
    ) -> None:
        self._window_seconds = window_seconds
        self._firsts_seconds = firsts_seconds
        self._since_seconds: float | None = None
        self._tokens: deque[list[int]] = deque()  # [second, prompt, completion], oldest first
        self._firsts: deque[tuple[float, float]] = deque(maxlen=firsts_max)  # (when, how long)

    def began(self, now_seconds: float, first_seconds: float) -> None:
        """An answer has begun, `first_seconds` after it was asked for."""
        self._firsts.append((now_seconds, first_seconds))

    def add(self, now_seconds: float, prompt: int, completion: int) -> None:
        """So many tokens were read and written."""
        if self._since_seconds is None:
            self._since_seconds = now_seconds
        second = int(now_seconds // _BUCKET_SECONDS)
        if not self._tokens or self._tokens[-1][0] != second:
            self._forget(now_seconds)
            self._tokens.append([second, 0, 0])
        self._tokens[-1][1] += prompt
        self._tokens[-1][2] += completion

    def figures(self, now_seconds: float) -> Figures:
        """As it stands now."""
        if self._since_seconds is None:
            return Figures()
        start_seconds = self._forget(now_seconds)
        firsts = sorted(
            first for at, first in self._firsts if at > now_seconds - self._firsts_seconds
        )
        elapsed = now_seconds - max(start_seconds, self._since_seconds)
        return Figures(
            window_seconds=max(_BUCKET_SECONDS, elapsed),
            prompt_tokens=sum(prompt for _, prompt, _ in self._tokens),
            completion_tokens=sum(completion for _, _, completion in self._tokens),
            first_p50_seconds=_quantile(firsts, 0.5),
            first_p95_seconds=_quantile(firsts, 0.95),
        )

    def _forget(self, now_seconds: float) -> float:
        """Drop what is before the window; when it starts, at the beginning of a bucket."""
        buckets = int(self._window_seconds // _BUCKET_SECONDS)
        oldest = int(now_seconds // _BUCKET_SECONDS) - buckets + 1
        while self._tokens and self._tokens[0][0] < oldest:
            self._tokens.popleft()
        return oldest * _BUCKET_SECONDS


class OneAnswer:
    """Counts one answer, asked for at `asked_seconds`, while it goes out."""

    __slots__ = ("_asked_seconds", "_begun", "_completion", "_recent")

    def __init__(self, recent: Recent, asked_seconds: float) -> None:
        self._recent = recent
        self._asked_seconds = asked_seconds
        self._begun = False
        self._completion = 0

    def went_out(self, now_seconds: float, batch: tuple[InferChunk, ...]) -> None:
        """Tokens that were read, and those whose ids the engine did not say, come with `Finish`."""
        if not self._begun:
            self._begun = True
            self._recent.began(now_seconds, now_seconds - self._asked_seconds)
        prompt = completion = 0
        for chunk in batch:
            if isinstance(chunk, TextChunk):
                completion += len(chunk.token_ids)
            elif isinstance(chunk, Finish):
                prompt = chunk.prompt_tokens
                completion = max(completion, chunk.completion_tokens - self._completion)
        self._completion += completion
        self._recent.add(now_seconds, prompt, completion)


def _quantile(ordered: list[float], share: float) -> float | None:
    """The smallest that `share` of them do not exceed."""
    if not ordered:
        return None
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]
