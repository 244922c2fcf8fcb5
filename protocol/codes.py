"""The closed list of error codes.

One list serves the wire, HTTP and the command line: `CODES` maps each code to its HTTP status, the
exit status of the CLI, and the next step to suggest where the message does not already name one.
"""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Stable names; adding one is a compatible change, renaming or reusing one is not."""

    # Records and credentials
    MALFORMED = "malformed"
    NOT_CANONICAL = "not_canonical"
    DUPLICATE_KEY = "duplicate_key"
    RECORD_TOO_LARGE = "record_too_large"
    UNKNOWN_CONTEXT = "unknown_context"
    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_FIELD = "unknown_field"
    UNSIGNED = "unsigned"
    ISSUER_NOT_KEY = "issuer_not_key"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    FROM_FUTURE = "from_future"
    TTL_TOO_LONG = "ttl_too_long"
    SUPERSEDED = "superseded"
    OVER_QUOTA = "over_quota"
    OVER_RATE = "over_rate"
    NOT_MEMBER = "not_member"
    RECEIPT_MISMATCH = "receipt_mismatch"
    UNRECEIPTED = "unreceipted"
    # Membership
    INVITATION_INVALID = "invitation_invalid"
    INVITATION_EXPIRED = "invitation_expired"
    INVITATION_USED = "invitation_used"
    INVITATION_NOT_YOURS = "invitation_not_yours"
    NOT_AUTHORITY = "not_authority"
    GRID_NOT_EMPTY = "grid_not_empty"
    JOIN_PENDING = "join_pending"
    JOIN_REFUSED = "join_refused"
    ROTATION_REFUSED = "rotation_refused"
    # Requests
    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    AMBIGUOUS_MODEL = "ambiguous_model"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    BODY_TOO_LARGE = "body_too_large"
    HEADER_TOO_LARGE = "header_too_large"
    HTTP_VERSION = "http_version"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    HOST_NOT_ALLOWED = "host_not_allowed"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    # Policy: what a node says when it will not serve, though it could
    UNPRESENTED = "unpresented"
    PRESENTATION_INVALID = "presentation_invalid"
    PRESENTATION_EXPIRED = "presentation_expired"
    NOT_HOLDER = "not_holder"
    WRONG_AUDIENCE = "wrong_audience"
    REPLAYED = "replayed"
    BODY_MISMATCH = "body_mismatch"
    PREFIX_MISMATCH = "prefix_mismatch"
    WRONG_MANIFEST = "wrong_manifest"
    CHAIN_BROKEN = "chain_broken"
    CHAIN_TOO_LONG = "chain_too_long"
    DELEGATION_WIDENS = "delegation_widens"
    NOT_DELEGABLE = "not_delegable"
    REVOKED = "revoked"
    STATUS_STALE = "status_stale"
    NOT_SERVED = "not_served"
    NO_GRANT = "no_grant"
    ACTION_NOT_ALLOWED = "action_not_allowed"
    TARGET_NOT_COVERED = "target_not_covered"
    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"
    REGION_NOT_ALLOWED = "region_not_allowed"
    AUDIENCE_NOT_ALLOWED = "audience_not_allowed"
    LICENSE_NOT_ACCEPTED = "license_not_accepted"
    OVER_BUDGET = "over_budget"
    RATE_LIMITED = "rate_limited"
    BUSY = "busy"
    LOADING = "loading"
    NO_CANDIDATE = "no_candidate"
    QUERY_MALFORMED = "query_malformed"
    QUERY_REFUSED = "query_refused"
    QUERY_TOO_EXPENSIVE = "query_too_expensive"
    CANCELLED = "cancelled"
    SHUTTING_DOWN = "shutting_down"
    # Between peers
    UNREACHABLE = "unreachable"
    CONNECTION_LOST = "connection_lost"
    PROTOCOL_VIOLATION = "protocol_violation"
    FRAME_TOO_LARGE = "frame_too_large"
    TIMEOUT = "timeout"
    # Engines and model files
    ENGINE_CRASHED = "engine_crashed"
    ENGINE_FAILED = "engine_failed"
    NO_AGREEMENT = "no_agreement"
    ENGINE_TIMEOUT = "engine_timeout"
    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED_MODEL = "unsupported_model"
    UNSUPPORTED_QUANTISATION = "unsupported_quantisation"
    UNSAFE_FILE = "unsafe_file"
    QUARANTINED = "quarantined"
    HASH_MISMATCH = "hash_mismatch"
    MODEL_FILE_MISSING = "model_file_missing"
    # This machine and how it was called
    USAGE = "usage"
    PORT_IN_USE = "port_in_use"
    DATA_DIRECTORY_UNUSABLE = "data_directory_unusable"
    KEY_FILE_CORRUPT = "key_file_corrupt"
    PASSPHRASE_REQUIRED = "passphrase_required"  # noqa: S105 - a code
    PASSPHRASE_WRONG = "passphrase_wrong"  # noqa: S105 - a code
    ALREADY_RUNNING = "already_running"
    NOT_RUNNING = "not_running"
    UNSAFE_BINDING = "unsafe_binding"
    ENVIRONMENT = "environment"
    INTERNAL = "internal"


# What a node says that will not serve a request, though it could.
POLICY = frozenset(
    {
        Code.NOT_MEMBER,
        Code.UNPRESENTED,
        Code.PRESENTATION_INVALID,
        Code.PRESENTATION_EXPIRED,
        Code.NOT_HOLDER,
        Code.WRONG_AUDIENCE,
        Code.REPLAYED,
        Code.BODY_MISMATCH,
        Code.PREFIX_MISMATCH,
        Code.WRONG_MANIFEST,
        Code.CHAIN_BROKEN,
        Code.CHAIN_TOO_LONG,
        Code.DELEGATION_WIDENS,
        Code.NOT_DELEGABLE,
        Code.EXPIRED,
        Code.FROM_FUTURE,
        Code.REVOKED,
        Code.STATUS_STALE,
        Code.NOT_SERVED,
        Code.NO_GRANT,
        Code.ACTION_NOT_ALLOWED,
        Code.TARGET_NOT_COVERED,
        Code.PURPOSE_NOT_ALLOWED,
        Code.REGION_NOT_ALLOWED,
        Code.AUDIENCE_NOT_ALLOWED,
        Code.LICENSE_NOT_ACCEPTED,
        Code.OVER_BUDGET,
    }
)

EXIT_FAILED, EXIT_USAGE, EXIT_DENIED, EXIT_NO_CANDIDATE = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a code means outside the wire.

    Attributes:
        http: status of an HTTP answer that carries the code.
        exit: exit status of a command that ends with it.
        retry: whether the same request may succeed later or elsewhere without being changed.
        next_step: what to do about it, one sentence.
    """

    http: int
    exit: int
    retry: bool
    next_step: str


def _record(next_step: str) -> CodeInfo:
    return CodeInfo(400, EXIT_FAILED, retry=False, next_step=next_step)


def _denied(next_step: str) -> CodeInfo:
    return CodeInfo(403, EXIT_DENIED, retry=False, next_step=next_step)


def _request(http: int, next_step: str, *, status: int = EXIT_FAILED) -> CodeInfo:
    return CodeInfo(http, status, retry=False, next_step=next_step)


def _elsewhere(http: int, next_step: str, *, status: int = EXIT_FAILED) -> CodeInfo:
    return CodeInfo(http, status, retry=True, next_step=next_step)


def _environment(next_step: str) -> CodeInfo:
    return CodeInfo(500, EXIT_USAGE, retry=False, next_step=next_step)


CODES: dict[Code, CodeInfo] = {
    Code.MALFORMED: _record("Check it against the schema in SPEC.md."),
    Code.NOT_CANONICAL: _record("Serialise with RFC 8785 (JCS) before signing and sending."),
    Code.DUPLICATE_KEY: _record("Remove the repeated member."),
    Code.RECORD_TOO_LARGE: _record("Keep the record below the size in SPEC.md."),
    Code.UNKNOWN_CONTEXT: _record("Use exactly the two contexts that SPEC.md lists."),
    Code.UNKNOWN_KIND: _record("Update this node, or use a kind that SPEC.md lists."),
    Code.UNKNOWN_FIELD: _record("Remove the field, or update this node."),
    Code.UNSIGNED: _record("Attach an eddsa-jcs-2022 proof."),
    Code.ISSUER_NOT_KEY: _record("The proof must be made with the issuer's own did:key."),
    Code.BAD_SIGNATURE: _record("Ask the issuer to sign and send it again."),
    Code.EXPIRED: _denied("Ask the issuer for a current one."),
    Code.FROM_FUTURE: _denied("Compare the clocks of both machines."),
    Code.TTL_TOO_LONG: _record("Issue it for no longer than SPEC.md allows for its kind."),
    Code.SUPERSEDED: _record("A newer record of the same key is known; use that one."),
    Code.OVER_QUOTA: _record("Withdraw records of this issuer first."),
    Code.OVER_RATE: _elsewhere(429, "Publish less often."),
    Code.NOT_MEMBER: _denied("Join the grid first: `aigrid join`."),
    Code.RECEIPT_MISMATCH: _record("Ask the operator of the node that served to account for it."),
    Code.UNRECEIPTED: _record("Ask the operator of the node that served to account for it."),
    Code.INVITATION_INVALID: _denied("Ask for a new invitation: `aigrid invite DID`."),
    Code.INVITATION_EXPIRED: _denied("Ask for a new invitation: `aigrid invite DID`."),
    Code.INVITATION_USED: _denied("Ask for a new invitation: `aigrid invite DID`."),
    Code.INVITATION_NOT_YOURS: _denied("It is bound to another key; send yours: `aigrid id`."),
    Code.NOT_AUTHORITY: _denied("Run this on the node that holds the grid's authority key."),
    Code.GRID_NOT_EMPTY: _denied("Use a fresh data directory to join another grid."),
    Code.JOIN_PENDING: _denied("The other side has to run `aigrid approve`."),
    Code.JOIN_REFUSED: _denied("Ask the grid's operator."),
    Code.ROTATION_REFUSED: _denied("Ask the grid's operator to invite the new key."),
    Code.INVALID_REQUEST: _request(400, "Correct the named field."),
    Code.UNSUPPORTED_PARAMETER: _request(400, "Leave the named parameter out."),
    Code.CONTEXT_LENGTH_EXCEEDED: _request(400, "Shorten the messages or lower max_tokens."),
    Code.NOT_FOUND: _request(404, "See the README for the paths that exist."),
    Code.MODEL_NOT_FOUND: _request(404, "See what there is: `aigrid models`, or GET /v1/models."),
    Code.AMBIGUOUS_MODEL: _request(409, "Name one of the listed model ids instead."),
    Code.METHOD_NOT_ALLOWED: _request(405, "Use the method named in the Allow header."),
    Code.REQUEST_TIMEOUT: _request(408, "Send the whole request without pausing."),
    Code.BODY_TOO_LARGE: _request(413, "Send a smaller body."),
    Code.HEADER_TOO_LARGE: _request(431, "Send a shorter path, and fewer or smaller headers."),
    Code.HTTP_VERSION: _request(505, "Speak HTTP/1.1."),
    Code.UNSUPPORTED_MEDIA_TYPE: _request(415, "Send a type that the path takes, uncompressed."),
    Code.HOST_NOT_ALLOWED: _request(403, "Use localhost, or name it with --gateway-name."),
    Code.ORIGIN_NOT_ALLOWED: _request(403, "Web pages of other origins may not call this node."),
    Code.UNAUTHENTICATED: _request(401, "Get a key: `aigrid key create`.", status=EXIT_DENIED),
    Code.DENIED: _denied("Ask the operator of the serving node."),
    Code.UNPRESENTED: _denied("Present a membership or a grant: update this node."),
    Code.PRESENTATION_INVALID: _denied("Make the presentation as SPEC.md says, and sign it anew."),
    Code.PRESENTATION_EXPIRED: _denied("Present again, and compare the clocks of both machines."),
    Code.NOT_HOLDER: _denied("Only whoever a credential was issued to can present it."),
    Code.WRONG_AUDIENCE: _denied("Make a presentation for the node that is asked."),
    Code.REPLAYED: _denied("Make a new presentation for each request."),
    Code.BODY_MISMATCH: _denied("Present for exactly the request that is sent."),
    Code.PREFIX_MISMATCH: _denied("Present for exactly the continuation that is sent."),
    Code.WRONG_MANIFEST: _denied("Ask under the manifest that the node offers the model by."),
    Code.CHAIN_BROKEN: _denied("Present the whole chain, from the grant to the last delegation."),
    Code.CHAIN_TOO_LONG: _denied("Ask for a grant or delegation that is nearer to its owner."),
    Code.DELEGATION_WIDENS: _denied("Delegate no more than what was granted."),
    Code.NOT_DELEGABLE: _denied("Ask the owner for a grant that may be delegated."),
    Code.REVOKED: _denied("Ask the issuer for a new credential."),
    Code.STATUS_STALE: _denied("Reconnect to a node that signs the issuer's status list."),
    Code.NOT_SERVED: _denied("Ask the operator of the serving node, or ask another node."),
    Code.NO_GRANT: _denied("Ask the model's owner for a grant: `aigrid credential issue`."),
    Code.ACTION_NOT_ALLOWED: _denied("Ask the model's owner to permit the action."),
    Code.TARGET_NOT_COVERED: _denied("Ask the issuer for a credential that covers the model."),
    Code.PURPOSE_NOT_ALLOWED: _denied("Name a permitted one: `x-aigrid-purpose` or `--purpose`."),
    Code.REGION_NOT_ALLOWED: _denied("Ask a node in a region that is permitted."),
    Code.AUDIENCE_NOT_ALLOWED: _denied("Ask a node that the credential names."),
    Code.LICENSE_NOT_ACCEPTED: _denied(
        "Accept the licence: `x-aigrid-accept-license`, `--accept-license`, `accept_licenses`."
    ),
    Code.OVER_BUDGET: _elsewhere(429, "Wait for the time in Retry-After.", status=EXIT_DENIED),
    Code.RATE_LIMITED: _elsewhere(429, "Wait for the time in Retry-After."),
    Code.BUSY: _elsewhere(503, "Wait for the time in Retry-After."),
    Code.LOADING: _elsewhere(503, "Wait for the time in Retry-After: the model is on its way."),
    Code.NO_CANDIDATE: _elsewhere(
        503, "Start a node with the model, or see `aigrid status`.", status=EXIT_NO_CANDIDATE
    ),
    Code.QUERY_MALFORMED: _request(400, "Correct the query where the message points."),
    Code.QUERY_REFUSED: _request(
        400, "Ask with SELECT, ASK, CONSTRUCT or DESCRIBE, of this node's data alone."
    ),
    Code.QUERY_TOO_EXPENSIVE: _request(503, "Narrow the query, or add a LIMIT."),
    Code.CANCELLED: _request(499, "Send the request again if it is still wanted."),
    Code.SHUTTING_DOWN: _elsewhere(503, "Ask another node."),
    Code.UNREACHABLE: _elsewhere(503, "Check the address and that the node is up."),
    Code.CONNECTION_LOST: _elsewhere(502, "Send the request again."),
    Code.PROTOCOL_VIOLATION: _request(502, "Update the older of the two nodes."),
    Code.FRAME_TOO_LARGE: _request(502, "Keep frames below the size in SPEC.md."),
    Code.TIMEOUT: _elsewhere(504, "Send the request again."),
    Code.ENGINE_CRASHED: _elsewhere(502, "Send the request again; see the serving node's log."),
    Code.ENGINE_FAILED: _request(500, "See the serving node's log."),
    Code.NO_AGREEMENT: _request(502, "Ask more candidates, or let fewer agree."),
    Code.ENGINE_TIMEOUT: _elsewhere(504, "Send the request again."),
    Code.OUT_OF_MEMORY: _elsewhere(503, "Use a smaller model or a node with more memory."),
    Code.UNSUPPORTED_MODEL: _request(400, "See `aigrid models` for what this node can run."),
    Code.UNSUPPORTED_QUANTISATION: _request(400, "Use Q4 to Q8, K, F16, F32, or llama_cpp."),
    Code.UNSAFE_FILE: _request(400, "Use ONNX without external data, GGUF or safetensors."),
    Code.QUARANTINED: _elsewhere(503, "Ask another node; see this node's log for the crashes."),
    Code.HASH_MISMATCH: _request(400, "Fetch the file again from a trusted source."),
    Code.MODEL_FILE_MISSING: _environment("Fetch it first: `aigrid models fetch NAME`."),
    Code.USAGE: _environment("See `aigrid --help`."),
    Code.PORT_IN_USE: _environment("Choose another port, or stop what holds it."),
    Code.DATA_DIRECTORY_UNUSABLE: _environment("Choose another directory with --data-dir."),
    Code.KEY_FILE_CORRUPT: _environment("Restore the key file from a backup, or move it away."),
    Code.PASSPHRASE_REQUIRED: _environment(
        "Name a file with --passphrase-file, or set AIGRID_PASSPHRASE."
    ),
    Code.PASSPHRASE_WRONG: _environment("Give the passphrase that the key was protected with."),
    Code.ALREADY_RUNNING: _environment("A node is already running on this data directory."),
    Code.NOT_RUNNING: _environment("Start the node first: `aigrid up`."),
    Code.UNSAFE_BINDING: _environment("Bind the gateway to 127.0.0.1, or give it TLS: --tls."),
    Code.ENVIRONMENT: _environment("Install what is named."),
    Code.INTERNAL: _request(500, "Report it with the log of this node."),
}
