"""What is remembered of how requests went: it fades, is bounded, and is read back as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph.world import MODELS, NOW

from aigrid.metagraph.selection import Outcomes
from aigrid.node.learning.ledger import Ledger
from aigrid.protocol.evidence import Finding
from aigrid.protocol.limits import LIMITS

HALF_LIFE_MS = LIMITS.learned_half_life_seconds * 1000
notes = st.lists(
    st.tuples(
        st.sampled_from(["p", "q"]),
        st.sampled_from(MODELS),
        st.sampled_from(["text-generation", "translation"]),
        st.booleans(),
        st.none() | st.floats(0, 1e6),
        st.integers(0, 10 * HALF_LIFE_MS),
    ),
    max_size=30,
)


def noted(made: list, ledger: Ledger | None = None) -> Ledger:
    ledger = ledger or Ledger()
    for peer, model, capability, served, latency_ms, after_ms in made:
        ledger.note(
            peer, model, capability, served=served, latency_ms=latency_ms, now_ms=NOW + after_ms
        )
    return ledger


def test_counts_are_halved_every_half_life():
    ledger = noted([("p", MODELS[0], "translation", True, 40.0, 0)] * 4)
    ledger.note("p", MODELS[0], "translation", served=False, latency_ms=None, now_ms=NOW)
    (later,) = ledger.outcomes("p", NOW + HALF_LIFE_MS).values()
    assert later == Outcomes(2.0, 0.5, 40.0)
    assert ledger.outcomes("p", NOW + 100 * HALF_LIFE_MS)[MODELS[0]].served < 1e-9


@given(notes, st.integers(0, 20 * HALF_LIFE_MS))
def test_what_is_remembered_is_never_more_than_what_was_noted(made, later_ms):
    ledger = noted(made)
    for peer in ("p", "q"):
        of = [one for one in made if one[0] == peer]
        found = ledger.outcomes(peer, NOW + later_ms)
        assert found.keys() == {one[1] for one in of}
        assert sum(one.served for one in found.values()) <= sum(one[3] for one in of)
        assert sum(one.failed for one in found.values()) <= sum(not one[3] for one in of)
        for model, outcomes in found.items():
            timed = [one[4] for one in of if one[1] == model and one[4] is not None]
            assert (outcomes.latency_ms is None) == (not timed)
            if outcomes.latency_ms is not None:
                assert min(timed) - 1e-6 <= outcomes.latency_ms <= max(timed) + 1e-6


@given(notes)
def test_it_is_read_back_as_it_was(made):
    ledger, again = noted(made), Ledger()
    for peer in ledger.peers():
        again.load(peer, ledger.dump(peer))
        assert again.outcomes(peer, NOW) == ledger.outcomes(peer, NOW)
        assert again.findings(peer, NOW) == ledger.findings(peer, NOW)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"model":"m"}]', '[{"served":-1}]'])
def test_what_was_not_written_by_it_is_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        Ledger().load("p", text)


def test_those_not_added_to_for_longest_are_forgotten_first():
    ledger, most = Ledger(), LIMITS.learned_nodes_max
    forgotten = [
        ledger.note(f"p{n}", "m", "c", served=True, latency_ms=None, now_ms=NOW)
        for n in range(most + 2)
    ]
    assert forgotten[-3:] == [(), ("p0",), ("p1",)]
    for n in range(LIMITS.learned_tallies_max + 5):
        ledger.note("p9", f"m{n}", "c", served=True, latency_ms=None, now_ms=NOW)
    kept = ledger.outcomes("p9", NOW)
    assert len(kept) == LIMITS.learned_tallies_max
    assert "m0" not in kept


def test_a_capability_can_be_looked_at_alone():
    ledger = noted(
        [
            ("p", MODELS[0], "translation", True, 10.0, 0),
            ("p", MODELS[0], "text-generation", False, None, 0),
        ]
    )
    one = ledger.outcomes("p", NOW, lambda name: name == "translation")
    assert one == {MODELS[0]: Outcomes(1.0, 0.0, 10.0)}
    assert ledger.outcomes("p", NOW)[MODELS[0]] == Outcomes(1.0, 1.0, 10.0)


def test_findings_are_rounded_ascend_and_leave_out_what_says_nothing():
    ledger = noted([("p", model, "translation", True, 12.4, 0) for model in MODELS])
    for wrong in (True, False, False):
        ledger.audited("p", MODELS[0], "translation", wrong=wrong, now_ms=NOW)
    found = ledger.findings("p", NOW)
    assert [one.model for one in found] == sorted(MODELS)
    assert Finding(MODELS[0], "translation", 1, 0, 12, 3, 1) in found
    assert ledger.audits("p", NOW) == (3.0, 1.0)
    assert ledger.findings("p", NOW + 3 * HALF_LIFE_MS) == ()
    assert ledger.findings("stranger", NOW) == ()


def test_standing_moves_with_audits_fades_and_is_read_back():
    ledger, again = Ledger(), Ledger()
    for wrong in (True, *[False] * 30):
        ledger.audited("p", MODELS[0], "translation", wrong=wrong, now_ms=NOW)
    assert ledger.standing("p", NOW) == 30
    assert ledger.standing("p", NOW + HALF_LIFE_MS) == 15
    assert ledger.standing("stranger", NOW) == 0
    again.load("p", ledger.dump("p"))
    assert again.standing("p", NOW + HALF_LIFE_MS) == 15
    again.audited("p", MODELS[1], "translation", wrong=True, now_ms=NOW + HALF_LIFE_MS)
    assert again.standing("p", NOW + HALF_LIFE_MS) == max(0, 15 - LIMITS.audit_wrong_cost)


def test_what_was_written_before_there_were_audits_is_read():
    ledger = Ledger()
    ledger.load("p", '[{"model":"m","capability":"c","served":3}]')
    assert ledger.outcomes("p", 0)["m"].served == 3
    assert ledger.standing("p", NOW) == 0


def test_a_clock_that_was_set_back_takes_no_standing():
    ledger = Ledger()
    ledger.audited("p", "m", "c", wrong=False, now_ms=NOW)
    ledger.audited("p", "m", "c", wrong=False, now_ms=NOW - HALF_LIFE_MS)
    assert ledger.standing("p", NOW) == 2


def test_standing_is_forgotten_with_its_node():
    ledger = Ledger()
    ledger.audited("p", "m", "c", wrong=False, now_ms=NOW)
    for n in range(LIMITS.learned_nodes_max):
        ledger.note(f"p{n}", "m", "c", served=True, latency_ms=None, now_ms=NOW)
    assert ledger.standing("p", NOW) == 0
