"""N real node processes in one grid, and a live table of them until Ctrl-C: see docs/testnet.md.

Ctrl-C ends the nodes and tells what was; once more it kills them.

.venv/bin/python scripts/testnet.py --nodes 5
.venv/bin/python scripts/testnet.py --models echo --rate 5 --kill 6 --duration 120
"""

import argparse
import atexit
import json
import math
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.nodes import NodeFailedError
from scripts.running import commit
from scripts.testnets import namespaces
from scripts.testnets.grid import kill_below
from scripts.testnets.options import NAMESPACES, Options, add_to, options_of, replay_line
from scripts.testnets.report import report, summary
from scripts.testnets.run import InterruptedRunError, Run
from scripts.testnets.screen import screen_for

DATA_PREFIX = "aigrid-testnet-"
SIGNALLED = 128  # and the number of the signal: the exit status of what one has ended
SHOW_CURSOR = b"\x1b[?25h\n"  # the live table hides it


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="testnet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_to(parser)
    parser.add_argument("--json", metavar="FILE", help="write a report")
    parser.add_argument("--keep", action="store_true", help="keep data directories and logs")
    arguments = parser.parse_args()
    try:
        options = options_of(arguments)
        if arguments.json:
            _check_writable(Path(arguments.json))
    except ValueError as error:
        parser.error(str(error))
    if options.net == NAMESPACES and (reason := namespaces.why_not()):
        print(f"skipped: {reason}", file=sys.stderr)
        return 2
    return _run(options, arguments)


def _check_writable(file: Path) -> None:
    """Before all else: a run may take hours. Raises ValueError."""
    try:
        with file.open("a"):
            pass
    except OSError as error:
        raise ValueError(f"--json {file} cannot be written: {error.strerror}") from error


def _run(options: Options, arguments: argparse.Namespace) -> int:
    folder = Path(tempfile.mkdtemp(prefix=DATA_PREFIX))
    stop = _Stop(None if arguments.keep else folder)
    machine = {"cores": os.cpu_count(), "load_before": os.getloadavg(), "commit": commit()}
    with screen_for() as screen:
        run = Run(options, folder, screen, stopped=stop)
        failed, began = "", False
        try:
            run.start()
            began = True
            run.measure()
        except NodeFailedError as error:
            failed = str(error)
        except InterruptedRunError:
            failed = "" if began else "stopped before the grid was there"
        finally:
            try:
                screen.say("Stopping the nodes")
            finally:  # the terminal may be gone
                run.end()
                if not arguments.keep:
                    shutil.rmtree(folder, ignore_errors=True)
    if arguments.keep:
        print(f"data directories and logs: {folder}")
    if failed:
        print(f"Failed: {failed}", file=sys.stderr, flush=True)
        print(f"replay: {replay_line(options)}", flush=True)
        return 1
    run.facts.machine = {**machine, "load_after": os.getloadavg()}
    return _tell(report(run.facts), arguments.json)


class _Stop:
    """Whether a signal asked the run to end; a second one ends it at once, whatever it does then.

    The handler itself does that: an error raised from it would get lost in some places, and wait
    for nodes and threads in others.
    """

    def __init__(self, folder: Path | None) -> None:
        """`folder` is removed when it ends at once."""
        self._folder = folder
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # nothing is half started
            signal.signal(number, self._heard)

    def __call__(self) -> bool:
        return self._asked

    def _heard(self, number: int, _frame: object) -> None:
        # A terminal that goes away may say so more than once.
        if not self._asked or number == signal.SIGHUP:
            self._asked = True
            return
        if sys.platform == "linux":
            kill_below(os.getpid())
        else:
            atexit._run_exitfuncs()  # noqa: SLF001 -- each node has one that kills it
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), SHOW_CURSOR)
        os.write(sys.stderr.fileno(), b"ended at once: the nodes were killed\n")
        os._exit(SIGNALLED + number)


def _tell(found: dict[str, Any], file: str | None) -> int:
    written = True
    for line in summary(found):
        print(line)
    if file:
        try:
            Path(file).write_text(json.dumps(_plain(found), indent=1), encoding="utf-8")
            print(f"report {file}")
        except OSError as error:  # it could be written when the run began
            print(f"--json {file} cannot be written: {error.strerror}", file=sys.stderr)
            written = False
    print(f"replay: {found['replay']}", flush=True)
    if not found["well"]:
        return 1
    return 0 if written else 2


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
