"""Status lists kept by the test itself: real lists, as `protocol/status.py` makes and reads them."""

from aigrid.protocol.credential_kinds import StatusListBody
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, build
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import (
    IssuerStatus,
    Statuses,
    list_body,
    no_bits,
    status_of,
    with_bit,
)


class Lists:
    """The lists of `signers`, those with an entry in use, signed anew whenever they are asked."""

    def __init__(self, now_ms, signers):
        self.now_ms = now_ms
        self.signers: dict[str, Identity] = {one.did: one for one in signers}
        self.bits: dict[str, bytes] = {}
        self.taken: dict[tuple[str, str], int] = {}
        self.signed: dict[str, Record] = {}

    def entry(self, signer: str, name: str, max_age_seconds: int) -> StatusEntry:
        self.bits.setdefault(signer, no_bits())
        index = self.taken.setdefault((signer, name), len(self.taken))
        return StatusEntry(signer, index, max_age_seconds)

    def revoke(self, entry: StatusEntry) -> Record:
        self.bits[entry.issuer] = with_bit(self.bits[entry.issuer], entry.index)
        return self.sign(entry.issuer)

    def sign(self, did: str) -> Record:
        now_ms = self.now_ms()
        body = StatusListBody(**list_body(did, self.bits[did]))
        until_ms = now_ms + LIMITS.status_list_ttl_seconds * 1000
        self.signed[did] = build(
            Kind.STATUS_LIST,
            body,
            self.signers[did],
            valid_from_ms=now_ms,
            valid_until_ms=until_ms,
        )
        return self.signed[did]

    def known(self) -> Statuses:
        return {did: self._known(did) for did in self.bits}

    def _known(self, did: str) -> IssuerStatus:
        record = self.sign(did)
        return status_of(did, {did: record.valid_from_ms}, self.bits[did], None)
