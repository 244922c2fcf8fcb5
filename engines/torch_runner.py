"""A module of torch as a `Runner`: named arrays in and out."""

import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from aigrid.engines.base import Cancelled, CancelToken
from aigrid.engines.tasks.base import Array
from aigrid.engines.torch_model import failed
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.task import ImageInput, TaskMapping, TextInput

PIXELS: Final = "pixel_values"


class CancelSwitch:
    """Between two layers of a module: says that it advances, or stops it once it is cancelled."""

    def __init__(self, model: Any) -> None:
        import torch

        self._current = threading.local()
        for part in model.modules():
            if isinstance(part, torch.nn.ModuleList):
                for layer in part:
                    layer.register_forward_pre_hook(self._check)

    @contextmanager
    def on(self, cancel: CancelToken) -> Iterator[None]:
        self._current.cancel = cancel
        try:
            self._check()
            yield
        finally:
            self._current.cancel = None

    def _check(self, *_: Any) -> None:
        cancel = getattr(self._current, "cancel", None)
        if cancel is not None:
            if cancel.cancelled:
                raise Cancelled
            cancel.advance()


class TorchRunner:
    """A module whose forward pass takes tensors by name and returns a `ModelOutput`."""

    def __init__(self, model: Any, mapping: TaskMapping, *, device: Any, output: str) -> None:
        """`output`: what the forward pass returns, "last_hidden_state" or "logits"."""
        self._model = model
        self._device = device
        self._output = output
        self._longest = longest_of(model)
        self._rows = {
            name: int(getattr(model.config, size, 0) or 0)
            for name, size in (("input_ids", "vocab_size"), ("token_type_ids", "type_vocab_size"))
        }
        self._switch = CancelSwitch(model)
        known = inspect.signature(model.forward).parameters
        self._inputs = {name: shape for name, shape in _wanted(mapping).items() if name in known}

    @property
    def inputs(self) -> Mapping[str, Sequence[int | None]]:
        """Those inputs of the module that the mapping fills; it has defaults for the others."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[str]:
        return (self._output,)

    def run(self, feeds: Mapping[str, Array], cancel: CancelToken) -> Mapping[str, Array]:
        """See `Runner.run`."""
        import torch

        self._check(feeds)
        try:
            with torch.inference_mode(), self._switch.on(cancel):
                given = {name: self._tensor(array) for name, array in feeds.items()}
                found = getattr(self._model(**given), self._output)
                array = found.float().cpu().numpy()
        except Cancelled:
            raise
        except Exception as error:  # boundary: an engine call
            raise failed(error, Code.ENGINE_FAILED) from error
        return {self._output: array}

    def _check(self, feeds: Mapping[str, Array]) -> None:
        """Refuse what is not in the model's tables: an accelerator would be lost by looking it up.

        Raises:
            EngineError: `invalid_request`.
        """
        for name, array in feeds.items():
            rows = self._rows.get(name, 0)
            if rows and array.size and not 0 <= array.min() <= array.max() < rows:
                raise _invalid(f"{name} must be between 0 and {rows - 1}")
            if self._longest and array.ndim == 2 and array.shape[1] > self._longest:
                raise _invalid(
                    f"the input has {array.shape[1]} tokens, the model takes {self._longest}: "
                    "shorten it, or send it in parts"
                )

    def _tensor(self, array: Array) -> Any:
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
        return tensor.to(self._model.dtype) if tensor.is_floating_point() else tensor


def _wanted(mapping: TaskMapping) -> dict[str, tuple[int | None, ...]]:
    """What a mapping fills; an image whose tensor has no name is the usual one."""
    found: dict[str, tuple[int | None, ...]] = {}
    if isinstance(mapping.text, TextInput):
        names = (mapping.text.ids, mapping.text.mask, mapping.text.types)
        found |= {name: (None, None) for name in names if name}
    if isinstance(mapping.image, ImageInput):
        found[mapping.image.tensor or PIXELS] = (None, None, None, None)
    return found


def longest_of(model: Any) -> int:
    """How many tokens a text may have; 0 for any number."""
    import torch

    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            # Where padding has a row of its own, positions begin after it.
            skipped = 0 if part.padding_idx is None else part.padding_idx + 1
            return int(part.num_embeddings) - skipped
    return int(getattr(model.config, "max_position_embeddings", 0) or 0)


def _invalid(message: str) -> EngineError:
    return EngineError(message, Code.INVALID_REQUEST)
