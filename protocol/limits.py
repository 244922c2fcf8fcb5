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
    gossip_messages_burst: int = _limit(1000, "gossip messages one peer may pass on at once")
    gossip_messages_per_second: float = _limit(200.0, "gossip messages of one peer, sustained")
    gossip_control_max: int = _limit(128, "IHAVE, IWANT, GRAFT and PRUNE in one gossip frame")
    gossip_ids_max: int = _limit(5000, "message ids in these")
    gossip_wanted_bytes: int = _limit(512 * KIB, "gossip messages sent for one frame of IWANTs")
    dht_message_bytes: int = _limit(64 * KIB, "a message of the DHT")
    dht_streams_per_peer_max: int = _limit(4, "DHT streams open from one peer")
    dht_stream_seconds: float = _limit(10.0, "how long one may last")
    stream_credit_bytes: int = _limit(1 * MIB, "unread bytes a receiver allows per direction")
    streams_per_peer_max: int = _limit(64, "RPC streams open to or from one peer")
    error_body_max_bytes: int = _limit(4096, "the body of an ERROR frame")
    error_message_max_chars: int = _limit(512, "the message of an error, cut beyond")
    retry_after_max_seconds: float = _limit(86400.0, "retry_after_seconds that is believed")
    # What a node keeps of peers and their records
    rate_keys_max: int = _limit(4096, "issuers, peers or addresses whose rates are counted at once")
    keys_per_record_max: int = _limit(
        8, "keys of one issuer remembered, per live record that it may have"
    )
    refusals_kept_max: int = _limit(8192, "records remembered as refused, not to be verified again")
    records_waiting_max: int = _limit(256, "verified records remembered while they were not taken")
    database_busy_seconds: float = _limit(2.0, "waiting for another process at the database")
    peers_known_max: int = _limit(1024, "peers whose addresses are remembered")
    callers_per_stream_max: int = _limit(4, "callers waiting for a peer's streams, per stream")
    requests_held_max: int = _limit(2, "requests of one peer in memory, in units of the largest")
    stream_idle_seconds: float = _limit(60.0, "an unused RPC stream stays open")
    cancel_seconds: float = _limit(5.0, "a peer to acknowledge a cancel before its stream is reset")
    unsent_control_max_bytes: int = _limit(64 * KIB, "control frames a peer leaves unread")
    # Connections
    pre_auth_max: int = _limit(64, "connections that have not finished the handshake")
    pre_auth_per_ip_max: int = _limit(32, "of these, from one address")
    pre_auth_seconds: float = _limit(5.0, "time to finish the handshake")
    connections_max: int = _limit(1024, "connections in all")
    connections_per_peer_max: int = _limit(4, "connections to one peer")
    negotiate_seconds: float = _limit(10.0, "agreeing on the protocol of a stream")
    negotiation_line_max_bytes: int = _limit(1024, "a line of multistream-select")
    negotiation_proposals_max: int = _limit(16, "protocols a peer may propose for a stream")
    library_streams_max: int = _limit(32, "a member's streams beside those for RPC")
    stream_linger_seconds: float = _limit(5.0, "a peer to take the end of an answered stream")
    welcome_seconds: float = _limit(10.0, "identifying a new member, and joining it in gossip")
    mux_window_bytes: int = _limit(1 * MIB, "unread bytes of a member's yamux stream")
    mux_unsent_bytes: int = _limit(256 * KIB, "unsent bytes of a connection at which writers wait")
    mux_control_max_bytes: int = _limit(64 * KIB, "unsent control frames before a peer is cut off")
    mux_streams_max: int = _limit(256, "streams a peer may open on one connection")
    mux_ping_interval_seconds: float = _limit(15.0, "between two yamux pings")
    mux_ping_timeout_seconds: float = _limit(10.0, "the answer to a yamux ping")
    mux_write_seconds: float = _limit(20.0, "a peer to take one Noise message")
    strangers_max: int = _limit(16, "connected peers that are not members")
    stranger_seconds: float = _limit(30.0, "how long one may stay")
    stranger_streams_max: int = _limit(4, "streams one may have open")
    stranger_stream_seconds: float = _limit(10.0, "how long such a stream may last")
    stranger_stream_max_bytes: int = _limit(64 * KIB, "what such a stream may carry")
    stranger_refusals_max: int = _limit(64, "streams refused before a stranger is disconnected")
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
    sync_seconds: float = _limit(60.0, "one sync, however much there is to fetch")
    syncs_burst: int = _limit(20, "sync requests of one peer at once")
    syncs_per_second: float = _limit(0.5, "sync requests of one peer, sustained")
    sync_known_max: int = _limit(32768, "records named as known in one sync request")
    provide_seconds: float = _limit(1800.0, "DHT hints are renewed")
    seek_seconds: float = _limit(3.0, "following DHT hints before giving up")
    connections_wanted: int = _limit(48, "members a node keeps connections to")
    redial_seconds: float = _limit(2.0, "first pause before dialling a member again")
    redial_max_seconds: float = _limit(60.0, "longest pause before dialling a member again")
    gossip_interval_seconds: float = _limit(1.0, "shortest time between two batches")
    gossip_waiting_max: int = _limit(1024, "unread messages of one topic, more are dropped")
    # DHT and local network
    dht_call_seconds: float = _limit(8.0, "one operation on the DHT")
    dht_query_seconds: float = _limit(3.0, "one peer's answer in it")
    dht_queries_max: int = _limit(10, "peers asked in one operation")
    dht_providers_max: int = _limit(64, "providers taken from one answer")
    dht_keys_max: int = _limit(65536, "keys a node keeps hints for")
    dht_provides_burst: int = _limit(128, "hints of one peer within 10 s")
    nearby_max: int = _limit(64, "nodes remembered from mDNS")
    nearby_expiry_seconds: float = _limit(120.0, "a node seen by mDNS stays listed")
    nearby_ttl_seconds: int = _limit(60, "time to live of our mDNS records")
    nearby_name_max_chars: int = _limit(64, "a node's name in mDNS")
    nearby_grid_max_chars: int = _limit(128, "a grid's DID in mDNS")
    nearby_addresses_max: int = _limit(8, "addresses of a node in mDNS")
    # Gateway
    body_max_bytes: int = _limit(32 * MIB, "an HTTP request body")
    header_seconds: float = _limit(10.0, "time to send the HTTP header")
    body_seconds: float = _limit(25.0, "time to send the HTTP body")
    bodies_max_bytes: int = _limit(256 * MIB, "HTTP bodies being received, all clients together")
    headers_max_bytes: int = _limit(16 * KIB, "an HTTP header")
    headers_max: int = _limit(100, "fields of an HTTP header")
    keep_alive_seconds: float = _limit(25.0, "silence on an HTTP connection after an answer")
    http_write_seconds: float = _limit(20.0, "an HTTP client to take 64 KiB")
    http_linger_seconds: float = _limit(2.0, "a client that still sends is read after its answer")
    first_chunk_seconds: float = _limit(10.0, "the header of a stream waits for the first chunk")
    sse_comment_seconds: float = _limit(3.0, "silence on a stream before an SSE comment")
    farewell_seconds: float = _limit(1.0, "writing the last words when the gateway stops")
    model_field_max_chars: int = _limit(512, "the model of a request")
    duplicates_sought_max_bytes: int = _limit(
        256 * KIB, "a larger body is not searched for members given twice; the last one wins"
    )
    http_connections_max: int = _limit(512, "HTTP connections at once")
    retry_after_seconds: float = _limit(2.0, "Retry-After where nothing better is known")
    attempts_max: int = _limit(3, "candidates tried before the first chunk")
    answer_silence_seconds: float = _limit(600.0, "nothing but signs of life within an answer")
    # Inference
    messages_max: int = _limit(2048, "messages of one chat request")
    token_max_bytes: int = _limit(2048, "a token within an answer, on average")
    max_tokens_max: int = _limit(131072, "tokens one request may ask for")
    stop_max: int = _limit(16, "stop strings of one request")
    stop_max_chars: int = _limit(256, "a stop string")
    top_logprobs_max: int = _limit(20, "alternatives per token")
    temperature_max: float = _limit(1e6, "the temperature of a request")
    context_default_tokens: int = _limit(4096, "a conversation, unless the model's options say")
    tensor_rank_max: int = _limit(16, "dimensions of a tensor")
    tensors_max: int = _limit(64, "tensors in one request or answer")
    tensor_max_bytes: int = _limit(32 * MIB, "all tensors of one request or answer")
    # This node
    config_max_bytes: int = _limit(64 * KIB, "a configuration file")
    config_addresses_max: int = _limit(64, "addresses in one setting")
    threads_max: int = _limit(1024, "threads that may be configured")
    invitation_max_chars: int = _limit(64 * KIB, "an invitation as text, read from standard input")
    key_file_max_bytes: int = _limit(4096, "a key file")
    log_max_bytes: int = _limit(8 * MIB, "the log file before it is rotated")
    control_connections_max: int = _limit(64, "commands connected to a running node at once")
    disk_spare_bytes: int = _limit(64 * MIB, "left free on the disk when a model is added")
    download_seconds: float = _limit(1800.0, "downloading a starter model")
    # Model files and what comes with them
    gguf_keys_max: int = _limit(4096, "metadata keys of a GGUF file")
    gguf_tensors_max: int = _limit(65536, "tensors of a GGUF file")
    gguf_key_max_bytes: int = _limit(1024, "a key or a tensor's name")
    gguf_string_max_bytes: int = _limit(1 * MIB, "a string in the metadata")
    gguf_array_items_max: int = _limit(1024 * 1024, "items of one array in the metadata")
    gguf_items_max: int = _limit(4 * 1024 * 1024, "items of all arrays together")
    gguf_rank_max: int = _limit(4, "dimensions of a tensor in a GGUF file")
    gguf_alignment_max: int = _limit(65536, "alignment of the tensors' data")
    onnx_depth_max: int = _limit(32, "nesting of an ONNX graph")
    onnx_elements_max: int = _limit(1 << 40, "elements of one ONNX tensor")
    protobuf_fields_max: int = _limit(4_000_000, "fields of a protobuf file that are looked at")
    template_max_chars: int = _limit(128 * KIB, "a chat template")
    template_overhead_max_chars: int = _limit(
        256 * KIB, "what a chat template writes, beyond twice the messages"
    )
    template_operand_max: int = _limit(64 * MIB, "items that an operator in a template may make")
    # Workers
    worker_start_seconds: float = _limit(20.0, "a worker process to say hello")
    worker_load_seconds: float = _limit(120.0, "loading a model, its first build included")
    worker_silence_seconds: float = _limit(60.0, "silence of a worker within a request")
    worker_stop_seconds: float = _limit(1.0, "between asking a worker to stop and killing it")
    worker_heartbeat_seconds: float = _limit(5.0, "between two pings of a worker that serves")
    worker_heartbeat_silence_seconds: float = _limit(20.0, "a sign of life after such a ping")
    worker_cancel_seconds: float = _limit(
        10.0, "a cancelled request to end, else the worker is killed"
    )
    worker_chunks_max: int = _limit(256, "chunks of one request that nobody has taken yet")
    worker_output_max_bytes: int = _limit(16 * KIB, "kept of what a worker printed last")
    worker_open_files_max: int = _limit(256, "files a worker may have open")
    device_tool_seconds: float = _limit(2.0, "asking a vendor's tool about devices")
    model_idle_seconds: float = _limit(300.0, "an unused model stays loaded")
    model_queue_max: int = _limit(16, "requests waiting for a load or a slot of one model")
    memory_share: float = _limit(0.8, "of the free memory, for models, where nothing is configured")


LIMITS = Limits()


def table() -> list[tuple[str, str, str]]:
    """Rows (name, value, meaning) for SPEC.md, in order."""
    return [(f.name, str(getattr(LIMITS, f.name)), f.metadata["doc"]) for f in fields(Limits)]
