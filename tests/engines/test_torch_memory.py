"""The estimate of memory on an accelerator, held against every tensor that a run makes."""

from pathlib import Path
from typing import Any

import pytest
from tests.engines.torch_models import llama, speaker, torch

from aigrid.engines.base import CancelToken, Device
from aigrid.engines.devices import CONTEXT_BYTES, DRIVER_BYTES
from aigrid.engines.torch import TorchEngine, _sizes, _table
from aigrid.engines.torch_decoder import TorchDecoder
from aigrid.engines.torch_memory import RUNTIME_BYTES, on_accelerator, on_host, tensors
from aigrid.engines.torch_model import build, open_files

CONTEXT = 512


class Watch(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """The most bytes that storages beside `known` had at once."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.alive: dict[int, tuple[Any, int]] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.known:
                    weak = torch.multiprocessing.reductions.StorageWeakRef(storage)
                    self.alive[storage._cdata] = (weak, storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self.alive.values()))
        return result


def test_the_estimate_is_what_the_tensors_of_a_full_context_take(tmp_path: Path) -> None:
    made = llama(
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    ).to(torch.bfloat16)
    source = speaker(tmp_path, made, context=CONTEXT)
    opened = open_files(source)
    model = build(opened, _table(source), device=torch.device("cpu"), dtype=torch.bfloat16)
    storages = {p.untyped_storage()._cdata: p.untyped_storage() for p in model.parameters()}
    weights = sum(storage.nbytes() for storage in storages.values())
    decoder = TorchDecoder(model, device=torch.device("cpu"), vocabulary=320)
    cancel = CancelToken()
    with Watch(set(storages)) as watch:
        assert all(decoder.prefill([n % 300 for n in range(CONTEXT - 8)], cancel))
        assert all(decoder.step([5], cancel) for _ in range(8))
    real = weights + watch.peak_bytes
    assert 0.9 <= tensors(_sizes(source, opened), 2) / real <= 1.1


@pytest.mark.skipif(torch.accelerator.is_available(), reason="its own accelerator is chosen here")
def test_on_an_accelerator_both_memories_are_told_and_the_precision_is_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Device("cuda", "card", 1 << 40, 1 << 40, index=1)
    monkeypatch.setattr("aigrid.engines.torch.accelerators", lambda: (card,))
    source = speaker(tmp_path, llama().to(torch.bfloat16))
    sizes = _sizes(source, open_files(source))
    estimate = TorchEngine().estimate(source)
    assert (estimate.device, estimate.precision) == ("cuda:1", "bfloat16")
    assert estimate.memory_bytes == on_accelerator(sizes, 2) > CONTEXT_BYTES
    assert estimate.host_bytes == RUNTIME_BYTES + DRIVER_BYTES + 2 * sizes.elements
    monkeypatch.setattr("aigrid.engines.torch.accelerators", lambda: ())
    other = TorchEngine().estimate(source)
    assert (other.device, other.precision, other.host_bytes) == ("cpu", "float32", 0)
    assert other.memory_bytes == on_host(sizes, 4)
