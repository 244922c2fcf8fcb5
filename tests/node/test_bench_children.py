"""The processes that a bench starts: they talk in lines, and none is left."""

import os
import sys

import pytest
from scripts.bench.children import ChildFailedError, child
from tests.patience import PATIENCE_SECONDS

ECHO = "import json, sys\nprint('a log line', flush=True)\nfor line in sys.stdin:\n    print(json.dumps({'told': line.strip()}), flush=True)"


def python(code):
    return child([sys.executable, "-c", code])


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_reports_come_through_what_libraries_print_beside_them():
    with python(ECHO) as echo:
        for word in ("one", "two"):
            echo.tell(word)
            assert echo.report("told", PATIENCE_SECONDS) == {"told": word}


class Interruption(BaseException):
    pass


def interrupted(pids):
    with python(ECHO) as echo:
        pids.append(echo.pid)
        raise Interruption


def test_none_is_left_whatever_ends_the_bench():
    pids: list[int] = []
    with pytest.raises(Interruption):
        interrupted(pids)
    assert not alive(*pids)


def test_a_child_that_fails_is_quoted():
    with python("import sys; sys.exit('no such muxer')") as failing:
        with pytest.raises(ChildFailedError, match="no such muxer"):
            failing.report("told", PATIENCE_SECONDS)


def test_a_child_that_says_nothing_is_not_waited_for_longer_than_that():
    with python("import time; time.sleep(60)") as silent:
        with pytest.raises(ChildFailedError, match=r"silent for 0\.01 s"):
            silent.report("told", 0.01)


def test_a_program_that_is_not_there_is_a_failure_of_the_child():
    with pytest.raises(ChildFailedError), child(["/nonexistent/python"]):
        pass
