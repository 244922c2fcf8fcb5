"""Where a node's log goes, and what becomes of it when the disk is full."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from aigrid.node.cli.logs import LOG_FILE, configure


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("aigrid")
    handlers, levels, structured = (
        root.handlers[:],
        (root.level, ours.level),
        structlog.get_config(),
    )
    yield
    logging.captureWarnings(False)
    for handler in root.handlers:
        if handler not in handlers:
            with suppress(OSError):
                handler.close()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    structlog.configure(**structured)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_told_once_until_there_is_room_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / LOG_FILE
    path.symlink_to("/dev/full")
    configure(tmp_path, {"AIGRID_LOG": "error"})
    log = structlog.get_logger("aigrid.test")
    for number in range(3):
        log.info("of_a_full_disk", number=number)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.count(f"cannot write the log {path}: No space left on device") == 1

    (handler,) = (h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler))
    full = handler.stream
    with (tmp_path / "room").open("w", encoding="utf-8") as handler.stream:
        log.info("of_a_disk_with_room")
    assert "of_a_disk_with_room" in (tmp_path / "room").read_text()
    handler.stream = full
    log.info("of_a_full_disk")
    assert capsys.readouterr().err.count("cannot write the log") == 1


@pytest.mark.parametrize("level", ["debug", "warning"])
def test_libraries_are_heard_only_when_they_warn(tmp_path: Path, level: str) -> None:
    configure(tmp_path, {"AIGRID_LOG": level})
    logging.getLogger("multiaddr.transforms").debug("bytes_to_string: proto=tcp")
    logging.getLogger("multiaddr.transforms").warning("of_a_library")
    structlog.get_logger("aigrid.test").debug("ours")
    said = (tmp_path / LOG_FILE).read_text()
    assert "bytes_to_string" not in said
    assert "of_a_library" in said
    assert ("ours" in said) == (level == "debug")
