"""What is broken on purpose, and shows nothing: refused before the run, or not well after it."""

from collections import Counter
from pathlib import Path

import pytest
from scripts.simulation.attacks.defences import DEFENCES, without
from scripts.simulation.attacks.occasions import TOUCHED, unshown
from scripts.simulation.options import options_of
from scripts.simulation.plants import PLANTS, planted, swapped
from scripts.simulation.run import simulate


def test_a_bug_that_shows_nowhere_is_told_of(tmp_path: Path) -> None:
    """No answer breaks off where no engine crashes."""
    said = {"nodes": 4, "duration_seconds": 4.0, "holders": 2, "plant": "failover"}
    outcome = simulate(options_of("steady", said), tmp_path)
    assert [(one.name, one.what) for one in outcome.violations] == [
        ("checked", "the bug `failover` showed nowhere; its code ran 0 times")
    ]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_bug_that_is_caught_needs_no_more(plant: str) -> None:
    options = options_of("", {"plant": plant})
    assert not [*unshown(options, Counter(), Counter(), caught=True)]
    (said,) = unshown(options, Counter(any=3), Counter(), caught=False)
    assert "3 times" in said


@pytest.mark.parametrize("name", ["freshness", "repair", "expiry", "experience"])
def test_a_defence_whose_code_never_ran_is_told_of(name: str) -> None:
    options = options_of("", {"without": name})
    (swap,) = DEFENCES[name].made()
    (said,) = unshown(options, Counter(), Counter(), caught=True)
    assert f"`{name}`" in said
    assert not [*unshown(options, Counter(), Counter({swap[1]: 1}), caught=False)]


def test_a_limit_that_is_lifted_has_no_code_to_run() -> None:
    options = options_of("poison", {"without": "silence"})
    assert not [*unshown(options, Counter(), Counter(), caught=False)]


def test_code_that_is_put_somewhere_is_counted() -> None:
    class Place:
        @staticmethod
        def of(number: int) -> int:
            return number

    with swapped([(Place, "of", lambda _self: 7)]) as ran:
        assert not ran
        assert vars(Place)["of"](1) == 7
        assert ran == {"of": 1}
    with planted("") as ran, without("") as left_out:
        assert not ran
        assert not left_out


def test_what_is_refused_names_those_that_the_run_touches() -> None:
    with pytest.raises(ValueError, match=r"nonces shows nothing without a replay") as refused:
        options_of("poison", {"without": "nonces"})
    named = set(str(refused.value).partition("touches ")[2].split(", "))
    assert {"chunks", "files", "faults", "silence"} < named
    assert not named & {"nonces", "quotas", "unhinted"}
    assert set(DEFENCES) > set(TOUCHED)
