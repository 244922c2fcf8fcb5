"""What the process of the dataset says, should a query have taken it over."""

import pytest

from aigrid.metagraph.dataset_ipc import Failed, decode_report, encode


@pytest.mark.parametrize("behind", [b"\x91" * 5000, b"\x81\xa1a" * 5000, b"\xc1", b""])
def test_what_is_no_report_is_a_value_error_however_deep(behind: bytes) -> None:
    body = b"\x94" + encode(Failed("busy", "x"))[5:] + behind
    with pytest.raises(ValueError, match=r"."):
        decode_report(body)
