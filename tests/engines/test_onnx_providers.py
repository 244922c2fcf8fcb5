"""Which of its providers ONNX Runtime is asked for, and what is said where one does not work."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from tests.engines.onnx_models import linear, onnx_source, save

from aigrid.engines import onnx, onnx_providers
from aigrid.engines.base import CancelToken, Device, ModelSource
from aigrid.engines.onnx import OnnxEngine
from aigrid.engines.onnx_providers import KINDS, lacking, options_of, provider_of, usable
from aigrid.engines.onnx_tensors import from_array
from aigrid.protocol.inference import TensorChunk, TensorRequest

CPU, AZURE, CUDA = "CPUExecutionProvider", "AzureExecutionProvider", "CUDAExecutionProvider"
HOST, CARD = Device("cpu", "cores"), Device("cuda", "card", 1 << 40, 1 << 40)
CHIP, AMD = Device("metal", "chip", unified=True), Device("rocm", "other")
HERE = (HOST, CARD, CHIP, AMD)


@pytest.mark.parametrize(
    ("available", "places", "lacks"),
    [
        ([AZURE, CPU], [], {"cuda", "metal", "rocm"}),
        ([CUDA, "TensorrtExecutionProvider", CPU], ["cuda:0"], {"metal", "rocm"}),
        (["MIGraphXExecutionProvider", CPU], ["rocm:0"], {"cuda", "metal"}),
        (["CoreMLExecutionProvider", AZURE, CPU], ["metal:0"], {"cuda", "rocm"}),
        (["DmlExecutionProvider", CPU], ["directml:0"], {"cuda", "metal", "rocm"}),
    ],
)
def test_a_device_is_used_where_it_is_here_and_has_a_provider(
    available: list[str], places: list[str], lacks: set[str]
) -> None:
    assert [device.place for device in usable(available, HERE)] == places
    assert lacking(available, HERE).keys() == lacks
    if places != ["directml:0"]:
        assert usable(available, [HOST]) == ()
    assert lacking(available, [HOST]) == {}


def test_of_two_providers_the_better_is_taken_and_the_cloud_never() -> None:
    both = ["ROCMExecutionProvider", "MIGraphXExecutionProvider", AZURE, CPU]
    assert provider_of(AMD, both) == "MIGraphXExecutionProvider"
    assert provider_of(AMD, both[:1]) == "ROCMExecutionProvider"
    assert provider_of(CARD, both) is None
    assert AZURE not in KINDS


def test_a_provider_computes_in_the_models_precision_within_its_bound() -> None:
    options = options_of(CUDA, 3, 12345)
    assert (options["device_id"], options["use_tf32"], options["gpu_mem_limit"]) == (
        "3",
        "0",
        "12345",
    )
    assert options_of("CoreMLExecutionProvider", 0, 1)["ModelFormat"] == "MLProgram"
    for provider in KINDS:
        assert all(isinstance(value, str) for value in options_of(provider, 0, 1).values())


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return onnx_source(save(tmp_path / "m.onnx", linear()))


@pytest.mark.skipif(
    bool(KINDS.keys() & set(ort.get_available_providers())),
    reason="this onnxruntime has providers for accelerators: see test_accelerators",
)
def test_without_providers_no_driver_is_asked_and_the_processor_is_told(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_providers, "hardware", lambda: pytest.fail("a driver was asked"))
    engine = OnnxEngine()
    estimate = engine.load(source, threads=1)
    assert (estimate.device, estimate.host_bytes) == ("cpu", 0)


def test_a_provider_that_does_not_start_leaves_the_model_on_the_processor_and_says_so(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A card that the drivers list and the runtime cannot use: as with a library that is missing.
    listed = Device("cuda", "card", 1 << 40, 1 << 40, index=99)
    monkeypatch.setattr(onnx, "usable_here", lambda: (listed,))
    engine = OnnxEngine()
    promised = engine.estimate(source)
    assert promised.device == "cuda:99"
    assert promised.host_bytes > promised.memory_bytes > 0
    real = engine.load(source, threads=1)
    assert (real.device, real.host_bytes) == ("cpu", 0)
    assert engine.estimate(source) == real
    assert engine._graph is not None
    assert engine._graph.place == "cpu"
    row = from_array("x", np.array([[1, 4, 9]], np.float32))
    answer, _ = engine.infer(TensorRequest({"x": row}), CancelToken())
    assert isinstance(answer, TensorChunk)
    assert answer.outputs["y"] == from_array("y", np.array([[45, 59]], np.float32))


def test_a_model_without_room_on_the_card_stays_on_the_processor(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "usable_here", lambda: (CARD,))
    assert OnnxEngine().estimate(source).device == "cuda:0"
    full = replace(source, room={"cuda:0": 1})
    assert OnnxEngine().estimate(full).device == "cpu"
