"""Receipts and kill -9: what was said to be kept is there afterwards."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.node.policy.receipt_world import receipts

from aigrid.metagraph.store import Store
from aigrid.node.policy.receipt_queries import one

ROOT = Path(__file__).resolve().parents[3]
WRITER = """
import sys
from pathlib import Path
from aigrid.metagraph.store import Store
from tests.node.policy.receipt_world import expected, receipts
kept = receipts(Store(Path(sys.argv[1])))
for number in range(10**9):
    print(kept.unreceipted(expected(request_id=f"request-{number}")), flush=True)
"""


@pytest.mark.process
def test_what_was_kept_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline().strip() for _ in range(300)]
        os.kill(writer.pid, signal.SIGKILL)
    kept = receipts(Store(path))
    assert [one(kept.database, receipt_id).id for receipt_id in said] == said
    assert kept.database.row("PRAGMA integrity_check") == ("ok",)
