"""Reading a model takes place in a process of its own, and what that says is not believed."""

import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from tests.engines import bert_models
from tests.engines.bert_models import CONFIG, weights

from aigrid.engines.draft import Draft
from aigrid.node.workers.model_reading import checked, home_of, readable_in
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.errors import Code, EngineError

CARD = "---\nlicense: mit\n---\n"


@pytest.fixture
async def spawner(tmp_path: Path) -> AsyncIterator[ProcessSpawner]:
    made = ProcessSpawner(tmp_path / "logs")
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def said(spawner: ProcessSpawner, path: Path, task: str = "") -> Draft:
    return await spawner.read(path, task=task, formats=frozenset(), trusted=False)


def model(folder: Path) -> Path:
    folder.mkdir()
    bert_models.save(folder, CONFIG, weights(CONFIG))
    return folder


async def test_a_cache_of_the_hub_is_read_through_its_links(spawner, tmp_path: Path) -> None:
    blobs = model(tmp_path / "blobs")
    (blobs / "README.md").write_text(CARD)
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    draft = await said(spawner, snapshot)
    assert draft.task == "feature-extraction"
    assert draft.license_id == "MIT"
    assert draft.files["model.safetensors"] == snapshot / "model.safetensors"


async def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(spawner, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    os.mkfifo(folder / "README.md")
    with trio.fail_after(30):
        assert (await said(spawner, folder)).license_id == ""
        (folder / "config.json").unlink()
        os.mkfifo(folder / "config.json")
        with pytest.raises(EngineError) as caught:
            await said(spawner, folder)
    assert caught.value.code is Code.UNSUPPORTED_MODEL


async def test_a_folder_that_cannot_be_read_is_named(spawner, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        await said(spawner, tmp_path / "nowhere.gguf")
    assert caught.value.code is Code.MODEL_FILE_MISSING


async def test_a_header_full_of_text_is_refused(spawner, tmp_path: Path) -> None:
    """Each character takes four bytes in memory where one of them is beyond the usual planes."""
    text = b"a" * ((1 << 20) - 4) + "\U0001f600".encode()
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        key = b"a.list"
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key)
        file.write(struct.pack("<IIQ", 9, 8, 200))
        for _ in range(200):
            file.write(struct.pack("<Q", len(text)) + text)
    with pytest.raises(EngineError, match="bytes of text") as caught:
        await said(spawner, path)
    assert caught.value.code is Code.UNSAFE_FILE


def test_a_file_that_lies_elsewhere_is_no_part_of_the_model(tmp_path: Path) -> None:
    home = model(tmp_path / "m")
    good = Draft("gguf", {"model.gguf": home / "x.gguf"})
    assert checked(good, home) is good
    for bad in (Path("/etc/passwd"), tmp_path / "other", home / ".." / "other", Path("x")):
        with pytest.raises(EngineError) as caught:
            checked(Draft("gguf", {"model.gguf": bad}), home)
        assert caught.value.code is Code.UNSAFE_FILE


def test_a_name_that_no_file_can_have_is_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        home_of(tmp_path / ("x" * 600))
    assert caught.value.code is Code.MODEL_FILE_MISSING


def test_the_home_of_an_exported_graph_is_one_up(tmp_path: Path) -> None:
    home = model(tmp_path / "m")
    (home / "onnx").mkdir()
    assert home_of(home) == home_of(home / "config.json") == home
    assert home_of(home / "onnx" / "model.onnx") == home
    (home / "onnx" / "link").symlink_to(tmp_path / "blob")
    assert set(readable_in(home)) == {str(home), str(tmp_path / "blob")}
