"""Every bound and default in one table. SPEC.md's parameter table is generated from it.

Units are the last word of a name. A field's `doc` is what the table prints.
"""

from dataclasses import dataclass, field, fields
from typing import Any

KIB, MIB = 1024, 1024 * 1024
MINUTE, HOUR, DAY = 60, 3600, 86400


def _limit(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that both ends of the wire, the gateway and the engines rely on."""

    # Records
    record_max_bytes: int = _limit(64 * KIB, "a record in canonical form")
    record_depth_max: int = _limit(16, "nesting of a record")
    clock_skew_seconds: int = _limit(120, "how far in the future validFrom may lie")
    node_ttl_seconds: int = _limit(15 * MINUTE, "validity of a NodeRecord")
    availability_ttl_seconds: int = _limit(5 * MINUTE, "validity of an AvailabilityRecord")
    manifest_ttl_seconds: int = _limit(366 * DAY, "longest validity of a ModelManifest")
    membership_ttl_seconds: int = _limit(366 * DAY, "longest validity of a Membership")
    membership_default_seconds: int = _limit(30 * DAY, "validity of a Membership as issued here")
    invitation_ttl_seconds: int = _limit(7 * DAY, "longest validity of an Invitation")
    invitation_default_seconds: int = _limit(1 * DAY, "validity of an Invitation as issued here")
    offers_max: int = _limit(64, "offers in one AvailabilityRecord")
    addresses_max: int = _limit(16, "addresses in one record or invitation")
    capabilities_max: int = _limit(16, "capabilities of one manifest")
    files_max: int = _limit(64, "files of one model")
    name_max_chars: int = _limit(96, "a model's, node's or file's name")
    records_per_issuer_max: int = _limit(512, "live records of one issuer")
    records_per_second_per_issuer: float = _limit(10.0, "accepted records of one issuer, sustained")
    records_burst_per_issuer: int = _limit(600, "accepted records of one issuer at once")
    # Frames and streams
    frame_max_bytes: int = _limit(1 * MIB, "one frame of an RPC stream, header excluded")
    request_max_bytes: int = _limit(32 * MIB, "one RPC request, over all its frames")
    join_max_bytes: int = _limit(16 * KIB, "a message of the join protocol")
    gossip_max_bytes: int = _limit(64 * KIB, "a batch of records in one gossip message")
    stream_credit_bytes: int = _limit(1 * MIB, "unread bytes a receiver allows per direction")
    streams_per_peer_max: int = _limit(64, "RPC streams open to or from one peer")
    # Connections
    pre_auth_max: int = _limit(64, "connections that have not finished the handshake")
    pre_auth_per_ip_max: int = _limit(32, "of these, from one address")
    pre_auth_seconds: float = _limit(5.0, "time to finish the handshake")
    strangers_max: int = _limit(16, "connected peers that are not members")
    stranger_seconds: float = _limit(30.0, "how long one may stay")
    stranger_streams_max: int = _limit(4, "streams one may have open")
    stranger_stream_seconds: float = _limit(10.0, "how long such a stream may last")
    join_burst: int = _limit(5, "join messages at once from one address")
    join_per_second: float = _limit(0.2, "join messages from one address, sustained")
    joins_burst: int = _limit(20, "join messages at once from everybody")
    joins_per_second: float = _limit(2.0, "join messages from everybody, sustained")
    request_decision_seconds: float = _limit(600.0, "a join request waits for the operator")
    join_poll_seconds: float = _limit(8.0, "the answer to a poll is held back at most this long")
    requests_pending_max: int = _limit(32, "join requests waiting for the operator")
    # Liveness
    ping_interval_seconds: float = _limit(2.0, "application ping to each connected member")
    ping_timeout_seconds: float = _limit(3.0, "silence after which a member is not routed to")
    dial_timeout_seconds: float = _limit(5.0, "connecting to a peer")
    rpc_timeout_seconds: float = _limit(10.0, "silence of a peer within a short exchange")
    infer_silence_seconds: float = _limit(60.0, "silence within a streamed answer")
    drain_seconds: float = _limit(5.0, "time live requests get when a node stops")
    sync_interval_seconds: float = _limit(15.0, "between two syncs with a random peer")
    syncs_burst: int = _limit(100, "requests of one peer that belong to repair, at once")
    syncs_per_second: float = _limit(4.0, "requests of one peer that belong to repair, sustained")
    sync_ids_max: int = _limit(4096, "records asked for in one request")
    sync_push_max: int = _limit(4096, "records pushed in one conversation")
    reconcile_max_bytes: int = _limit(64 * KIB, "a reconciliation message")
    reconcile_rounds_max: int = _limit(64, "reconciliation messages of one conversation, each way")
    provide_seconds: float = _limit(1800.0, "DHT hints are renewed")
    seek_seconds: float = _limit(3.0, "following DHT hints before giving up")
    connections_wanted: int = _limit(48, "members a node keeps connections to")
    redial_seconds: float = _limit(2.0, "first pause before dialling a member again")
    redial_max_seconds: float = _limit(60.0, "longest pause before dialling a member again")
    gossip_interval_seconds: float = _limit(1.0, "shortest time between two batches")
    # Gateway
    body_max_bytes: int = _limit(32 * MIB, "an HTTP request body")
    header_seconds: float = _limit(10.0, "time to send the HTTP header")
    body_seconds: float = _limit(25.0, "time to send the HTTP body")
    http_connections_max: int = _limit(512, "HTTP connections at once")
    retry_after_seconds: float = _limit(2.0, "Retry-After where nothing better is known")
    attempts_max: int = _limit(3, "candidates tried before the first chunk")
    # Inference
    messages_max: int = _limit(2048, "messages of one chat request")
    max_tokens_max: int = _limit(131072, "tokens one request may ask for")
    stop_max: int = _limit(16, "stop strings of one request")
    stop_max_chars: int = _limit(256, "a stop string")
    top_logprobs_max: int = _limit(20, "alternatives per token")
    tensor_rank_max: int = _limit(16, "dimensions of a tensor")
    tensors_max: int = _limit(64, "tensors in one request or answer")
    tensor_max_bytes: int = _limit(32 * MIB, "all tensors of one request or answer")
    # Workers
    worker_start_seconds: float = _limit(20.0, "a worker process to say hello")
    worker_load_seconds: float = _limit(120.0, "loading a model, its first build included")
    worker_silence_seconds: float = _limit(60.0, "silence of a worker within a request")
    worker_stop_seconds: float = _limit(1.0, "between asking a worker to stop and killing it")
    model_idle_seconds: float = _limit(300.0, "an unused model stays loaded")


LIMITS = Limits()


def table() -> list[tuple[str, str, str]]:
    """Rows (name, value, meaning) for SPEC.md, in order."""
    return [(f.name, str(getattr(LIMITS, f.name)), f.metadata["doc"]) for f in fields(Limits)]
