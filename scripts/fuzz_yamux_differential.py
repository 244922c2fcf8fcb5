"""The same random Yamux conversations for our muxer, stock py-libp2p's and js-libp2p's.

    python -m scripts.fuzz_yamux_differential 10000 --seed 1

All must see the same streams, bytes and ends, but for the differences that are listed, with their
reasons, in `scripts/yamux/differences.py` and docs/data-path.md. A failure names the number of
its script; with `--only` that one alone is run, and shown. Without Node.js js-libp2p is left out.
"""

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import npm
from scripts.yamux import conversations, js, sides
from scripts.yamux.conversations import Script
from scripts.yamux.differences import CONNECTION, DIFFERENCES
from scripts.yamux.sides import Observed
from scripts.yamux.walk import Finding, findings


@dataclass
class Report:
    """`alike` and `listed` count comparisons; `unlisted` says what is wrong, by script and side."""

    scripts: int = 0
    alike: Counter[str] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)
    unlisted: list[str] = field(default_factory=list)


class Judges:
    """The other ends; `js_side` is None where there is no Node.js."""

    def __init__(self, js_side: js.JsSide | None) -> None:
        self._js = js_side

    def put_through(
        self, script: Script, others: Sequence[str] = ("stock", "js")
    ) -> dict[str, Observed]:
        """What came of `script` at ours and at these."""
        asks_js = self._js is not None and "js" in others
        if self._js is not None and asks_js:
            self._js.ask(script)
        here = ["ours", *(one for one in others if one in sides.SIDES)]
        seen = sides.put_through(here, script)
        if self._js is not None and asks_js:
            seen["js"] = self._js.answer()
        return seen

    def compare(self, script: Script, report: Report, label: str) -> None:
        """Put `script` through, and note in `report` what came of it."""
        report.scripts += 1
        seen = self.put_through(script)
        found = findings(script)
        for other in seen.keys() - {"ours"}:
            cut, apart = _scope(found, other)
            differs = difference(seen["ours"], seen[other], apart)
            if differs and cut is not None:
                report.listed[f"{other}: {cut.name}"] += 1
                shorter = script.until(cut.offset)
                again = self.put_through(shorter, (other,))
                differs = difference(again["ours"], again[other], apart)
            elif not differs:
                report.alike[other] += 1
            if differs:
                report.unlisted.append(f"{label}, {other}: {differs}")


def _scope(found: Sequence[Finding], other: str) -> tuple[Finding | None, frozenset[int]]:
    """Where comparing with `other` ends, and which streams are left out before."""
    apart: set[int] = set()
    for finding in found:
        listed = DIFFERENCES[finding.name]
        if other in listed.sides:
            if listed.reach == CONNECTION:
                return finding, frozenset(apart)
            apart.add(finding.stream_id)
    return None, frozenset(apart)


def difference(ours: Observed, theirs: Observed, apart: frozenset[int] = frozenset()) -> str:
    """The first thing that is not alike, leaving out streams of these ids; "" if all is.

    How a connection that ended took its leave is not compared: js sends RST for each stream and a
    go-away, ours and stock close the connection.
    """
    if ours.ended != theirs.ended:
        return f"ended: ours {ours.ended}, theirs {theirs.ended}"
    for key in sorted(ours.streams.keys() | theirs.streams.keys()):
        ids = int(key.split(".")[0])
        if ids not in apart and ours.streams.get(key) != theirs.streams.get(key):
            return f"stream {key}: {ours.streams.get(key)}, {theirs.streams.get(key)}"
    if ours.ended:
        return ""
    for what in ("pongs", "went_away"):
        if getattr(ours, what) != getattr(theirs, what):
            return f"{what}: {getattr(ours, what)}, {getattr(theirs, what)}"
    for stream_id in sorted(ours.written.keys() | theirs.written.keys()):
        wrote = ours.written.get(stream_id, 0), theirs.written.get(stream_id, 0)
        if stream_id not in apart and wrote[0] != wrote[1]:
            return f"written on {stream_id}: {wrote[0]}, {wrote[1]}"
    for what in ("finished", "reset"):
        mine, other = getattr(ours, what) - apart, getattr(theirs, what) - apart
        if mine != other:
            return f"{what}: {sorted(mine)}, {sorted(other)}"
    return ""


@contextlib.contextmanager
def judges(*, with_js: bool = True) -> Iterator[Judges]:
    """Raises npm.UnavailableError where js-libp2p is wanted and cannot be had."""
    if not with_js:
        yield Judges(None)
        return
    with js.running() as js_side:
        yield Judges(js_side)


def fuzz(all_of_them: Judges, numbers: Sequence[int], seed: int) -> Report:
    """Scripts of these numbers."""
    report = Report()
    for number in numbers:
        all_of_them.compare(conversations.script(seed, number), report, f"script {number}")
    return report


def show(script: Script, seen: dict[str, Observed]) -> None:
    print(f"dialer: {script.dialer}")
    for step in script.steps:
        print(step.hex()[:200] if isinstance(step, bytes) else step)
    for finding in findings(script):
        print(finding)
    for name, one in seen.items():
        print(name, one)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="how many scripts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one script, to show it")
    asked = parser.parse_args(arguments)
    numbers = range(asked.count) if asked.only is None else [asked.only]
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        try:
            three = stack.enter_context(judges())
        except npm.UnavailableError as error:
            print(f"without js-libp2p: {error}")
            three = stack.enter_context(judges(with_js=False))
        report = fuzz(three, numbers, asked.seed)
        if asked.only is not None:
            script = conversations.script(asked.seed, asked.only)
            show(script, three.put_through(script))
    for line in report.unlisted:
        print(line)
    for counts in (report.alike, report.listed):
        for name, count in counts.most_common():
            print(f"{count:7} {name}")
    print(f"{report.scripts} scripts, {time.perf_counter() - started:.0f} s")
    return 1 if report.unlisted else 0


if __name__ == "__main__":
    sys.exit(main())
