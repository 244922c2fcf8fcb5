"""On an accelerator, where one is: the same answers as the processor's, and memory as estimated."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from scripts.bench.accelerator import (
    CONTEXT,
    accelerator,
    agreeing,
    elsewhere,
    generate,
    loaded,
    make,
    memory,
)
from tests.engines.onnx_models import linear, onnx_source, save

from aigrid.engines.base import CancelToken, Device
from aigrid.engines.onnx import OnnxEngine
from aigrid.engines.onnx_providers import tried
from aigrid.engines.onnx_tensors import from_array
from aigrid.protocol.inference import TensorChunk, TensorRequest

TOLERANCE = 0.05


@pytest.fixture(scope="module")
def device() -> Device:
    found = accelerator()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def test_torch_writes_the_same_on_an_accelerator(device: Device, tmp_path: Path) -> None:
    source = make(tmp_path, layers=2, width=256, dtype="float32")
    on_device, estimate = loaded(source, 2)
    on_host, host_estimate = loaded(elsewhere(source, device), 2)
    assert (estimate.device, host_estimate.device) == (device.place, "cpu")
    assert estimate.precision == host_estimate.precision == "float32"
    one, other = (generate(engine, 32, 64) for engine in (on_device, on_host))
    # Near ties may fall either way in another order of additions, but not at once.
    assert agreeing(one, other, TOLERANCE) >= 8


def test_memory_on_an_accelerator_is_what_was_estimated(device: Device, tmp_path: Path) -> None:
    import torch

    try:
        torch.accelerator.max_memory_allocated(device.index)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torch does not tell the memory of {device.kind}: {error}"[:200])
    source = make(tmp_path, layers=8, width=2048, dtype="bfloat16")
    found = memory(source, device, CONTEXT // 4, 8)
    assert found["device"] == device.place
    assert 0.9 <= found["estimate_to_real"] <= 1.1


def test_onnx_computes_the_same_on_an_accelerator(tmp_path: Path) -> None:
    places, lacks = tried()
    if len(places) < 2:
        reason = "; ".join(f"{kind}: {why}" for kind, why in lacks.items())
        pytest.skip(reason or f"of {ort.get_available_providers()} none has a device here")
    engine = OnnxEngine()
    estimate = engine.load(onnx_source(save(tmp_path / "m.onnx", linear())), threads=1)
    assert estimate.device in {device.place for device in places[1:]}
    row = from_array("x", np.array([[1, 4, 9]], np.float32))
    answer, _ = engine.infer(TensorRequest({"x": row}), CancelToken())
    assert isinstance(answer, TensorChunk)
    assert answer.outputs["y"] == from_array("y", np.array([[45, 59]], np.float32))
