"""The gateway's bounds: those of `protocol/limits.py`, and its own, as one argument."""

from dataclasses import dataclass

from aigrid.protocol.limits import KIB, LIMITS, MIB


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """See `aigrid.protocol.limits.Limits` for those that it names too.

    Attributes:
        bodies_max_bytes: request bodies that are being received at once, all clients together.
        headers_max_bytes: the header of a request; also what h11 buffers for an incomplete line.
        headers_max: header fields of a request.
        keep_alive_seconds: how long a connection that has been answered may stay silent.
        write_seconds: time a client gets to take 64 KiB before its connection is cut.
        linger_seconds: how long a client that still sends is read and ignored after its answer,
            so that the answer reaches it.
        first_chunk_seconds: how long a stream's headers wait for the first chunk.
        keepalive_seconds: silence on a stream after which an SSE comment is sent.
        farewell_seconds: time to write the last words when the gateway stops.
    """

    body_max_bytes: int = LIMITS.body_max_bytes
    bodies_max_bytes: int = 256 * MIB
    body_seconds: float = LIMITS.body_seconds
    header_seconds: float = LIMITS.header_seconds
    headers_max_bytes: int = 16 * KIB
    headers_max: int = 100
    connections_max: int = LIMITS.http_connections_max
    keep_alive_seconds: float = 25.0
    write_seconds: float = 20.0
    linger_seconds: float = 2.0
    first_chunk_seconds: float = 10.0
    keepalive_seconds: float = 3.0
    drain_seconds: float = LIMITS.drain_seconds
    farewell_seconds: float = 1.0
    retry_after_seconds: float = LIMITS.retry_after_seconds
