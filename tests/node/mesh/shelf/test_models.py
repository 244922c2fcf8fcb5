"""Models on disk: whole, as described, or not there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from tests.node.mesh.shelf.shelf import described, echo_model, empty_shelf

from aigrid.node.mesh.shelf import copying
from aigrid.node.mesh.shelf.copying import inline
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.model import ModelDescription, ModelFile, model_id

T = TypeVar("T")
DATA = b"weights" * 1000


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "w").write_bytes(DATA)
    return tmp_path


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_a_model_is_copied_and_found_again_after_a_restart(here: Path) -> None:
    models = await empty_shelf(here / "models")
    description = described("w.onnx", DATA)
    model = await models.add(description, {"w.onnx": here / "w"})
    assert model == model_id(description)
    (here / "w").write_bytes(b"changed")
    again = await empty_shelf(here / "models")
    assert again.list() == {model: description}
    source = again.source(model)
    assert source.files["w.onnx"].read_bytes() == DATA
    assert source.files["w.onnx"].is_absolute()
    assert (source.format, source.task) == ("onnx", "tabular-classification")
    assert await again.add(description, {"w.onnx": here / "absent"}) == model


async def test_copies_are_never_links(here: Path) -> None:
    models = await empty_shelf(here / "models")
    (here / "link").symlink_to(here / "w")
    model = await models.add(described("w.onnx", DATA), {"w.onnx": here / "link"})
    copy = models.source(model).files["w.onnx"]
    assert not copy.is_symlink()
    assert copy.stat().st_nlink == 1
    assert copy.stat().st_ino != (here / "w").stat().st_ino


@pytest.mark.parametrize(
    "wrong",
    [
        ModelFile("w.onnx", "0" * 64, len(DATA)),
        ModelFile("w.onnx", described("w", DATA).files[0].sha256, len(DATA) - 1),
        ModelFile("w.onnx", described("w", DATA).files[0].sha256, len(DATA) + 1),
    ],
)
async def test_what_is_not_as_described_is_refused_and_leaves_nothing(
    here: Path, wrong: ModelFile
) -> None:
    models = await empty_shelf(here / "models")
    description = ModelDescription("onnx", "x", (wrong,))
    with pytest.raises(AigridError) as refused:
        await models.add(description, {"w.onnx": here / "w"})
    assert refused.value.code is Code.HASH_MISMATCH
    assert left_in(here / "models") == []
    assert models.list() == {}


@pytest.mark.parametrize("name", ["../w", "a/b", ".hidden", "", "x" * 200, "a\n"])
async def test_a_name_that_leaves_the_folder_is_refused(here: Path, name: str) -> None:
    models = await empty_shelf(here / "models")
    with pytest.raises(AigridError) as refused:
        await models.add(described(name, DATA), {name: here / "w"})
    assert refused.value.code is Code.MALFORMED
    assert left_in(here) == ["models", "w"]


@pytest.mark.parametrize("files", [{}, {"w.onnx": "w", "more": "w"}, {"other": "w"}])
async def test_the_files_have_to_be_those_described(here: Path, files: dict[str, str]) -> None:
    models = await empty_shelf(here / "models")
    with pytest.raises(AigridError) as refused:
        await models.add(
            described("w.onnx", DATA), {name: here / path for name, path in files.items()}
        )
    assert refused.value.code is Code.MALFORMED


@pytest.mark.parametrize("path", ["absent", ".", "pipe"])
async def test_a_source_that_is_no_file_is_missing(here: Path, path: str) -> None:
    os.mkfifo(here / "pipe")
    models = await empty_shelf(here / "models")
    with pytest.raises(AigridError) as refused:
        await models.add(described("w.onnx", DATA), {"w.onnx": here / path})
    assert refused.value.code is Code.MODEL_FILE_MISSING
    assert left_in(here / "models") == []


async def test_a_full_disk_is_said_and_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = await empty_shelf(here / "models")

    def full(_stream: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copying, "sync", full)
    with pytest.raises(AigridError, match="disk is full") as refused:
        await models.add(described("w.onnx", DATA), {"w.onnx": here / "w"})
    assert refused.value.code is Code.DATA_DIRECTORY_UNUSABLE
    assert left_in(here / "models") == []


async def test_a_model_larger_than_the_disk_is_refused_before_copying(here: Path) -> None:
    models = await empty_shelf(here / "models")
    huge = ModelDescription("onnx", "x", (ModelFile("w.onnx", "0" * 64, 2**52),))
    with pytest.raises(AigridError, match="are free") as refused:
        await models.add(huge, {"w.onnx": here / "w"})
    assert refused.value.code is Code.DATA_DIRECTORY_UNUSABLE


async def test_a_cancelled_copy_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "STEP_BYTES", 10)
    steps = 0

    async def slowly(function: Callable[[], T]) -> T:
        nonlocal steps
        steps += 1
        if steps == 20:
            scope.cancel()
        return await inline(function)

    models = LocalModels(here / "models", run_blocking=slowly)
    await models.open()
    with trio.CancelScope() as scope:
        await models.add(described("w.onnx", DATA), {"w.onnx": here / "w"})
    assert scope.cancelled_caught
    assert left_in(here / "models") == []


async def test_unfinished_and_damaged_folders_are_not_models(here: Path) -> None:
    models = await empty_shelf(here / "models")
    model = await models.add(described("w.onnx", DATA), {"w.onnx": here / "w"})
    (here / "models" / ".incoming-1").mkdir()
    (here / "models" / "nonsense").mkdir()
    assert list((await empty_shelf(here / "models")).list()) == [model]
    assert left_in(here / "models") == sorted([model, "nonsense"])
    file = models.source(model).files["w.onnx"]
    file.write_bytes(DATA[:-1])
    with pytest.raises(AigridError) as missing:
        models.source(model)
    assert missing.value.code is Code.MODEL_FILE_MISSING
    damaged = await empty_shelf(here / "models")
    assert damaged.list() == {}
    assert await damaged.add(described("w.onnx", DATA), {"w.onnx": here / "w"}) == model
    assert damaged.source(model).files["w.onnx"].read_bytes() == DATA


@pytest.mark.parametrize("hard", [True, False])
async def test_a_link_in_the_place_of_a_file_is_not_believed(here: Path, hard: bool) -> None:
    data = b"weights"
    (here / "model.onnx").write_bytes(data)
    models = await empty_shelf(here / "models")
    model = await models.add(described("model.onnx", data), {"model.onnx": here / "model.onnx"})
    inside = here / "models" / model / "files" / "model.onnx"
    inside.unlink()
    if hard:
        inside.hardlink_to(here / "model.onnx")
    else:
        inside.symlink_to(here / "model.onnx")
    with pytest.raises(AigridError) as refused:
        models.source(model)
    assert refused.value.code is Code.MODEL_FILE_MISSING
    assert (await empty_shelf(here / "models")).list() == {}


async def test_each_model_has_a_cache_of_its_own_that_goes_with_it(here: Path) -> None:
    models = LocalModels(here / "models", cache_directory=here / "cache", run_blocking=inline)
    await models.open()
    found = [await models.add(echo_model(delay_ms=delay), {}) for delay in (1, 2)]
    caches = [models.source(model).cache_directory for model in found]
    assert caches == [here / "cache" / model for model in found]
    for cache in caches:
        assert cache is not None
        cache.mkdir(parents=True)
    await models.discard(found[0])
    assert list((here / "cache").iterdir()) == [caches[1]]


async def test_a_renamed_folder_is_not_believed(here: Path) -> None:
    models = await empty_shelf(here / "models")
    model = await models.add(described("w.onnx", DATA), {"w.onnx": here / "w"})
    other = model_id(echo_model())
    (here / "models" / model).rename(here / "models" / other)
    assert (await empty_shelf(here / "models")).list() == {}


async def test_a_removed_model_is_gone(here: Path) -> None:
    models = await empty_shelf(here / "models")
    model = await models.add(described("w.onnx", DATA), {"w.onnx": here / "w"})
    await models.discard(model)
    assert left_in(here / "models") == []
    for ask in (models.source, models.description):
        with pytest.raises(AigridError) as unknown:
            ask(model)
        assert unknown.value.code is Code.MODEL_NOT_FOUND


async def test_a_model_without_files_needs_none(here: Path) -> None:
    models = await empty_shelf(here / "models")
    model = await models.add(echo_model(delay_ms=5), {})
    assert models.source(model).options == {"delay_ms": 5}


async def test_progress_is_told_in_tenths(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "STEP_BYTES", 10)
    told: list[str] = []

    async def progress(what: str) -> None:
        told.append(what)

    models = await empty_shelf(here / "models")
    await models.add(described("w.onnx", DATA), {"w.onnx": here / "w"}, progress=progress)
    assert told == [f"copying w.onnx: {n} %" for n in range(10, 101, 10)]


async def test_a_file_that_was_tampered_with_is_found_before_it_is_loaded(here: Path) -> None:
    models = await empty_shelf(here / "models")
    model = await models.add(described("w.onnx", DATA), {"w.onnx": here / "w"})
    await models.check(model)
    (path,) = models.source(model).files.values()
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(AigridError) as refused:
        await models.check(model)
    assert refused.value.code is Code.HASH_MISMATCH
    models.set_aside(model)
    assert model not in models.list()
    assert path.exists()


async def test_what_was_just_hashed_is_not_hashed_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = await empty_shelf(here / "models")
    files = {"w.onnx": here / "w"}
    model = await models.add(described("w.onnx", DATA), files, take=True)
    with monkeypatch.context() as patched:
        patched.setattr("aigrid.node.mesh.shelf.models.FileReader", None)
        await models.check(model)
    again = await empty_shelf(here / "models")  # what was done before a restart is not known
    monkeypatch.setattr("aigrid.node.mesh.shelf.models.FileReader", None)
    with pytest.raises(TypeError):
        await again.check(model)


async def test_a_file_that_changes_while_it_is_taken_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "STEP_BYTES", len(DATA) // 2)
    models = await empty_shelf(here / "models")

    async def progress(_: str) -> None:
        (here / "w").write_bytes(b"WEIGHTS" + DATA[7:])  # what was read of it already
        os.utime(here / "w", ns=(1, 1))

    with pytest.raises(AigridError, match="changed") as refused:
        await models.add(
            described("w.onnx", DATA), {"w.onnx": here / "w"}, take=True, progress=progress
        )
    assert refused.value.code is Code.HASH_MISMATCH
    assert models.list() == {}
    assert (here / "w").exists()


async def test_a_model_that_is_not_listed_is_discarded_all_the_same(here: Path) -> None:
    models = await empty_shelf(here / "models")
    files = {"w.onnx": here / "w"}
    model = await models.add(described("w.onnx", DATA), files, take=True)
    models.set_aside(model)
    await models.discard(model, taken=files)
    assert left_in(here / "models") == []
    assert (here / "w").read_bytes() == DATA
    await models.discard(model)  # nothing is left of it
