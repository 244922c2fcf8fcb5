"""Where a node's log goes: to `D/node.log`, and warnings also to the terminal.

The file has our own entries from `info` and those of the libraries from `warning`.
Tracebacks are plain: a renderer that prints local variables would write prompts and keys.
"""

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

from aigrid.node.cli.log_sparing import Sparing
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import LIMITS

LOG_FILE = "node.log"
_LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}


def configure(data_dir: Path, environment: Mapping[str, str]) -> None:
    """Set up structlog and the standard library's logging for this process.

    `AIGRID_LOG` (debug, info, warning, error) is what the terminal shows; default warning.

    Raises:
        UsageError: for another level, or when the log file cannot be written.
    """
    level = environment.get("AIGRID_LOG", "warning").lower()
    if level not in _LEVELS:
        raise UsageError(f"AIGRID_LOG must be one of {', '.join(_LEVELS)}")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        # First of all: what nobody is going to see costs next to nothing.
        processors=[
            structlog.stdlib.filter_by_level,
            Sparing(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers.clear()
    root.addHandler(_file_handler(data_dir / LOG_FILE, shared))
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(_LEVELS[level])
    terminal.setFormatter(
        _formatter(
            shared,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        )
    )
    if level != "debug":  # what libraries warn of is in the file
        terminal.addFilter(lambda entry: entry.name.startswith("aigrid"))
    root.addHandler(terminal)
    root.setLevel(logging.WARNING)  # of libraries: one of ours says thousands of lines below it
    logging.getLogger("aigrid").setLevel(min(logging.INFO, _LEVELS[level]))
    logging.captureWarnings(True)  # noqa: FBT003 - the standard library takes it by position


class _LogFile(RotatingFileHandler):
    """Says it once, on the terminal, when the file cannot be written, until it can be again.

    As it comes, every entry on a full disk would be a traceback of some hundred lines there.
    """

    _failures = 0
    _told = False

    def emit(self, record: logging.LogRecord) -> None:
        before = self._failures
        super().emit(record)
        if self._failures == before:
            self._told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._failures += 1
        if not self._told:
            self._told = True
            with suppress(OSError):
                sys.stderr.write(
                    f"aigrid: cannot write the log {self.baseFilename}: {error.strerror}\n"
                )


def _file_handler(path: Path, shared: list[structlog.typing.Processor]) -> logging.Handler:
    try:
        path.touch(mode=0o600)
        handler = _LogFile(path, maxBytes=LIMITS.log_max_bytes, backupCount=1)
    except OSError as error:
        raise UsageError(
            f"cannot write the log {path}: {error.strerror}", Code.DATA_DIRECTORY_UNUSABLE
        ) from None
    handler.setFormatter(_formatter(shared, structlog.processors.JSONRenderer()))
    return handler


def _formatter(
    shared: list[structlog.typing.Processor], renderer: structlog.typing.Processor
) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
