"""What other members may know of how this node is: `[share]`."""

from pathlib import Path

import pytest
from tests.node.settings.test_config import merged

from aigrid.node.settings.share import ShareConfig
from aigrid.protocol.errors import UsageError


def test_vitals_are_shared_unless_the_operator_says_no(tmp_path: Path) -> None:
    assert merged(tmp_path).share == ShareConfig(vitals=True)
    assert merged(tmp_path, "[share]\nvitals = false").share == ShareConfig(vitals=False)
    assert merged(tmp_path, "", environment={"AIGRID_SHARE": "vitals=no"}).share.vitals is False


@pytest.mark.parametrize("value", ["", "vitals", "vitals=maybe", "all=true", 3, {"vitals": "x"}])
def test_what_cannot_be_meant_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(UsageError, match="share"):
        merged(tmp_path, share=value)
