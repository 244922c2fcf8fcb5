"""Models of the architectures that transformers knows, from safetensors, on torch.

Text generation and tasks on texts and images, on the CPU and on any accelerator that torch has.
Weights keep the precision that they have in their file; the CPU, which is slow at halves, computes
with float32.

Options of the model:
    context: tokens that a conversation may have; by default the model's own, at most 4096.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from aigrid.engines.base import (
    CancelToken,
    Device,
    EngineStats,
    Estimate,
    ModelSource,
    Probe,
    check_options,
    wrong_task,
)
from aigrid.engines.counting import Tally
from aigrid.engines.devices import DRIVER_BYTES, bound_bytes, choose, devices
from aigrid.engines.small_files import read_json
from aigrid.engines.tasks import Tasks
from aigrid.engines.tasks.tokens import BATCH_TOKENS
from aigrid.engines.text_generate import TAKES, answer
from aigrid.engines.text_options import context_tokens
from aigrid.engines.torch_devices import accelerators, bound_memory, torch_device, tried
from aigrid.engines.torch_memory import RUNTIME_BYTES, Sizes, on_accelerator, on_host
from aigrid.engines.torch_model import FORMAT, HEADS, WRITERS, Opened, build, offline, open_files
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TaskRequest, TextRequest

if TYPE_CHECKING:
    from aigrid.engines.chat_template import ChatTemplate
    from aigrid.engines.hf_tokenizer import HfTokenizer
    from aigrid.engines.torch_decoder import TorchDecoder

GENERATION: Final = "text-generation"
GENERATION_FILE: Final = "generation_config.json"
REFUSES: Final = (
    "code beside the weights (.py, .bin, .pt): architectures are those of transformers",
    "quantised safetensors: use GGUF for a quantised model",
)
_ITEM_BYTES: Final = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class _Speaker:
    """A model that writes text."""

    context: int
    vocabulary: int
    tokenizer: "HfTokenizer"
    template: "ChatTemplate | None"
    decoder: "TorchDecoder"


class TorchEngine:
    """One model, one request at a time."""

    name = "torch"

    def __init__(self) -> None:
        self._speaker: _Speaker | None = None
        self._tasks: Tasks | None = None
        self._tally = Tally()
        self._chosen: tuple[Device | None] | None = None

    def probe(self) -> Probe:
        found, problem, places = "", "", devices()
        lacks: dict[str, str] = {}
        try:
            found = f"{version('torch')} transformers {version('transformers')}"
            places, lacks = tried()
        except PackageNotFoundError as error:
            problem = f"{error.name} is not installed: pip install 'aigrid-node[torch]'"
        except (ImportError, OSError) as error:
            problem = f"torch cannot be used: {error}"[:300]
        return Probe(
            self.name,
            found,
            (FORMAT,),
            tuple(HEADS),
            places,
            problem,
            lacks=lacks,
            refuses=REFUSES,
            takes=TAKES,
        )

    def estimate(self, source: ModelSource) -> Estimate:
        check_options(source, "context")
        opened = open_files(source)
        _table(source)
        sizes = _sizes(source, opened)
        precision = _precision(opened)
        device = self._device(source, on_accelerator(sizes, _ITEM_BYTES[precision]), precision)
        context = sizes.context or sizes.longest
        if device is None:  # the processor is slow at halves
            memory = on_host(sizes, _ITEM_BYTES["float32"])
            return Estimate(memory, 1, context, "float32")
        item = _ITEM_BYTES[precision]
        memory, beside = on_accelerator(sizes, item), RUNTIME_BYTES + sizes.elements * item
        return Estimate(memory, 1, context, precision, device.place, beside + DRIVER_BYTES)

    def _device(self, source: ModelSource, needed_bytes: int, precision: str) -> Device | None:
        """Where the model goes; chosen once, so that it is where was said."""
        if self._chosen is None:
            able = [d for d in accelerators() if (d.kind, precision) != ("metal", "float64")]
            self._chosen = (choose(able, lambda _: needed_bytes, source.room),)
        return self._chosen[0]

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        estimate, opened = self.estimate(source), open_files(source)
        offline()
        import torch

        torch.set_num_threads(max(1, threads))
        torch.backends.cudnn.allow_tf32 = False  # 10 bits of a mantissa are not float32
        chosen = self._chosen[0] if self._chosen is not None else None
        if chosen is not None:
            bound_memory(chosen, bound_bytes(estimate, source.room))
        device = torch_device(chosen)
        dtype = getattr(torch, estimate.precision)
        model = build(opened, _table(source), device=device, dtype=dtype)
        if source.task == GENERATION:
            self._speaker = _speaker(source, opened, model, device, estimate.context_tokens)
        else:
            self._tasks = _tasks(source, model, device)
        return estimate

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        if isinstance(request, TextRequest) and self._speaker is not None:
            speaker = self._speaker
            return answer(speaker, request, cancel, self._tally, vocabulary=speaker.vocabulary)
        if isinstance(request, TaskRequest) and self._tasks is not None:
            return self._counted(self._tasks.run(request, cancel))
        if self._speaker is None and self._tasks is None:
            raise EngineError("no model is loaded")
        raise wrong_task(self.name, request)

    def stats(self) -> EngineStats:
        return self._tally.stats

    def unload(self) -> None:
        self._speaker = self._tasks = None

    def _counted(self, chunks: Iterator[InferChunk]) -> Iterator[InferChunk]:
        with self._tally.request():
            yield from chunks


def _table(source: ModelSource) -> str:
    table = HEADS.get(source.task)
    if table is None:
        raise EngineError(
            f"torch does {', '.join(HEADS)}, not {source.task!r}", Code.UNSUPPORTED_MODEL
        )
    pooled = source.mapping is not None and source.mapping.output.pooling != "none"
    if source.task == "text-ranking" and pooled:
        return HEADS["feature-extraction"]
    return table


def _tasks(source: ModelSource, model: Any, device: Any) -> Tasks:
    from aigrid.engines.torch_runner import TorchRunner

    if source.mapping is None:
        raise EngineError(f"a model for {source.task} needs a task mapping", Code.UNSUPPORTED_MODEL)
    if _table(source) == WRITERS:
        from aigrid.engines.torch_writer import TorchWriter

        return Tasks(source, TorchWriter(model, _generation(source), device=device))
    vectors = _table(source) == HEADS["feature-extraction"]
    output = "last_hidden_state" if vectors else "logits"
    return Tasks(source, TorchRunner(model, source.mapping, device=device, output=output))


def _speaker(
    source: ModelSource, opened: Opened, model: Any, device: Any, context: int
) -> _Speaker:
    from aigrid.engines.hf_tokenizer import HfTokenizer, chat_template
    from aigrid.engines.torch_decoder import TorchDecoder

    ending: set[int] = set()
    for config in (opened.config, _generation(source)):
        value = config.get("eos_token_id")
        found = value if isinstance(value, list) else [value]
        ending |= {token for token in found if type(token) is int}
    vocabulary = int(model.config.get_text_config().vocab_size)
    return _Speaker(
        context,
        vocabulary,
        HfTokenizer(source.files, frozenset(ending)),
        chat_template(source.files),
        TorchDecoder(model, device=device, vocabulary=vocabulary),
    )


def _generation(source: ModelSource) -> dict[str, Any]:
    path = source.files.get(GENERATION_FILE)
    return {} if path is None else read_json(path)


def _sizes(source: ModelSource, opened: Opened) -> Sizes:
    from aigrid.engines.torch_decoder import PREFILL_CHUNK

    config = opened.config
    width, layers, heads, longest = (
        _number(config, *names)
        for names in (
            ("hidden_size", "n_embd", "d_model"),
            ("num_hidden_layers", "n_layer", "num_layers"),
            ("num_attention_heads", "n_head"),
            ("max_position_embeddings", "n_positions"),
        )
    )
    most = _number(config, "max_position_embeddings", "n_positions") or 2**20
    attends = _table(source) == WRITERS  # to what it read, too, with further keys and values
    writes = source.task == GENERATION or attends
    return Sizes(
        elements=opened.elements,
        layers=2 * layers if attends else layers,
        width=width,
        heads=heads,
        shared_heads=_number(config, "num_key_value_heads") or heads,
        head_width=_number(config, "head_dim") or width // max(1, heads),
        inner=_number(config, "intermediate_size", "n_inner") or 4 * width,
        vocabulary=_number(config, "vocab_size") if writes else 0,
        context=context_tokens(source, most) if writes else 0,
        chunk=PREFILL_CHUNK if source.task == GENERATION else BATCH_TOKENS,
        longest=longest,
    )


def _precision(opened: Opened) -> str:
    """What an accelerator computes with: the weights' own type."""
    if opened.precision not in _ITEM_BYTES:
        raise EngineError(
            f"weights of {opened.precision} are not supported", Code.UNSUPPORTED_QUANTISATION
        )
    return opened.precision


def _number(config: dict[str, Any], *names: str) -> int:
    """The first of several spellings that is a sensible number, else 0."""
    for name in names:
        value = config.get(name)
        if type(value) is int and 0 < value <= 2**31:
            return value
    return 0
