"""The whole suite as two runs of pytest at once: `python -m scripts.lanes`.

Tests that start real nodes mostly wait for them, and the rest mostly computes: beside each other
the two take about as long as the longer one. Each line says which of them it is from, and what
failed is named once more at the end. The exit status is the worse of the two.
"""

import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO

LANES = {
    "process": (sys.executable, "-m", "pytest", "-m", "process"),
    "rest": (sys.executable, "-m", "pytest", "-m", "not process"),
}
NAMED_AGAIN = re.compile(r"(FAILED|ERROR) |=+ .* in [\d.]+s.* =+$")


def main(lanes: Mapping[str, Sequence[str]] = LANES) -> int:
    """Run the commands side by side; the highest exit status, 1 for one that a signal ended."""
    runs = {  # standard input is nobody's: two cannot read it
        name: subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for name, command in lanes.items()
    }
    width = max(map(len, runs))
    again: dict[str, list[str]] = {name: [] for name in runs}

    def show(name: str, lines: IO[str]) -> None:
        for line in lines:
            sys.stdout.write(f"{name:{width}} | {line.rstrip()}\n")
            sys.stdout.flush()
            if NAMED_AGAIN.match(line):
                again[name].append(line.rstrip())

    readers = [threading.Thread(target=show, args=(name, run.stdout)) for name, run in runs.items()]
    for reader in readers:
        reader.start()
    try:
        for reader in readers:
            reader.join()
        statuses = {name: run.wait() for name, run in runs.items()}
    except KeyboardInterrupt:  # both were told, too, and say what they have
        for run in runs.values():
            run.wait()
        return 130
    print()
    for name, lines in again.items():
        for line in lines or [f"ended with {statuses[name]}"]:
            print(f"{name:{width}} | {line}")
    return max(1 if status < 0 else status for status in statuses.values())


if __name__ == "__main__":
    sys.exit(main())
