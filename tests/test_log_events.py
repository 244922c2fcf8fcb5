"""Log events have names, not sentences: what varies, and what to do, is in the fields."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LOGGERS = {"log", "_log"}
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def events(source: str) -> list[tuple[int, list[object]]]:
    """The line of each log call, and the values that its first argument may have."""
    return [
        (call.lineno, _values(call.args[0]) if call.args else [None])
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in LEVELS
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in LOGGERS
    ]


def _values(argument: ast.expr) -> list[object]:
    if isinstance(argument, ast.IfExp):
        return [*_values(argument.body), *_values(argument.orelse)]
    return [argument.value if isinstance(argument, ast.Constant) else None]


def test_every_log_event_has_a_name_in_snake_case() -> None:
    wrong, count = [], 0
    for path in sorted(ROOT.joinpath("node").rglob("*.py")):
        for line, values in events(path.read_text(encoding="utf-8")):
            count += 1
            if not all(isinstance(value, str) and NAME.fullmatch(value) for value in values):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {values}")
    assert not wrong, "\n".join(wrong)
    assert count > 50  # or the loggers are called something else now


def test_loggers_are_called_log() -> None:
    names = {
        name
        for path in ROOT.joinpath("node").rglob("*.py")
        for name in re.findall(r"(\S+) = structlog\.get_logger", path.read_text(encoding="utf-8"))
    }
    assert names == LOGGERS


def test_sentences_and_texts_made_up_at_run_time_are_found() -> None:
    source = 'log.info("peer lost")\n_log.error(f"x{y}")\nlog.debug("a" if b else "C")\nlog.info()'
    assert [values for _, values in events(source)] == [["peer lost"], [None], ["a", "C"], [None]]
