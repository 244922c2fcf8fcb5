"""The rules of CONTRIBUTING.md that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("protocol", "metagraph", "engines", "node")
TIMELESS = ("protocol", "metagraph", "node")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
SUPPRESSION = re.compile(r"#\s*(type:\s*ignore(?!\[)|noqa(?!:\s*[A-Z]))")
UNFINISHED = re.compile(r"\b(TODO|FIXME)\b")
BROAD = re.compile(r"^\s*except\s*\*?\s*(:|\(?\s*(Base)?Exception\b)")
CLOCK = re.compile(r"\btime\.(sleep|time)\(")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    return enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def long_functions(text: str) -> list[tuple[str, int, int]]:
    return [
        (node.name, node.lineno, node.end_lineno - node.lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]


def unexplained(text: str) -> list[int]:
    """Lines that catch everything, do not raise it on, and have no comment there or above."""
    lines = text.splitlines()
    return [
        handler.lineno
        for handler in ast.walk(ast.parse(text))
        if isinstance(handler, ast.ExceptHandler)
        and BROAD.match(lines[handler.lineno - 1])
        and not (isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None)
        and "#" not in lines[handler.lineno - 1]
        and not lines[handler.lineno - 2].lstrip().startswith("#")
    ]


def test_files_are_short() -> None:
    found = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*FOLDERS)}
    assert [f"{p.relative_to(ROOT)}: {n}" for p, n in found.items() if n > FILE_LINES_MAX] == []


def test_functions_are_short() -> None:
    found = [
        f"{where(path, line)} {name}: {length} lines"
        for path in sources(*FOLDERS)
        for name, line, length in long_functions(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_catching_everything_is_explained() -> None:
    found = [
        where(path, number)
        for path in sources(*FOLDERS)
        for number in unexplained(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("pattern", "folders"),
    [
        pytest.param(UNFINISHED, (*FOLDERS, "scripts"), id="unfinished"),
        pytest.param(CLOCK, TIMELESS, id="clock"),
        pytest.param(SUPPRESSION, (*FOLDERS, "scripts", "tests"), id="suppression"),
    ],
)
def test_nothing_matches(pattern: re.Pattern[str], folders: tuple[str, ...]) -> None:
    found = [
        where(path, number)
        for path in sources(*folders)
        if path != Path(__file__).resolve()
        for number, line in numbered(path)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("pattern", "line", "hit"),
    [
        (SUPPRESSION, "x = 1  # noqa", True),
        (SUPPRESSION, "x = 1  # type: ignore", True),
        (SUPPRESSION, "x = 1  # type: ignore[arg-type]  # noqa: S311", False),
        (CLOCK, "time.sleep(1)", True),
        (CLOCK, "time.time()", True),
        (CLOCK, "time.time_ns()", False),
        (CLOCK, "trio.sleep(1)", False),
        (UNFINISHED, "# TODO: later", True),
    ],
)
def test_the_patterns_find_what_they_are_for(
    pattern: re.Pattern[str],
    line: str,
    hit: bool,
) -> None:
    assert bool(pattern.search(line)) is hit


def test_the_checks_find_what_they_are_for() -> None:
    broad = "try:\n    f()\nexcept {}\n    {}\n"
    assert unexplained(broad.format("Exception:", "pass")) == [3]
    assert unexplained(broad.format("BaseException as error:", "g(error)")) == [3]
    assert unexplained(broad.format("Exception:  # why", "pass")) == []
    assert unexplained(broad.format("BaseException:", "raise")) == []
    assert unexplained(broad.format("ValueError:", "pass")) == []
    assert long_functions("def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX) == [("f", 1, 71)]
    assert long_functions("def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1)) == []
