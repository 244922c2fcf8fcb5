"""How much of answers is kept until they are checked, over all of them. Pure."""


class Room:
    """Bytes that are left."""

    def __init__(self, most_bytes: int) -> None:
        self.left_bytes = most_bytes

    def take(self, count: int) -> bool:
        """Whether there was room for so many."""
        if count > self.left_bytes:
            return False
        self.left_bytes -= count
        return True

    def give(self, count: int) -> None:
        """So many are not kept any more."""
        self.left_bytes += count
