"""The model of `scripts/bench/audits.py`: small, seeded, and what it has to show at all."""

from statistics import fmean

import pytest
from scripts.bench.audits import WAYS_TO_CHOOSE, run

from aigrid.protocol.limits import LIMITS


@pytest.mark.parametrize("name", WAYS_TO_CHOOSE)
@pytest.mark.parametrize("way", ["always", "restart", "two_agree"])
def test_audits_leave_few_of_the_answers_of_cheats(name, way):
    strategy = WAYS_TO_CHOOSE[name]
    plain = run(way, strategy, 0.0, 3, 150)
    audited = run(way, strategy, LIMITS.audit_share, 3, 150)
    assert sum(audited.cheated) < sum(plain.cheated) / 2
    assert not sum(plain.checks)


def test_the_honest_are_not_blamed_where_nothing_is_off():
    made = run("always", WAYS_TO_CHOOSE["balanced"], LIMITS.audit_share, 4, 150)
    assert made.blamed == 0
    assert fmean(made.checks[75:]) < fmean(made.checks[:75])
