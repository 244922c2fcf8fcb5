"""One sequence of a causal language model in torch, with its keys and values."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from aigrid.engines.base import Cancelled, CancelToken
from aigrid.engines.sampling import Logits, all_finite
from aigrid.engines.torch_model import failed
from aigrid.engines.torch_runner import CancelSwitch
from aigrid.protocol.errors import Code, EngineError

PREFILL_CHUNK: Final = 256


class TorchDecoder:
    """Feed it tokens, it gives the logits after the last of them.

    Attributes:
        logits: float32 (vocabulary,), of the last step.
    """

    def __init__(self, model: Any, *, device: Any, vocabulary: int) -> None:
        self.logits: Logits = np.zeros(vocabulary, np.float32)
        self._model = model
        self._device = device
        self._switch = CancelSwitch(model)
        self._cache: Any = None
        known = inspect.signature(model.forward).parameters
        # Without it the whole prompt's logits are computed, a vocabulary for each token.
        self._settings = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def prefill(self, tokens: Sequence[int], run: CancelToken) -> Iterator[bool]:
        """Begin a sequence anew, a chunk per item; False, the last, if cancelled."""
        self._cache = None
        for start in range(0, len(tokens), PREFILL_CHUNK):
            alive = self.step(tokens[start : start + PREFILL_CHUNK], run)
            yield alive
            if not alive:
                return

    def step(self, tokens: Sequence[int], run: CancelToken) -> bool:
        """Append tokens to the sequence; False if cancelled.

        Raises:
            EngineError: `engine_failed` if torch fails or the logits are not finite,
                `out_of_memory`.
        """
        import torch

        try:
            with torch.inference_mode(), self._switch.on(run):
                found = self._model(
                    input_ids=torch.tensor([tokens], device=self._device),
                    past_key_values=self._cache,
                    use_cache=True,
                    **self._settings,
                )
                self.logits = found.logits[0, -1].float().cpu().numpy()
        except Cancelled:
            return False
        except Exception as error:  # boundary: an engine call
            raise failed(error, Code.ENGINE_FAILED) from error
        self._cache = found.past_key_values
        if not all_finite(self.logits):
            raise EngineError("the model computed logits that are not finite", Code.ENGINE_FAILED)
        return True
