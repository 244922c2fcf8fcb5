"""Whatever happens to the clock, the disk and the process: what was used serves no more."""

import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aigrid.metagraph.database import Database
from aigrid.node.policy.nonces import Nonces
from aigrid.protocol.errors import Code, LocalError, UsageError
from aigrid.protocol.limits import LIMITS

START_MS = 1_800_000_000_000
FEW = replace(LIMITS, nonces_kept_max=6, nonces_of_one_max=4)
LIFE_MS = LIMITS.presentation_ttl_seconds * 1000
Signed = tuple[str, str, int]  # holder, nonce, expiry


class Histories(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "records.db"
        self.database = Database(self.path)
        self.nonces = Nonces(self.database, limits=FEW)
        self.now = self.latest = START_MS
        self.full = False
        self.number = 0
        self.used: dict[Signed, bool] = {}  # whether it is on the disk
        self.last_ms = 0

    def present(self, signed: Signed) -> bool | None:
        """Whether it served; None where there was no room."""
        did, nonce, until_ms = signed
        assert until_ms > self.now
        failing = UsageError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)
        broken = mock.patch.object(self.database, "execute", side_effect=failing)
        refused: LocalError | None = None
        served = None
        with broken if self.full else nullcontext():
            try:
                served = self.nonces.use(did, nonce, until_ms=until_ms, now_ms=self.now)
            except LocalError as error:
                refused = error
        if refused is not None:
            assert refused.code is Code.RATE_LIMITED
            assert (refused.retry_after_seconds or 0) > 0
        assert len(self.nonces) <= FEW.nonces_kept_max  # what has expired is forgotten by now
        return served

    @rule(did=st.sampled_from("abc"), life_ms=st.sampled_from([1, 1000, LIFE_MS]))
    def a_new_one_serves_unless_there_is_no_room(self, did: str, life_ms: int) -> None:
        self.number += 1
        signed = (did, f"n{self.number}", self.now + life_ms)
        valid = [one for one in self.used if one[2] > self.now]
        served = self.present(signed)
        if served is None:
            of_one = sum(one[0] == did for one in valid)
            assert len(valid) >= FEW.nonces_kept_max or of_one >= FEW.nonces_of_one_max
        elif served:
            if not self.full:
                self.used = dict.fromkeys(self.used, True)
            self.used[signed] = not self.full
            self.last_ms = max(self.last_ms, signed[2])
        else:  # only where the clock has stepped back behind what is forgotten
            assert self.now < self.latest
            assert signed[2] <= self.last_ms
        self.latest = max(self.latest, self.now)

    @precondition(lambda self: any(one[2] > self.now for one in self.used))
    @rule(data=st.data())
    def one_that_was_used_serves_no_more(self, data: st.DataObject) -> None:
        valid = sorted(one for one in self.used if one[2] > self.now)
        assert self.present(data.draw(st.sampled_from(valid))) is not True

    @rule(step=st.sampled_from([1, 1000, LIFE_MS]))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(step=st.sampled_from([1, 1000, LIFE_MS]))
    def the_clock_steps_back(self, step: int) -> None:
        self.now -= step

    @rule(full=st.booleans())
    def the_disk_fills_or_is_freed(self, full: bool) -> None:
        self.full = full

    @rule()
    def the_node_is_killed(self) -> None:
        """What a full disk did not take is lost, as is said of it."""
        self.database.close()
        self.database = Database(self.path)
        self.nonces = Nonces(self.database, limits=FEW)
        self.used = {one: True for one, kept in self.used.items() if kept}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.database.close()
            self.folder.cleanup()


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_no_history_lets_one_serve_twice = Histories.TestCase
