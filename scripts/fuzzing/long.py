"""The long run: very many executions of each target, in pieces, which goes on where it was stopped.

Each piece that is done, and each finding, is a line of a journal. The pieces of all targets take
turns, so that all have had about as much whenever it is stopped. What was found before is executed
anew first: what does nothing odd any more is noted as fixed, and counts no longer.
"""

import json
import platform
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scripts.fuzzing.run import Finding, Job, Run, Tally, words_of
from scripts.fuzzing.table import target_of
from scripts.fuzzing.target import input_of

PIECE_EXECUTIONS = 20_000
EXECUTIONS = 1_000_000


@dataclass
class Done:
    """What a journal says of one seed.

    Attributes:
        reached: by target and by the index at which a piece begins, how many of it are done.
        by_commit: by target, how many executions of the code of each commit.
        findings, fixed: their lines; what is fixed is in `fixed` alone.
    """

    seed: int
    reached: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_commit: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    findings: list[dict[str, Any]] = field(default_factory=list)
    fixed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        if line["seed"] != self.seed:
            return
        if "where" in line:
            self.findings.append(line)
            return
        if "fixed" in line:
            gone = [one for one in self.findings if _place(one) == (line["target"], line["fixed"])]
            self.findings = [one for one in self.findings if one not in gone]
            self.fixed += gone
            return
        name, first = line["target"], line["first"]
        self.reached[name][first // PIECE_EXECUTIONS] += line["executions"]
        self.tallies[name].add(line)
        self.by_commit[name][line["commit"]] += line["executions"]

    def of(self, targets: Sequence[str]) -> list[dict[str, Any]]:
        """What was found in these and is not fixed."""
        return [one for one in self.findings if one["target"] in targets]

    def left(self, targets: Sequence[str], executions: int) -> Iterator[Job]:
        """The pieces that are not done, or the ends of them."""
        for number, first in enumerate(range(0, executions, PIECE_EXECUTIONS)):
            size = min(PIECE_EXECUTIONS, executions - first)
            for name in targets:
                done = self.reached[name][number]
                if done < size:
                    yield Job(name, first + done, size - done, 1e9)


def _place(line: dict[str, Any]) -> tuple[str, int]:
    return line["target"], line["index"]


def read_journal(path: Path, seed: int) -> Done:
    """What was done before; a line that was cut off by the end of a run counts for nothing."""
    done = Done(seed)
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            done.add(said)
    return done


def run_long(run: Run, folder: Path, targets: Sequence[str], executions: int) -> Done:
    """Do what is left of `executions` of each target; `run` says how, its jobs are replaced.

    The journal and the report lie in `folder`, and serve a later run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "journal.jsonl"
    done = read_journal(path, run.seed)
    commit = _commit()
    with path.open("a") as journal:
        if path.stat().st_size:
            journal.write("\n")  # behind a line that was cut off, if need be

        def note(line: dict[str, Any]) -> None:
            line = {**line, "seed": run.seed, "commit": commit}
            journal.write(json.dumps(line) + "\n")
            journal.flush()
            done.add(line)

        def found(finding: Finding) -> None:
            store(finding, folder, run.seed)
            said = {name: value for name, value in asdict(finding).items() if name != "data"}
            note({**said, "again": finding.line(run.seed)})

        standing = []
        for line in done.of(targets):
            if again := _again(run, line, folder):
                standing.append(again)  # so that it is not journalled once more
                run.say(f"found before: {words_of(again, run.seed)}")
            else:
                note({"target": line["target"], "fixed": line["index"]})
                run.say(f"fixed: {line['target']}: {line['where']}: {line['said']}")
        replace(
            run,
            findings=standing,
            jobs=done.left(targets, executions),
            done=lambda job, said: note({"target": job.target, "first": job.first, **said}),
            found=found,
        ).go()
    (folder / "report.json").write_text(json.dumps(report(done, targets), indent=1) + "\n")
    return done


def _again(run: Run, line: dict[str, Any], folder: Path) -> Finding | None:
    """What a finding of the journal does by now, in a process of its own; None if it is fixed."""
    target, index = _place(line)
    kept = folder / _name(target, run.seed, index)
    data = kept.read_bytes() if kept.exists() else b""
    again = replace(
        run,
        jobs=[Job(target, index, 1, 1e9, data.hex())],
        processes=1,
        tallies={},
        findings=[],
        say=str,
    )
    again.go()
    return again.findings[0] if again.findings else None


def _name(target: str, seed: int, index: int) -> str:
    return f"{target}-{seed}-{index}"


def store(finding: Finding, folder: Path, seed: int) -> None:
    """Keep the input in a file; made again where its process died over it.

    Where it died in making it the file is empty: the fault is the mutator's, as the finding says.
    """
    target = target_of(finding.target)
    try:
        data = finding.data or input_of(target, target.inputs(), seed, finding.index)
    except Exception:  # noqa: BLE001 -- boundary: of a mutator, which is at fault then
        data = b""
    (folder / _name(finding.target, seed, finding.index)).write_bytes(data)


def report(done: Done, targets: Sequence[str]) -> dict[str, Any]:
    """For each target what was executed and how it ended, for somebody to read."""
    return {
        "seed": done.seed,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "targets": {
            name: {
                "executions": tally.executions,
                "executions_by_commit": dict(done.by_commit[name]),
                "seconds": round(tally.seconds, 1),
                "cpu_seconds": round(tally.cpu_seconds, 1),
                "taken": tally.ends["taken"],
                "errors_distinct": sum(end != "taken" for end in tally.ends),
                "ends": dict(tally.ends.most_common()),
                "findings": done.of([name]),
                "fixed": [one for one in done.fixed if one["target"] == name],
            }
            for name in targets
            for tally in [done.tallies[name]]
        },
    }


def _commit() -> str:
    """That of the code that runs, with a + where files were changed since; "" outside of git."""
    said = []
    for command in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "-uno"]):
        try:
            made = subprocess.run(["git", *command], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        said.append(made.stdout.strip())
    return said[0] + ("+" if said[1] else "")
