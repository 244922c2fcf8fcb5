"""Sequence-to-sequence models of torch: a text in, another text out (translation, summaries)."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aigrid.engines.base import Cancelled, CancelToken
from aigrid.engines.tasks.base import Array
from aigrid.engines.torch_model import failed
from aigrid.engines.torch_runner import CancelSwitch, longest_of
from aigrid.protocol.errors import Code, EngineError

BEAMS_MAX: Final = 8
# What of a model's `generation_config.json` changes its answers and bounds no memory by itself.
_KEPT: Final = frozenset(
    {
        "bad_words_ids", "bos_token_id", "decoder_start_token_id", "early_stopping",
        "eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "length_penalty",
        "no_repeat_ngram_size", "num_beams", "pad_token_id", "repetition_penalty",
    }
)  # fmt: skip


class TorchWriter:
    """A `Writer` for tasks."""

    def __init__(self, model: Any, generation: Mapping[str, Any], *, device: Any) -> None:
        """`generation`: the model's `generation_config.json`, or nothing.

        Raises:
            EngineError: `unsupported_model` for settings that transformers does not take.
        """
        from transformers import GenerationConfig

        settings = {name: value for name, value in generation.items() if name in _KEPT}
        beams = settings.get("num_beams", 1)
        if type(beams) is not int or not 1 <= beams <= BEAMS_MAX:
            raise EngineError(f"num_beams is 1 to {BEAMS_MAX}", Code.UNSUPPORTED_MODEL)
        for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id"):
            if settings.get(name) is None and getattr(model.config, name, None) is not None:
                settings[name] = getattr(model.config, name)
        try:
            self._settings = GenerationConfig(**settings, do_sample=False)
        except Exception as error:  # boundary: an engine call
            raise failed(error, Code.UNSUPPORTED_MODEL) from error
        self._model = model
        self._device = device
        self._switch = CancelSwitch(model)
        self._longest = longest_of(model)
        own = getattr(model, "generation_config", None)  # which stands in for what is not set
        self._forced = any(
            getattr(one, "forced_eos_token_id", None) is not None for one in (self._settings, own)
        )
        self._vocabulary = int(model.config.vocab_size)
        known = inspect.signature(model.forward).parameters
        self._inputs = {n: (None, None) for n in ("input_ids", "attention_mask") if n in known}

    @property
    def inputs(self) -> Mapping[str, Sequence[int | None]]:
        """What a text becomes."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[str]:
        """It writes tokens, and has no tensors to give."""
        return ()

    def run(self, feeds: Mapping[str, Array], cancel: CancelToken) -> Mapping[str, Array]:
        """Raises EngineError: `invalid_request`."""
        raise EngineError("this model writes text", Code.INVALID_REQUEST)

    def write(
        self, tokens: Sequence[int], most: int, cancel: CancelToken
    ) -> tuple[list[int], bool]:
        """See `Writer.write`."""
        import torch

        if not all(0 <= token < self._vocabulary for token in tokens):
            raise EngineError("the text has unknown tokens", Code.INVALID_REQUEST)
        if self._longest and len(tokens) > self._longest:
            raise EngineError(
                f"the text has {len(tokens)} tokens, the model takes {self._longest}: "
                "shorten it, or send it in parts",
                Code.INVALID_REQUEST,
            )
        most = min(most, self._longest - 1) if self._longest else most
        try:
            with torch.inference_mode(), self._switch.on(cancel):
                given = torch.tensor([list(tokens)], device=self._device)
                made = self._model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    generation_config=self._settings,
                    max_new_tokens=most,
                    logits_processor=[_numbers_only],
                )
                found: list[int] = made[0].tolist()
        except (Cancelled, EngineError):
            raise
        except Exception as error:  # boundary: an engine call
            raise failed(error, Code.ENGINE_FAILED) from error
        return found, self._is_cut(found[1:], most)  # the first one begins every answer

    def _is_cut(self, written: Sequence[int], most: int) -> bool:
        """Whether there is no end in it, or one that may have been forced on it."""
        ends = self._settings.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        end = next((at for at, token in enumerate(written) if token in ends), None)
        return end is None or (self._forced and end + 1 >= most)


def _numbers_only(_: Any, scores: Any) -> Any:
    """Scores as they are; what is ruled out is minus infinity, and nothing else is not finite."""
    if scores.isnan().any() or scores.isposinf().any():
        raise EngineError("the model computed logits that are not finite")
    return scores
