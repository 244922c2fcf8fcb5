"""What all messages between peers have in common."""

import msgspec


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A msgpack map; the member `type` says which message it is."""
