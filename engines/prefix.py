"""How much of the last sequence a new one begins with as well."""

from collections.abc import Sequence


def reusable(kept: Sequence[int], tokens: Sequence[int], chunk: int) -> int:
    """Tokens whose keys and values need not be computed again, in whole chunks.

    The last token has to be computed in any case: its logits are what is asked for.

    Args:
        kept: tokens of the last sequence, up to the end of its last whole chunk.
        tokens: the new sequence.
        chunk: tokens that are computed at once.
    """
    common = 0
    for old, new in zip(kept, tokens[:-1], strict=False):
        if old != new:
            break
        common += 1
    return common // chunk * chunk
