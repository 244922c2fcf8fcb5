"""Whether a receipt says what happened: what the node that asked holds it against. Pure."""

from dataclasses import dataclass

from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.receipt import ReceiptBody
from aigrid.protocol.record import Record, check_time, verify_form_and_signature
from aigrid.protocol.timestamp import parse_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A segment as the node that asked for it saw it.

    Attributes:
        request_id, model, manifest: as in `Infer`.
        peer: who was asked, a DID or a PeerId.
        salt: as in `Infer`; it is in the three hashes.
        request_hash, prefix_hash: as presented.
        output_hash: of what came.
        presentation: SHA-256 of what was presented, in hex.
        credentials: content ids of the credentials in it.
        actor: what this node calls whoever asked it.
        prompt_tokens: as `Finish` said; 0 if it never came.
        completion_tokens: how many token ids came, or where that is more what `Finish` said.
        reason: as `Finish` said, or ""; then the receipt may say any.
        began_ms, ended_ms: wall time here, from before the request was sent until all had come.
    """

    request_id: str
    peer: str
    model: str
    manifest: str
    salt: bytes
    request_hash: str
    prefix_hash: str
    output_hash: str
    began_ms: int
    ended_ms: int
    presentation: str = ""
    credentials: tuple[str, ...] = ()
    actor: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reason: str = ""


def check_received(
    sent: bytes | Record, expected: Expected, *, asker: str, server: str, now_ms: int
) -> Record:
    """The receipt that was sent, if it is the one for that segment.

    Args:
        sent: what the serving node sent; as a record where it was made or verified here.
        expected: the segment.
        asker: DID of this node.
        server: DID of the node that was asked.
        now_ms: wall time.

    Raises:
        VerificationError: what is wrong with it; `receipt_mismatch` where it is sound, and says
            something else than what happened.
    """
    record = sent if isinstance(sent, Record) else verify_form_and_signature(sent)
    check_time(record, now_ms)
    body = record.body
    if record.kind is not Kind.RECEIPT or not isinstance(body, ReceiptBody):
        raise VerificationError("it is no receipt", Code.UNKNOWN_KIND)
    if record.issuer != server:
        raise _mismatch("somebody else than the serving node signed it")
    if record.subject != asker:
        raise _mismatch("it is for another node")
    for member in _EQUAL:
        if getattr(body, member) != getattr(expected, member):
            raise _mismatch(f"it names another {member.replace('_', ' ')}")
    if expected.reason and body.reason != expected.reason:
        raise _mismatch("it names another end")
    if not set(body.credentials) <= set(expected.credentials):
        raise _mismatch("it relies on credentials that were not presented")
    if body.prompt_tokens > expected.prompt_tokens:
        raise _mismatch("it counts more tokens of the prompt than were told")
    if body.completion_tokens > expected.completion_tokens:
        raise _mismatch("it counts more tokens than came")
    _check_times(parse_ms(body.began), parse_ms(body.ended), expected)
    return record


_EQUAL = (
    "request_id",
    "model",
    "manifest",
    "request_hash",
    "prefix_hash",
    "output_hash",
    "presentation",
)


def _check_times(began_ms: int, ended_ms: int, expected: Expected) -> None:
    """Two clocks may differ; how long something took differs little."""
    skew_ms = LIMITS.clock_skew_seconds * 1000
    if began_ms < expected.began_ms - skew_ms or ended_ms > expected.ended_ms + skew_ms:
        raise _mismatch("it names another time")
    took_ms = expected.ended_ms - expected.began_ms
    if ended_ms - began_ms > took_ms + LIMITS.receipt_slack_seconds * 1000:
        raise _mismatch("it names a longer time than it took")


def _mismatch(text: str) -> VerificationError:
    return VerificationError(f"not the receipt for this segment: {text}", Code.RECEIPT_MISMATCH)
