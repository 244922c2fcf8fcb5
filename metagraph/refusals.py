"""What was refused, and why: so that nothing is verified twice or fetched in vain."""

import hashlib
from collections import Counter
from collections.abc import Iterable

from aigrid.metagraph.memo import Memo
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, verify_form_and_signature


class Refusals:
    """Bounded memories by content id; `refused` counts by code."""

    def __init__(self) -> None:
        self.refused: Counter[Code] = Counter()
        self._refusals: Memo[tuple[str, Code]] = Memo(LIMITS.refusals_kept_max)
        self._verified: Memo[Record] = Memo(LIMITS.records_waiting_max)
        self._no_room: Memo[int] = Memo(LIMITS.refusals_for_room_max)  # until when

    def verify(self, raw: bytes, digest: bytes) -> Record:
        """Everything that depends on the bytes alone, once per content id.

        Raises:
            VerificationError: as `record.verify_form_and_signature` does, or did.
        """
        record = self._verified.get(digest)
        if record is not None:
            return record
        try:
            return verify_form_and_signature(raw)
        except VerificationError as error:
            self._refusals.put(digest, (error.message, error.code))
            raise

    def check(self, digest: bytes) -> None:
        """Raise VerificationError where these bytes were refused for good."""
        refusal = self._refusals.get(digest)
        if refusal is not None:
            raise VerificationError(*refusal)

    def count(self, error: VerificationError) -> VerificationError:
        self.refused[error.code] += 1
        return error

    def remember(
        self, record: Record, error: VerificationError, now_ms: int, received_from: str | None
    ) -> None:
        """A superseded record stays so; any other refused here may be welcome later."""
        digest = hashlib.sha256(record.raw).digest()
        if error.code is Code.SUPERSEDED:
            self._refusals.put(digest, (error.message, error.code))
        else:
            self._verified.put(digest, record)
        if error.code is Code.OVER_QUOTA and received_from is not None:
            until_ms = now_ms + LIMITS.refused_for_room_seconds * 1000
            self._no_room.put(digest + received_from.encode(), until_ms)

    def lacking(self, sha256s: Iterable[bytes], *, peer_id: str, now_ms: int) -> list[bytes]:
        """Of these the ones for which there was not lately no room, coming from this peer."""
        peer, longest_ms = peer_id.encode(), LIMITS.refused_for_room_seconds * 1000
        left_ms = ((one, (self._no_room.get(one + peer) or 0) - now_ms) for one in sha256s)
        return [one for one, left in left_ms if not 0 < left <= longest_ms]  # clocks are set back

    def make_room(self) -> None:
        """There may be room now for what was refused for want of it."""
        self._no_room.clear()
