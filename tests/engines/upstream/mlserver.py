"""MLServer from its wheel, in an environment of its own, kept between runs."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

VERSION = "1.7.1"
SETTINGS = '{{"host": "127.0.0.1", "http_port": {}, "grpc_port": {}, "metrics_port": {}, "parallel_workers": 0}}'
# A multinomial logistic regression: its coefficients lie beside it.
RUNTIME = """
import pathlib

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Softmax(MLModel):
    async def load(self):
        self.weights = np.load(pathlib.Path(__file__).with_name("weights.npz"))
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        scores = x @ self.weights["w"].T + self.weights["b"]
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        p = (e / e.sum(axis=1, keepdims=True)).astype(np.float32)
        output = NumpyCodec.encode_output("probabilities", p)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""
MODEL = """{
  "name": "iris", "implementation": "runtime.Softmax",
  "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
  "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
}"""


def environment() -> Path:
    """The folder of MLServer's environment; made once, else the test is skipped."""
    kept = os.environ.get("AIGRID_TEST_MODEL_DIR") or Path.home() / ".cache/aigrid/tests"
    python = sysconfig.get_python_version()
    folder = Path(kept) / f"mlserver-{VERSION}-python{python}"
    if not (folder / "complete").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--only-binary", ":all:"]
        _run(*pip, f"mlserver=={VERSION}")
        (folder / "complete").touch()
    return folder


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"MLServer {VERSION} cannot be installed: {done.stderr.strip()[-300:]}")


class MlServer:
    """One server with one model; `stop` and `start` it as often as need be."""

    def __init__(self, folder: Path, ports: tuple[int, int, int]) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{ports[0]}"
        self._command = environment() / "bin/mlserver"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "settings.json").write_text(SETTINGS.format(*ports))
        model = folder / "iris"
        model.mkdir()
        (model / "runtime.py").write_text(RUNTIME)
        (model / "model-settings.json").write_text(MODEL)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._command, "start", "."],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)},
            )

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
