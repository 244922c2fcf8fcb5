"""Requests out of files, for a proof of what was asked."""

import pytest

from aigrid.node.policy.receipt_proof import proved, requests_in
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import ChatMessage, TextRequest
from aigrid.protocol.receipt import prefix_hash, request_hash


@pytest.mark.parametrize("seed", [2**63, 2**64, -(2**63) - 1, 10**30])
def test_a_request_that_no_hash_can_be_of_is_refused(seed: int) -> None:
    body = b'{"type":"text","prompt":"hello","seed":%d}' % seed
    if seed == 2**63:
        assert all(request_hash(b"s" * 16, one) for one in requests_in(body))
        return
    with pytest.raises(InvalidRequestError):
        requests_in(body)


def test_bodies_of_completions_and_responses_are_known() -> None:
    first, second = requests_in(b'{"model":"m","prompt":["a",[1]]}')
    assert isinstance(first, TextRequest)
    assert isinstance(second, TextRequest)
    assert (first.prompt, second.token_ids) == ("a", (1,))
    (said,) = requests_in(b'{"model":"m","input":"a"}')
    assert isinstance(said, TextRequest)
    assert said.messages == (ChatMessage("user", "a"),)
    with pytest.raises(InvalidRequestError):
        requests_in(b'{"model":"m"}')


def test_the_receipt_of_each_choice_is_proved_by_the_one_request() -> None:
    body = b'{"model":"m","n":3,"seed":7,"messages":[{"role":"user","content":"x"}]}'
    asked, salt = requests_in(body), b"s" * 16
    for one in asked:
        hashes = request_hash(salt, one), prefix_hash(salt, one)
        assert proved(hashes, salt, *asked) == {"request": True, "prefix": True}
    other = requests_in(body.replace(b"7", b"10"))
    assert not proved((request_hash(salt, asked[0]), ""), salt, *other)["request"]
