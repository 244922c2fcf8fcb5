"""Where a node's log goes, and what becomes of it when the disk is full."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from aigrid.node.cli.log_sparing import BURST, PER_SECOND, Sparing
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


def test_what_a_peer_causes_again_and_again_does_not_push_the_rest_out_of_the_log(
    tmp_path: Path,
) -> None:
    configure(tmp_path, {"AIGRID_LOG": "error"})
    log = structlog.get_logger("aigrid.node.network.gate")
    ours = structlog.get_logger("aigrid.node.mesh")
    for _ in range(500):
        log.info("stream_failed", peer="loud")
        log.info("of_nobody")
        ours.info("of_our_own")
    log.info("stream_failed", peer="quiet")
    said = (tmp_path / LOG_FILE).read_text()
    assert BURST <= said.count('"loud"') < 2 * BURST
    assert BURST <= said.count('"of_nobody"') < 2 * BURST
    assert said.count('"of_our_own"') == 500
    assert said.count('"quiet"') == 1


def test_the_next_line_says_how_many_were_left_out() -> None:
    now = 0.0
    sparing = Sparing(clock=lambda: now)
    logger = logging.getLogger("aigrid.node.network.gate")
    passed: list[structlog.typing.EventDict] = []

    def say(times: int) -> None:
        for _ in range(times):
            with suppress(structlog.DropEvent):
                passed.append(sparing(logger, "info", {"event": "stream_failed", "peer": "loud"}))

    say(int(BURST) + 30)
    assert len(passed) == BURST
    assert not any("left_out" in entry for entry in passed)
    now = 1.01 / PER_SECOND
    say(1)
    assert passed[-1]["left_out"] == 30
