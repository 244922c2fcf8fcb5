"""Credentials put in order: each delegation names what it was passed on from. Pure."""

from collections.abc import Mapping, Sequence

from aigrid.protocol.credential_kinds import DelegationBody
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

Chain = tuple[Record, ...]


def chain_of(last: Record, known: Mapping[str, Record]) -> Chain | None:
    """`last` after all that it comes from, or None where not all of that is known."""
    links = [last]
    while parent := parent_of(links[0]):
        before = known.get(parent)
        if before is None or len(links) >= LIMITS.chain_max:
            return None
        links.insert(0, before)
    return tuple(links)


def in_order(records: Sequence[Record]) -> Chain:
    """Credentials from the first to the last, each passed on from the one before it.

    Raises:
        PolicyDeniedError: they are no one chain.
    """
    known = {record.content_id: record for record in records}
    parents = {parent_of(record) for record in records}
    ends = [record for name, record in known.items() if name not in parents]
    links = chain_of(ends[0], known) if len(ends) == 1 else None
    if links is None:
        text = "these are not a grant and what was passed on from it"
        raise PolicyDeniedError(text, Code.CHAIN_BROKEN)
    return links


def on_behalf_of(credential: Record) -> str:
    """The DID for whose own requests alone a delegation is; "" for any other credential."""
    body = credential.body
    return credential.issuer if isinstance(body, DelegationBody) and body.on_behalf else ""


def parent_of(credential: Record) -> str:
    """Content id of what a delegation was passed on from; "" for any other credential."""
    body = credential.body
    return body.parent if isinstance(body, DelegationBody) else ""


def shortest(links: Chain) -> tuple[int, int, str]:
    """A key to sort by: fewest links first, then those that are valid for longest."""
    return (len(links), -min(link.valid_until_ms for link in links), links[-1].content_id)
