"""The invitation that waits for `up`, and the ready file."""

from types import SimpleNamespace

import pytest
import trio

from aigrid.node import daemon
from aigrid.node.key_store import keys
from aigrid.protocol.errors import Code, RemoteError, VerificationError


class Host:
    """Stands in for a node: answers redemptions one after the other."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.join_client = SimpleNamespace(redeem=self.redeem)

    async def redeem(self, text):
        await trio.sleep(1)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    "answers",
    [
        ["did:key:grid"],
        [RemoteError("away", Code.UNREACHABLE), "did:key:grid"],
        [VerificationError("used", Code.INVITATION_USED)],
    ],
)
async def test_an_invitation_is_kept_until_there_is_a_final_answer(
    tmp_path, autojump_clock, answers
):
    keys.store_pending_invitation(tmp_path, "invitation")
    host, done = Host(*answers), trio.Event()
    await daemon._redeem_pending(host, tmp_path, done)  # type: ignore[arg-type]
    assert done.is_set()
    assert host.answers == []
    assert keys.load_pending_invitation(tmp_path) is None


async def test_without_an_invitation_nothing_waits(tmp_path, autojump_clock):
    done = trio.Event()
    await daemon._redeem_pending(Host(), tmp_path, done)  # type: ignore[arg-type]
    assert done.is_set()


def test_a_ready_file_that_cannot_be_rewritten_ends_nothing(tmp_path):
    daemon._rewrite_ready(tmp_path / "missing" / "ready.json", {})
    daemon._rewrite_ready(tmp_path / "ready.json", {"pid": 1})
    assert (tmp_path / "ready.json").read_text() == '{"pid": 1}\n'
