"""What bodies of all kinds are made of: names, addresses, branches, and whom a body is about."""

from itertools import pairwise
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import CAPABILITY, PRINTABLE

SubjectId = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(min_length=1, max_length=LIMITS.name_max_chars, pattern=PRINTABLE)]
Label = Annotated[str, Meta(max_length=LIMITS.name_max_chars, pattern=PRINTABLE)]
Multiaddr = Annotated[str, Meta(min_length=2, max_length=256, pattern=r"^/[!-~]+\Z")]
Addresses = Annotated[tuple[Multiaddr, ...], Meta(max_length=LIMITS.addresses_max)]
CapabilityName = Annotated[
    str, Meta(max_length=LIMITS.name_max_chars, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*\Z")
]
Capability = Annotated[
    str, Meta(max_length=LIMITS.capability_max_chars, pattern=rf"^({CAPABILITY})\Z")
]
# Roots of the shipped capabilities, each once, in order: so that a set of them has one spelling.
Branches = Annotated[tuple[CapabilityName, ...], Meta(max_length=LIMITS.branches_max)]
NO_BRANCH = "none"
LABEL_LANGUAGE = r"[a-z]{2,3}(-[a-z]{2})?"
Language = Annotated[str, Meta(pattern=rf"^{LABEL_LANGUAGE}\Z")]
JsonSchema = dict[str, Any]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
CAPABILITY_NAME = r"[a-z0-9]+(-[a-z0-9]+)*"


class SubjectBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What every `credentialSubject` has."""

    id: SubjectId


def about_itself(issuer: str, body: SubjectBody) -> None:
    """Raises VerificationError (`issuer_not_key`) for what a node says of another."""
    if body.id != issuer:
        raise VerificationError("only a node itself may say this", Code.ISSUER_NOT_KEY)


def check_branches(branches: tuple[str, ...]) -> None:
    """Raises VerificationError unless they ascend strictly."""
    if any(a >= b for a, b in pairwise(branches)):
        raise VerificationError("branches are named once, in ascending order")
