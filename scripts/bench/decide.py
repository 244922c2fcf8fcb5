"""What a decision costs: a chain of four links and a membership, everything anew and remembered.

    python scripts/bench/decide.py --rounds 2000

Prints one JSON object: medians over turns of five, in microseconds and as multiples of one bare
Ed25519 verification, which is measured in the same turns. `anew` checks six signatures: those of
five credentials and that of the presentation; with `chain remembered` only the latter; `decide
alone` checks none.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts import policy_world as world
from scripts.bench.reporting import tell
from scripts.policy_cases import CHAIN, MEMBER
from scripts.presentation_cases import RAW

from aigrid.protocol import presentation
from aigrid.protocol.identity import verify_signature
from aigrid.protocol.policy import decide
from aigrid.protocol.record import verify_form_and_signature

REMEMBERED = {record.raw: record for record in (MEMBER, *CHAIN)}
MESSAGE = bytes(64)  # as long as what is signed of a record
SIGNATURE = world.OWNER.sign(MESSAGE)


def bare_verify() -> None:
    assert verify_signature(world.OWNER.public_key, MESSAGE, SIGNATURE)


def decide_alone() -> None:
    assert decide("invoke", ASKED, CREDENTIALS, POLICIES, STATUSES, world.NOW_MS).allowed


def whole(verify_credential: presentation.Verify) -> None:
    """What a serving node does with a request's presentation, nonces and budgets apart."""
    shown = presentation.verify(RAW, verify_credential=verify_credential)
    presentation.check(
        shown, EXPECTED, node=world.NODE.did, peer=world.GATEWAY.did, now_ms=world.NOW_MS
    )
    asked = world.asked(shown.holder, purpose=shown.binding.purpose)
    assert decide("invoke", asked, shown.credentials, POLICIES, STATUSES, world.NOW_MS).allowed


EXPECTED = world.binding()
ASKED, CREDENTIALS = world.asked(), [MEMBER, *CHAIN]
POLICIES, STATUSES = world.policies(), world.statuses()
STEPS: dict[str, Callable[[], None]] = {
    "one Ed25519 verification": bare_verify,
    "anew": lambda: whole(verify_form_and_signature),
    "chain remembered": lambda: whole(REMEMBERED.__getitem__),
    "decide alone": decide_alone,
}


def seconds_of(step: Callable[[], None], turns: int) -> float:
    began = perf_counter()
    for _ in range(turns):
        step()
    return (perf_counter() - began) / turns


def rows(rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    turns = 5
    taken: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(max(1, rounds // turns)):
        for name, step in STEPS.items():
            taken[name].append(seconds_of(step, turns))
    single = "one Ed25519 verification"
    bare = median(taken[single])
    for what in (step for step in STEPS if step != single):
        times = ([1e6 * one for one in taken[which]] for which in (what, single))
        tell(what, next(times), "us", beside=(single, next(times)))
    for name, found in taken.items():
        p50 = median(found)
        yield name, {"us_p50": round(p50 * 1e6, 1), "verifications": round(p50 / bare, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000, help="of each step")
    rounds = parser.parse_args().rounds
    said = {
        "python": platform.python_version(),
        "presentation_bytes": len(RAW),
        "rounds": rounds,
        **dict(rows(rounds)),
    }
    print(json.dumps(said, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
