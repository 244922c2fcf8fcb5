"""What names may hold that people are shown or that become names of files."""

from typing import Annotated

from msgspec import Meta

from aigrid.protocol.limits import LIMITS

# No control, line-separating or direction-changing characters. Here and elsewhere `\Z`: a `$` would
# let a line feed through at the end.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*\Z"
FileName = Annotated[
    str,
    Meta(max_length=LIMITS.name_max_chars, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*\Z"),
]
