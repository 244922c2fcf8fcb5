"""Requests out of files, for a proof of what was asked."""

import pytest

from aigrid.node.policy.receipt_proof import request_in
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.receipt import request_hash


@pytest.mark.parametrize("seed", [2**63, 2**64, -(2**63) - 1, 10**30])
def test_a_request_that_no_hash_can_be_of_is_refused(seed: int) -> None:
    body = b'{"type":"text","prompt":"hello","seed":%d}' % seed
    if seed == 2**63:
        assert request_hash(b"s" * 16, request_in(body))
        return
    with pytest.raises(InvalidRequestError):
        request_in(body)
