"""Where a passphrase comes from: a file, the environment, or the person at the terminal.

Never from the command line, which every user of the machine can read. What is in the environment
is taken out of it, so that no child gets it.
"""

import getpass
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path

from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import LIMITS

VARIABLE = "AIGRID_PASSPHRASE"
STDIN = "-"


class PassphraseSource:
    """Call it for the passphrase; it is asked for once, and only when it is needed."""

    def __init__(
        self,
        file: str | None,
        environment: MutableMapping[str, str],
        *,
        asks: str = "Passphrase of this node's keys: ",
        again: str = "",
        options: str = "--passphrase-file FILE",
        variable: str = VARIABLE,
        prompt: Callable[[str], str] | None = None,
    ) -> None:
        """Take the variable out of `environment` now.

        Args:
            file: the file's path, `-` for standard input, None for neither.
            environment: where `variable` may be.
            asks: what a person is asked.
            again: what a person is asked to check that both are the same; "": nothing.
            options: what a program is told to use instead.
            variable: "" where there is none.
            prompt: asks a person without showing the answer; None: whoever is at the terminal.
        """
        self._file = file
        self._given = (environment.pop(variable, "") if variable else "") or None
        self._asks = asks
        self._again = again
        self._variable = variable
        self._options = options
        self._prompt = prompt
        self._found: str | None = None

    @property
    def named(self) -> bool:
        """Whether somebody said where it is, rather than leaving it to be asked for."""
        return self._file is not None or self._given is not None

    def __call__(self) -> str:
        """Raises UsageError: `passphrase_required`, or why the file cannot be used."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> str:
        if self._file is not None:
            return _first_line(self._file)
        if self._given is not None:
            return self._given
        prompt = self._prompt
        if prompt is None:
            if not sys.stdin or not sys.stdin.isatty():
                raise UsageError(
                    "a passphrase is needed, and there is no terminal to ask at: use"
                    f" `{self._options}`" + (f" or set {VARIABLE}" if self._variable else ""),
                    Code.PASSPHRASE_REQUIRED,
                )
            prompt = getpass.getpass
        said = prompt(self._asks)
        if self._again and prompt(self._again) != said:
            raise UsageError("the two passphrases differ; try again", Code.PASSPHRASE_WRONG)
        return said


def _first_line(file: str) -> str:
    """A passphrase may hold any character but the end of a line."""
    try:
        if file == STDIN:
            line = sys.stdin.buffer.readline(LIMITS.passphrase_max_bytes + 3)
        else:
            with Path(file).open("rb") as opened:
                line = opened.readline(LIMITS.passphrase_max_bytes + 3)
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the passphrase file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the passphrase file {file} is not text in UTF-8") from None
