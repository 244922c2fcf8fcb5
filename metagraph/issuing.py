"""Signing what takes the place of what was said before."""

from aigrid.metagraph.store import Store
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import KINDS, Body, Kind
from aigrid.protocol.record import Record, build
from aigrid.protocol.record_status import StatusEntry


def replacing(  # noqa: PLR0917 - what is said, by whom, when
    store: Store,
    kind: Kind,
    body: Body,
    identity: Identity,
    times_ms: tuple[int, int],
    status: StatusEntry | None,
) -> Record:
    """A record that comes after what `identity` said under its key before, and lasts as long.

    `times_ms` are the wall time, and for how long it is to be valid.

    Raises:
        VerificationError: as `record.build` does.
    """
    now_ms, ttl_ms = times_ms
    key = (identity.did, kind.value, body.id)
    valid_from_ms = max(now_ms, store.newest_valid_from_ms(key) + 1)
    current = store.newest(key)
    valid_until_ms = max(
        valid_from_ms + min(ttl_ms, KINDS[kind].ttl_seconds * 1000),
        0 if current is None else current.valid_until_ms,
    )
    return build(
        kind,
        body,
        identity,
        valid_from_ms=valid_from_ms,
        valid_until_ms=valid_until_ms,
        status=status,
    )
