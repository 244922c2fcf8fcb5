"""Small programs of torch.export, and what a hostile one may look like."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import Feature, TableInput, TaskMapping, TaskOutput

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

MAPPING = TaskMapping(
    table=TableInput((Feature("a"), Feature("b"), Feature("c"))),
    output=TaskOutput(labels=("no", "yes"), activation="softmax"),
)
ROWS_MAX = 64


class Linear(torch.nn.Module):  # type: ignore[misc, name-defined]  # not typed
    """Of three numbers two scores; a row of zeros becomes NaN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.scores = torch.nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.scores(x) + 0 * x.sum(dim=1, keepdim=True).reciprocal()


class Several(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Several outputs of several kinds, and an argument that was left at its default."""

    def forward(self, ids: Any, halves: Any, bias: float = 2.0) -> Any:
        return {"doubled": ids * 2, "pair": (halves + bias, ids.sum())}


def save(path: Path, module: Any = None, inputs: Any = None, dims: Any = None) -> Path:
    rows = torch.export.Dim("rows", min=1, max=ROWS_MAX)
    program = torch.export.export(
        (module or Linear()).eval(),
        inputs or (torch.ones(2, 3),),
        dynamic_shapes=dims if dims is not None else ({0: rows},),
    )
    torch.export.save(program, path)
    return path


def source(path: Path, *, trusted: bool = True, mapping: TaskMapping | None = None) -> ModelSource:
    task = "tensor" if mapping is None else "tabular-classification"
    files = {"model.pt2": path}
    return ModelSource("bafyexported", "pt2", files, task, mapping=mapping, trusted=trusted)


def changed(path: Path, to: Path, **entries: bytes | None) -> Path:
    """The archive with entries that end so replaced, added below its folder, or (None) left out."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            found[info.filename] = archive.read(info)
    root = next(iter(found)).partition("/")[0]
    for name, data in entries.items():
        whole = f"{root}/{name}"
        if data is None:
            del found[whole]
        else:
            found[whole] = data
    with zipfile.ZipFile(to, "w") as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    return to


class _Runs:
    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return exec, (self._code, {"__name__": "payload"})


def malicious(path: Path, code: str) -> Path:
    """A program like any other whose sample inputs, once loaded, run `code`."""
    stream = io.BytesIO()
    torch.save(_Runs(code), stream)
    honest = save(path.with_suffix(".honest.pt2"))
    return changed(honest, path, **{"data/sample_inputs/model.pt": stream.getvalue()})


def renamed_pickle(path: Path, code: str) -> Path:
    path.write_bytes(pickle.dumps(_Runs(code)))
    return path
