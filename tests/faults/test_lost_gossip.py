"""Records whose gossip never arrives."""

import pytest
from scripts.faulty_node import lossy
from scripts.nodes import NodeProcess, stop_all, wait_for
from scripts.offers import told
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.process


def test_what_gossip_loses_is_repaired(tmp_path):
    nodes = [NodeProcess(tmp_path / "a"), NodeProcess(tmp_path / "b", entry=lossy(1.0, seed=1))]
    speaker, deaf = nodes
    try:
        for node in nodes:
            node.start()
        deaf.cli("join", speaker.cli("invite", deaf.cli("id")["did"])["invitation"])

        about = ("--broader", "text-generation", "--label", "Small talk")
        record = str(speaker.cli("capability", "publish", "small-talk", *about)["record"])

        def held() -> bool:
            try:
                return bool(told(deaf, "record_show", id=record))
            except AigridError:
                return False

        def lost() -> int:
            return int(told(deaf, "status")["refused"]["network"]["gossip_lost"])

        wait_for(lost, timeout_seconds=PATIENCE_SECONDS, what="gossip that is lost")
        wait_for(held, timeout_seconds=2 * LIMITS.sync_interval_seconds, what="its record")
        assert deaf.cli("status")["refused"]["network"]["gossip_taken"] == 0
    finally:
        stop_all(nodes)
