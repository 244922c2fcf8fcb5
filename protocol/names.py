"""What names may hold: those people are shown, those that become names of files, and DIDs."""

from typing import Annotated

from msgspec import Meta

from aigrid.protocol.limits import LIMITS

# No control, line-separating or direction-changing characters. Here and elsewhere `\Z`: a `$` would
# let a line feed through at the end.
UNPRINTABLE = r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
PRINTABLE = rf"^[^{UNPRINTABLE[1:]}*\Z"
FileName = Annotated[
    str,
    Meta(max_length=LIMITS.name_max_chars, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*\Z"),
]
DID = r"did:key:z[1-9A-HJ-NP-Za-km-z]{40,64}"
Did = Annotated[str, Meta(max_length=80, pattern=rf"^{DID}\Z")]
# A name, or an IRI in the namespace of whoever issued it: `DID#name`.
CAPABILITY = rf"[a-z0-9]+(-[a-z0-9]+)*|{DID}#[a-z0-9]+(-[a-z0-9]+)*"
Region = Annotated[str, Meta(min_length=1, max_length=LIMITS.name_max_chars, pattern=PRINTABLE)]
