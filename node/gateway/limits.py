"""The gateway's share of `protocol/limits.py`, as one argument."""

from dataclasses import dataclass

from aigrid.protocol.limits import LIMITS


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """The defaults are those of `aigrid.protocol.limits`, which says what each is."""

    body_max_bytes: int = LIMITS.body_max_bytes
    bodies_max_bytes: int = LIMITS.bodies_max_bytes
    tensor_inline_max_bytes: int = LIMITS.tensor_inline_max_bytes
    body_seconds: float = LIMITS.body_seconds
    handshake_seconds: float = LIMITS.tls_handshake_seconds
    header_seconds: float = LIMITS.header_seconds
    headers_max_bytes: int = LIMITS.headers_max_bytes
    headers_max: int = LIMITS.headers_max
    connections_max: int = LIMITS.http_connections_max
    keep_alive_seconds: float = LIMITS.keep_alive_seconds
    write_seconds: float = LIMITS.http_write_seconds
    linger_seconds: float = LIMITS.http_linger_seconds
    first_chunk_seconds: float = LIMITS.first_chunk_seconds
    keepalive_seconds: float = LIMITS.sse_comment_seconds
    patience_seconds: float = LIMITS.patience_seconds
    stream_patience_seconds: float = LIMITS.stream_patience_seconds
    drain_seconds: float = LIMITS.drain_seconds
    farewell_seconds: float = LIMITS.farewell_seconds
    retry_after_seconds: float = LIMITS.retry_after_seconds
