"""What of the last sequence serves the next one."""

import pytest

from aigrid.engines.prefix import reusable


@pytest.mark.parametrize(
    ("kept", "tokens", "found"),
    [
        ([], [1, 2, 3], 0),
        ([1, 2, 3, 4], [1, 2, 3, 4, 5], 4),
        ([1, 2, 3, 4], [1, 2, 3, 4], 2),  # the last is computed in any case, and with it its chunk
        ([1, 2, 3, 4], [1, 2, 9, 4, 5], 2),
        ([1, 2, 3, 4], [9, 2, 3, 4, 5], 0),
        ([1, 2], [1], 0),
    ],
)
def test_only_whole_chunks_before_the_last_token_serve_again(kept, tokens, found) -> None:
    assert reusable(kept, tokens, 2) == found
