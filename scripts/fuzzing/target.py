"""What is fuzzed: a function over bytes, what makes its inputs, the errors that it may raise."""

import atexit
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Protocol

from aigrid.protocol.errors import AigridError

INPUT_MAX_BYTES = 1 << 18
MESSAGE_MAX_CHARS = 2048
SCRATCH = "AIGRID_FUZZ_SCRATCH"  # names the folder of `scratch`


class RefusedError(Exception):
    """A decoder said no by other means than an error that leaves it; or it is raised from that."""


class Mutator(Protocol):
    """Makes inputs: the same generator in the same state makes the same one."""

    def make(self, rng: Random) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder.

    Attributes:
        name: as on the command line.
        inputs: makes the mutator; called once, in the process that fuzzes.
        run: decodes one input. An AssertionError is a finding like any other error.
            Where it catches refusals, and nothing was taken, it raises RefusedError from the last:
            so it is seen that some inputs are taken, and that not all are.
        may_raise: errors that are an answer. Those of ours must, besides, be fit to be shown.
    """

    name: str
    inputs: Callable[[], Mutator]
    run: Callable[[bytes], object]
    may_raise: tuple[type[Exception], ...]

    def refusal(self, data: bytes) -> Exception | None:
        """Run it; why the input was refused. Raises what is neither taken nor refused."""
        try:
            self.run(data)
        except RefusedError as error:
            return error.__cause__ if isinstance(error.__cause__, Exception) else error
        except self.may_raise as error:
            return error
        return None


def input_of(target: Target, mutator: Mutator, seed: int, index: int) -> bytes:
    """The input of one execution: it follows from these alone."""
    return mutator.make(Random(f"{target.name}/{seed}/{index}"))[:INPUT_MAX_BYTES]


class Ends:
    """How executions ended: taken, or refused, by the kind of the error and the line it comes from.

    How many kinds there are says how far into a decoder its inputs come.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[object, ...]] = Counter()

    def taken(self) -> None:
        self._counts[("taken",)] += 1

    def refused(self, error: BaseException) -> None:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        at = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace else ("", 0)
        self._counts[(type(error).__name__, getattr(error, "code", None), *at)] += 1

    def by_name(self) -> dict[str, int]:
        """Counts, under names such as `RemoteError unknown_field framing.py:12`."""
        found: Counter[str] = Counter()
        for (name, *more), count in self._counts.items():
            words = [str(name)]
            if more:
                code, file, line = more
                words += [str(getattr(code, "value", ""))] * (code is not None)
                words.append(f"{Path(str(file)).name}:{line}")
            found[" ".join(words)] += count
        return dict(found)


def execute(target: Target, data: bytes, ends: Ends | None = None) -> BaseException | None:
    """Run the target; what it should not have raised. `ends` is told how it ended otherwise.

    That includes what was raised where nobody can catch it, such as a callback of a C library.
    """
    with _unraisable() as lost:
        wrong = _execute(target, data, ends)
    return wrong or next(iter(lost), None)


@contextmanager
def _unraisable() -> Iterator[list[BaseException]]:
    lost: list[BaseException] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda what: lost.append(what.exc_value or RuntimeError(what.err_msg))
    try:
        yield lost
    finally:
        sys.unraisablehook = before


def _execute(target: Target, data: bytes, ends: Ends | None) -> BaseException | None:
    try:
        refusal = target.refusal(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 -- boundary: whatever it is, it is the finding
        return error
    if refusal is None:
        if ends is not None:
            ends.taken()
        return None
    if ends is not None:
        ends.refused(refusal)
    return _unfit(refusal)


def _unfit(error: Exception) -> BaseException | None:
    """Why an error of ours cannot be told to anybody, or None."""
    if not isinstance(error, AigridError):
        return None
    try:
        error.message.encode()
        assert len(error.message) <= MESSAGE_MAX_CHARS, f"{len(error.message)} characters"
        assert error.info is not None
    except Exception as unfit:  # noqa: BLE001 -- boundary: as above
        return unfit.with_traceback(error.__traceback__)
    return None


@cache
def scratch() -> Path:
    """A folder for inputs that are files: of who started this process, or one until its end."""
    given = os.environ.get(SCRATCH)
    if given:
        return Path(given)
    made = tempfile.TemporaryDirectory(prefix="aigrid-fuzz-")
    atexit.register(made.cleanup)
    return Path(made.name)


def as_file(data: bytes, name: str) -> Path:
    """`data` in a file, which the next of that name takes the place of."""
    path = scratch() / name
    path.write_bytes(data)
    return path
