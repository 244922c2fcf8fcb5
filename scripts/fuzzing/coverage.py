"""Which lines of our code the executions of a target come to: how deep its inputs get.

Counted are the lines of functions that were entered, not those that run when a module is imported:
a function that a target never enters may be none of its business.
"""

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

from scripts.fuzzing.target import Target, execute, input_of

ROOT = Path(__file__).parents[2]
PARTS = ("engines", "metagraph", "node", "protocol")


@dataclass
class Reached:
    """Lines by function.

    Attributes:
        missing: by the code of each function entered, its lines that were not reached.
        lines: the same, how many lines it has.
    """

    missing: dict[CodeType, set[int]] = field(default_factory=dict)
    lines: dict[CodeType, int] = field(default_factory=dict)

    def share(self) -> tuple[int, int]:
        """How many lines were reached, of how many in the functions that were entered."""
        whole = sum(self.lines.values())
        return whole - sum(map(len, self.missing.values())), whole

    def gaps(self) -> list[tuple[str, list[int]]]:
        """Functions with lines that were not reached, those with the most first."""
        found = [
            (f"{_name(code)}:{code.co_qualname}", sorted(lines))
            for code, lines in self.missing.items()
            if lines
        ]
        return sorted(found, key=lambda one: -len(one[1]))


class Tracer:
    """Notes lines of our code; a function whose lines were all seen is traced no more."""

    def __init__(self) -> None:
        self.reached = Reached()
        self._ours: dict[str, bool] = {}

    def __enter__(self) -> Self:
        threading.settrace(self._call)
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)

    def _call(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        missing = self.reached.missing.get(code)
        if missing is None:
            if not self._is_ours(code.co_filename):
                return None
            lines = lines_of(code)
            missing = self.reached.missing[code] = set(lines)
            self.reached.lines[code] = len(lines)
        return self._line if missing else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        missing = self.reached.missing[frame.f_code]
        missing.discard(frame.f_lineno)
        return self._line if missing else None

    def _is_ours(self, filename: str) -> bool:
        known = self._ours.get(filename)
        if known is None:
            path = Path(filename).resolve()
            known = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PARTS
            self._ours[filename] = known
        return known


def lines_of(code: CodeType) -> set[int]:
    """Lines with instructions of a function itself; its head and the functions in it apart."""
    return {line for _, _, line in code.co_lines() if line is not None} - {code.co_firstlineno}


def measure(target: Target, seed: int, executions: int) -> Reached:
    """Execute the first inputs of a target, and say where they came to."""
    mutator = target.inputs()
    tracer = Tracer()
    for index in range(executions):
        data = input_of(target, mutator, seed, index)
        with tracer:
            execute(target, data)
    return tracer.reached


HEADING = f"{'target':22} {'functions':>9} {'lines':>6} {'reached':>7} {'share':>6}"


def line_of(name: str, reached: Reached) -> str:
    """A line of a table: functions that were entered, their lines, and how many were reached."""
    seen, whole = reached.share()
    return f"{name:22} {len(reached.lines):9} {whole:6} {seen:7} {seen / max(1, whole):6.1%}"


def together(reached: dict[str, Reached]) -> Reached:
    """What all targets reach between them: a line that one of them reached is not missing."""
    whole = Reached()
    for one in reached.values():
        for code, missing in one.missing.items():
            whole.lines[code] = one.lines[code]
            whole.missing[code] = whole.missing.get(code, missing) & missing
    return whole


def _name(code: CodeType) -> str:
    return str(Path(code.co_filename).resolve().relative_to(ROOT))
