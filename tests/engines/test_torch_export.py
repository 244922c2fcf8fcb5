"""Programs of torch.export: the contract, tensors, typed tasks, and whose are loaded at all."""

import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.exported import (
    MAPPING,
    ROWS_MAX,
    Linear,
    Several,
    changed,
    malicious,
    renamed_pickle,
    save,
    source,
    torch,
)

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.formats import detect, inspect
from aigrid.engines.pt2 import read_archive
from aigrid.engines.torch_export import TorchExportEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferRequest,
    TaskChunk,
    TaskRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS

TASK = "tabular-classification"
ROW = {"a": 1, "b": -2, "c": 3}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("exported") / "model.pt2")


def tensor(array: Any) -> Tensor:
    made = np.asarray(array)
    return Tensor(made.dtype.name, made.shape, made.tobytes())


def load(made: ModelSource) -> TorchExportEngine:
    engine = TorchExportEngine()
    engine.load(made, threads=1)
    return engine


def run(engine: TorchExportEngine, *outputs: str, **inputs: Tensor) -> dict[str, Tensor]:
    chunk, finish = engine.infer(TensorRequest(inputs, outputs), CancelToken())
    assert finish == Finish("stop")
    assert isinstance(chunk, TensorChunk)
    return chunk.outputs


class TestTorchExportEngine(EngineContract):
    engine = TorchExportEngine

    @pytest.fixture
    def source(self, path: Path) -> ModelSource:
        return source(path, mapping=MAPPING)

    @pytest.fixture
    def request_(self) -> InferRequest:
        return TaskRequest(TASK, json.dumps([ROW]).encode())

    @pytest.fixture
    def wrong_request(self) -> InferRequest:
        return TextRequest(prompt="the cat")

    @pytest.fixture
    def failing(self, source: ModelSource) -> tuple[ModelSource, InferRequest]:
        return source, TaskRequest(TASK, b'[{"a": 0, "b": 0, "c": 0}]')


def test_a_batch_of_any_size_is_what_the_module_computes(path: Path) -> None:
    engine, module = load(source(path)), Linear().eval()
    for rows in (1, 2, ROWS_MAX):
        x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
        found = run(engine, x=tensor(x))["output"]
        expected = module(torch.from_numpy(x)).detach().numpy()
        assert np.allclose(np.frombuffer(found.data, np.float32).reshape(rows, 2), expected)


def test_a_typed_task_has_labels_and_scores(path: Path) -> None:
    engine = load(source(path, mapping=MAPPING))
    request = TaskRequest(TASK, json.dumps([ROW] * 3).encode())
    chunk, _ = engine.infer(request, CancelToken())
    assert isinstance(chunk, TaskChunk)
    expected = torch.softmax(Linear().eval()(torch.tensor([[1.0, -2, 3]])), -1)[0].detach()
    likeliest = int(expected.argmax())
    for answer in json.loads(chunk.output):
        assert answer["label"] == ("no", "yes")[likeliest]
        assert answer["score"] == pytest.approx(float(expected[likeliest]), abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "kind", "says"),
    [
        ((ROWS_MAX + 1, 3), "float32", "<= 64"),
        ((2, 4), "float32", "expected float32 [?, 3], got float32 [2, 4]"),
        ((2, 3), "float64", "got float64"),
        ((3,), "float32", "got float32 [3]"),
    ],
)
def test_a_wrong_tensor_is_the_requests_fault(
    path: Path, shape: tuple[int, ...], kind: str, says: str
) -> None:
    with pytest.raises(EngineError) as refused:
        run(load(source(path)), x=tensor(np.ones(shape, kind)))
    assert refused.value.code is Code.INVALID_REQUEST
    assert says in refused.value.message


def test_outputs_of_every_shape_have_names(tmp_path: Path) -> None:
    halves = torch.ones(2, dtype=torch.bfloat16)
    inputs = (torch.ones(2, dtype=torch.int64), halves)
    engine = load(source(save(tmp_path / "m.pt2", Several(), inputs, ({}, {}, None)[:2])))
    given = {"ids": tensor(np.array([3, 4])), "halves": tensor(np.array([1, 2], np.float32))}
    found = run(engine, **given)
    assert {name: np.frombuffer(t.data, t.dtype).tolist() for name, t in found.items()} == {
        "doubled": [6, 8],
        "pair_0": [3, 4],
        "pair_1": [7],
    }
    assert set(run(engine, "pair_1", **given)) == {"pair_1"}
    with pytest.raises(EngineError, match="no output 'other'; the model has doubled, pair_0"):
        run(engine, "other", **given)


def test_a_cancel_is_noticed_between_two_operators(path: Path) -> None:
    engine, cancel = load(source(path)), CancelToken()
    began = threading.Event()
    assert engine._program is not None
    module = engine._program._module

    def late(*args: Any) -> Any:
        began.set()
        cancel.cancel()  # after the last check of ours, before the first operator
        return module(*args)

    engine._program._module = late
    x = tensor(np.ones((1, 3), np.float32))
    assert list(engine.infer(TensorRequest({"x": x}), cancel)) == [Finish("cancelled")]
    assert began.is_set()


def test_a_strangers_program_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = malicious(tmp_path / "evil.pt2", f"open({str(ran)!r}, 'w').close()")
    assert detect(path) == "pt2"
    stranger = source(path, trusted=False)
    for attempt in (
        lambda: inspect(path),
        lambda: TorchExportEngine().estimate(stranger),
        lambda: TorchExportEngine().load(stranger, threads=1),
    ):
        with pytest.raises(EngineError, match="--trust-publisher") as refused:
            attempt()
        assert refused.value.code is Code.UNSAFE_FILE
    assert not ran.exists()
    assert inspect(path, trusted=True).precision == "float32"
    TorchExportEngine().estimate(replace(stranger, trusted=True))
    assert not ran.exists()  # only loading runs it: the premise of all this
    with pytest.raises(EngineError):
        load(replace(stranger, trusted=True))
    assert ran.exists()


HOSTILE: dict[str, Callable[[Path, Path], Path]] = {
    "a pickle": lambda _, to: renamed_pickle(to, "raise SystemExit"),
    "text": lambda _, to: _written(to, b"hello, world"),
    "another zip": lambda _, to: _zipped(to, {"m/data.pkl": b""}),
    "two folders": lambda path, to: _with(path, to, "other/entry", b""),
    "cut short": lambda path, to: _written(to, path.read_bytes()[:-100]),
    "without its directory": lambda path, to: _written(to, path.read_bytes()[:4000]),
    "compiled": lambda p, to: changed(p, to, **{"data/aotinductor/model/m.so": b"\x7fELF"}),
    "a library": lambda p, to: changed(p, to, **{"extra/m.so": b"\x7fELF"}),
    "a path to elsewhere": lambda p, to: changed(p, to, **{"extra/../../../etc/x": b""}),
    "no program": lambda p, to: changed(p, to, **{"models/model.json": None}),
    "two programs": lambda p, to: changed(p, to, **{"models/other.json": b"{}"}),
    "no list of weights": lambda p, to: changed(
        p, to, **{"data/weights/model_weights_config.json": None}
    ),
    "a list that is none": lambda p, to: changed(
        p, to, **{"data/weights/model_weights_config.json": b"[" * 10**5}
    ),
    "a bomb": lambda path, to: _with(path, to, "zeros", b"\0" * 10**7, zipfile.ZIP_DEFLATED),
    "a directory too large": lambda path, to: _directory(path, to, LIMITS.pt2_entries_max + 1),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_is_not_what_it_says_is_refused(
    tmp_path: Path, path: Path, kind: str
) -> None:
    made = HOSTILE[kind](path, tmp_path / "model.pt2")
    for attempt in (lambda: inspect(made, trusted=True), lambda: read_archive(made)):
        with pytest.raises(EngineError) as refused:
            attempt()
        assert refused.value.code in (Code.UNSAFE_FILE, Code.UNSUPPORTED_MODEL)
    with pytest.raises(EngineError):
        load(source(made))


def _written(to: Path, data: bytes) -> Path:
    to.write_bytes(data)
    return to


def _zipped(to: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(to, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return to


def _with(path: Path, to: Path, name: str, data: bytes, kind: int = zipfile.ZIP_STORED) -> Path:
    changed(path, to)
    with zipfile.ZipFile(to, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        whole = name if "/" in name else f"{root}/{name}"
        archive.writestr(whole, data, kind)
    return to


def _directory(path: Path, to: Path, entries: int) -> Path:
    """The end of the archive says that there are so many entries, as it does in 64 bits."""
    data = bytearray(changed(path, to).read_bytes())
    end = data.rfind(b"PK\x05\x06")
    wide = b"PK\x06\x06" + (44).to_bytes(8, "little") + b"\0" * 20 + entries.to_bytes(8, "little")
    data[end:end] = wide + b"\0" * 16 + b"PK\x06\x07" + b"\0" * 16
    to.write_bytes(data)
    return to
