"""Names of hosts. Imports nothing heavy, as the command line reads its settings with it."""

# A DNS name (RFC 1123): labels of at most 63 characters, at most 253 in all. `\Z`, as a `$` would
# let a line feed through at the end.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*"
