"""Bodies of requests, read within bounds."""

import hashlib
import hmac

import trio

from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.protocol.errors import (
    AigridError,
    Code,
    InvalidRequestError,
    LocalError,
    PolicyDeniedError,
)


class BodyReader:
    """Reads request bodies within a size, a time, and a sum over all clients."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._held_bytes = 0

    async def read(self, request: Request) -> bytes:
        """The whole body; what is waited for it is the client's time.

        Raises:
            InvalidRequestError: `body_too_large` or `request_timeout`.
            LocalError: `busy`, when all bodies together hold too much.
            PolicyDeniedError: `unauthenticated`, when it is not the one that was signed.
            ClientGoneError: the client left before it was complete.
        """
        if int(request.fields.get(b"content-length", b"0")) > self._limits.body_max_bytes:
            raise self._too_large()
        began_seconds = trio.current_time()
        body = bytearray()
        try:
            with trio.move_on_after(self._limits.body_seconds) as scope:
                while data := await request.receive():
                    self._hold(body, data)
        finally:
            self._held_bytes -= len(body)
        request.course.waited(trio.current_time() - began_seconds)
        if scope.cancelled_caught:
            raise InvalidRequestError("The body did not arrive in time.", Code.REQUEST_TIMEOUT)
        whole = bytes(body)
        _check_signed(whole, request.digest)
        return whole

    def _hold(self, body: bytearray, data: bytes) -> None:
        if len(body) + len(data) > self._limits.body_max_bytes:
            raise self._too_large()
        if self._held_bytes + len(data) > self._limits.bodies_max_bytes:
            raise LocalError("Too many large requests arrive at once.", Code.BUSY)
        body += data
        self._held_bytes += len(data)

    def _too_large(self) -> AigridError:
        return InvalidRequestError(
            f"The body is larger than {self._limits.body_max_bytes} bytes.", Code.BODY_TOO_LARGE
        )


def _check_signed(body: bytes, digest: bytes | None) -> None:
    if digest is None or hmac.compare_digest(hashlib.sha256(body).digest(), digest):
        return
    raise PolicyDeniedError("The body is not the one that was signed.", Code.UNAUTHENTICATED)
