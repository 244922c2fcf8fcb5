"""Every hostile file that a check can refuse is refused, by the node and by each engine."""

import os
import stat
from pathlib import Path

import pytest
from tests.engines.hostile_files import CONTAINED, REFUSED, STOLEN, make_place, write

from aigrid.engines.base import ModelSource
from aigrid.engines.formats import detect, inspect
from aigrid.engines.onnx import OnnxEngine
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.protocol.errors import Code, EngineError

REFUSALS = {Code.UNSAFE_FILE, Code.UNSUPPORTED_MODEL, Code.UNSUPPORTED_QUANTISATION}


def test_there_are_many_and_each_has_its_own_name() -> None:
    names = [*REFUSED, *CONTAINED]
    assert len(set(names)) == len(names) >= 80


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused_by_the_node_and_by_every_engine(
    tmp_path: Path, name: str
) -> None:
    place = make_place(tmp_path)
    path = write(name, place)
    before = sorted(os.walk(tmp_path))
    with pytest.raises(EngineError) as refused:
        inspect(path)
    assert refused.value.code in REFUSALS
    for engine, kind in ((OnnxEngine(), "onnx"), (OnnxTextEngine(), "gguf")):
        source = ModelSource("bafyevil", kind, {f"model.{kind}": path}, "tabular")
        with pytest.raises(EngineError) as not_taken:
            engine.estimate(source)
        assert not_taken.value.code in REFUSALS
    assert sorted(os.walk(tmp_path)) == before
    assert not (place.outside / STOLEN).exists()


@pytest.mark.parametrize("name", [n for n in REFUSED if "pickle of" in n or ".pt2" in n])
def test_hidden_code_is_called_unsafe_whatever_the_file_is_called(
    tmp_path: Path, name: str
) -> None:
    path = write(name, make_place(tmp_path))
    if "protocol 0" in name or "protocol 1" in name:
        assert detect(path) == "pickle"
    with pytest.raises(EngineError) as refused:
        inspect(path)
    assert refused.value.code is Code.UNSAFE_FILE


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")  # who opens it for reading waits for a writer
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "device.onnx").symlink_to("/dev/zero")
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    for path in tmp_path.iterdir():
        assert not stat.S_ISREG(path.lstat().st_mode)
        with pytest.raises(EngineError) as refused:
            inspect(path)
        assert refused.value.code is Code.MODEL_FILE_MISSING
