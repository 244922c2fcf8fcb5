"""The exceptions that carry a code of the closed list in `codes`."""

from typing import ClassVar, Final

from aigrid.protocol.codes import (
    CODES,
    EXIT_DENIED,
    EXIT_FAILED,
    EXIT_NO_CANDIDATE,
    EXIT_USAGE,
    POLICY,
    Code,
    CodeInfo,
)

__all__ = [
    "BREACHES",
    "CODES",
    "EXIT_DENIED",
    "EXIT_FAILED",
    "EXIT_NO_CANDIDATE",
    "EXIT_USAGE",
    "POLICY",
    "AigridError",
    "Code",
    "CodeInfo",
    "EngineError",
    "InvalidRequestError",
    "LocalError",
    "NoCandidateError",
    "PolicyDeniedError",
    "RemoteError",
    "UsageError",
    "VerificationError",
]


# What a peer said that no honest one says.
BREACHES: Final = frozenset({Code.PROTOCOL_VIOLATION, Code.FRAME_TOO_LARGE})


class AigridError(Exception):
    """Base of everything the grid raises on purpose.

    Attributes:
        code: one of the closed list.
        message: for a person; never a prompt, a key or a path of another machine.
        retry_after_seconds: when to try again, if known.
    """

    default: ClassVar[Code] = Code.INTERNAL

    def __init__(
        self,
        message: str,
        code: Code | None = None,
        *,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code if code is not None else self.default
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def info(self) -> CodeInfo:
        """HTTP status, exit status and next step of the code."""
        return CODES[self.code]

    def __str__(self) -> str:
        return self.message


class LocalError(AigridError):
    """This node, its files or its caller did something wrong."""


class UsageError(LocalError):
    """A command or its environment is wrong: exit status 2."""

    default = Code.USAGE


class InvalidRequestError(LocalError):
    """A client's request cannot be served as it is; `param` names the field."""

    default = Code.INVALID_REQUEST

    def __init__(self, message: str, code: Code | None = None, *, param: str | None = None) -> None:
        super().__init__(message, code)
        self.param = param


class RemoteError(AigridError):
    """A peer broke the protocol, went away, or answered with an error.

    `peer` is its PeerId, where known.
    """

    default = Code.PROTOCOL_VIOLATION

    def __init__(
        self,
        message: str,
        code: Code | None = None,
        *,
        peer: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, code, retry_after_seconds=retry_after_seconds)
        self.peer = peer


class VerificationError(AigridError):
    """A record, credential or invitation does not hold."""

    default = Code.MALFORMED


class PolicyDeniedError(AigridError):
    """Somebody entitled to say no said no."""

    default = Code.DENIED


class NoCandidateError(AigridError):
    """No live node can serve the request now."""

    default = Code.NO_CANDIDATE


class EngineError(AigridError):
    """A runtime refused, failed or died."""

    default = Code.ENGINE_FAILED
