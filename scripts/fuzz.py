"""Fuzzes every decoder of what comes from outside: see `scripts/fuzzing/command.py`.

    python -m scripts.fuzz --seconds 5
    python scripts/fuzz.py --help

What it needs takes seconds to import on a busy machine: a signal is to end that, too, quietly.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit status. 130: stopped by a signal; a long run goes on later."""
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):  # no process and no folder stays
            if signal.getsignal(number) is not signal.SIG_IGN:  # with `nohup` it is to go on
                signal.signal(number, signal.default_int_handler)
        from scripts.fuzzing import command

        return command.main(arguments)
    except KeyboardInterrupt:
        print("fuzz: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
