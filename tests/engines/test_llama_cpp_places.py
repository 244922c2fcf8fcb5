"""Where llama.cpp puts a model: one accelerator that could hold it, or the processor."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.texts import source

from aigrid.engines import llama_cpp
from aigrid.engines.base import Device
from aigrid.engines.devices import CONTEXT_BYTES, DRIVER_BYTES
from aigrid.engines.llama_cpp import LlamaCppEngine, offloaded_bytes
from aigrid.engines.llama_cpp_model import place_of
from aigrid.protocol.limits import MIB

GIB = 1024 * MIB
CARDS = (Device("cuda", "small", 8 * GIB, 2 * GIB), Device("cuda", "wide", 8 * GIB, 6 * GIB, 1))


@pytest.fixture(autouse=True)
def _cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "accelerators", lambda: CARDS)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("CUDA0", ("cuda", 0)),
        ("ROCm11", ("rocm", 11)),
        ("Vulkan2", ("vulkan", 2)),
        ("Metal", ("metal", 0)),
        ("MTL0", ("metal", 0)),
        ("", ("", 0)),
    ],
)
def test_a_device_is_called_as_others_call_it(name: str, place: tuple[str, int]) -> None:
    assert place_of(name) == place


def test_a_model_is_charged_to_the_accelerator_it_goes_to(tiny_path: Path) -> None:
    on_host = LlamaCppEngine().estimate(source(tiny_path, gpu_layers=0))
    assert (on_host.device, on_host.host_bytes) == ("cpu", 0)
    found = LlamaCppEngine().estimate(source(tiny_path))
    assert found.device == "cuda:1"
    assert found.memory_bytes > CONTEXT_BYTES + tiny_path.stat().st_size // 2
    assert found.host_bytes == on_host.memory_bytes + DRIVER_BYTES


def test_a_part_of_the_layers_takes_a_part_of_the_room() -> None:
    assert offloaded_bytes(1000, 50, -1, 9) == offloaded_bytes(1000, 50, 10, 9) == 1000
    assert offloaded_bytes(1000, 50, 3, 9) == 350
    assert offloaded_bytes(1000, 500, 9, 9) == 1000


def test_where_there_is_no_room_for_it_it_does_not_go(tiny_path: Path) -> None:
    model = source(tiny_path)
    for room, place in (
        ({"cuda:1": CONTEXT_BYTES}, "cuda:0"),
        ({"cuda:0": 0, "cuda:1": CONTEXT_BYTES}, "cpu"),
    ):
        engine = LlamaCppEngine()
        assert engine.estimate(replace(model, room=room)).device == place
        assert engine.estimate(model).device == place  # it was told
