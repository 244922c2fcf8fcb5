"""Bodies of typed tasks: what a task request can carry, and nothing else."""

import json

import pytest

from aigrid.node.gateway.tasks import decode_task
from aigrid.protocol import messages
from aigrid.protocol.errors import InvalidRequestError

EDGES = (-(2**63), 2**63 - 1)


@pytest.mark.parametrize("number", EDGES)
def test_a_number_of_64_bits_is_carried(number: int) -> None:
    said = json.dumps({"input": "x", "parameters": {"a": number}}).encode()
    request = decode_task("translation", said).request
    sent = messages.Infer("req_00000001", "m", "m", request, bytes(16), b"")
    assert messages.decode_rpc_request(messages.encode(sent)) == sent


@pytest.mark.parametrize("number", [EDGES[0] - 1, EDGES[1] + 1, 10**30])
def test_a_number_that_no_message_carries_is_refused(number: int) -> None:
    said = json.dumps({"input": "x", "parameters": {"a": number}}).encode()
    with pytest.raises(InvalidRequestError):
        decode_task("translation", said)


def test_what_is_wrong_is_said_briefly() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_task("translation", json.dumps({"input": "x", "y" * 9000: 1}).encode())
    assert len(caught.value.message) < 500
