"""Whose word counts how much: `[trust]`."""

from pathlib import Path

import pytest
from tests.metagraph.world import ANN
from tests.node.settings.test_config import merged

from aigrid.node.settings.trust import TrustConfig
from aigrid.protocol.errors import UsageError


def test_members_and_named_nodes_have_weights(tmp_path: Path) -> None:
    assert merged(tmp_path).trust == TrustConfig()
    text = f'[trust]\nmembers = 0.5\n"{ANN.did}" = 1'
    assert merged(tmp_path, text).trust == TrustConfig({ANN.did: 1.0}, 0.5)
    spelled = {"AIGRID_TRUST": f"members=0,{ANN.did}=0.25"}
    assert merged(tmp_path, "", environment=spelled).trust == TrustConfig({ANN.did: 0.25}, 0.0)


@pytest.mark.parametrize("value", ["", "members", "members=2", "members=nan", "somebody=1", "=1"])
def test_what_is_no_weight_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match="trust"):
        merged(tmp_path, trust=value)
