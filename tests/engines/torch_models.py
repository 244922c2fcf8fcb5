"""Small models of several architectures with random weights, made and saved by transformers."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import TaskMapping

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `torch` is not installed")

CORPUS = ("The quick brown fox jumps over the lazy dog.", "Naïve café 你好 🌍", "a b c d e f g")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "<|im_end|>"], initial_alphabet=alphabet
    )
    made.train_from_iterator(CORPUS * 4, trainer)
    return made


def llama(**changes: Any) -> Any:
    """A causal language model of two layers."""
    torch.manual_seed(5)
    settings = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 600,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "initializer_range": 0.3,
        **changes,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()


def gpt2() -> Any:
    torch.manual_seed(6)
    config = transformers.GPT2Config(
        vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=600,
        bos_token_id=0, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def saved(
    folder: Path,
    model: Any,
    task: str,
    *,
    mapping: TaskMapping | None = None,
    tokenizer: Tokenizer | None = None,
    **options: Any,
) -> ModelSource:
    """The model's files as transformers writes them."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        text = transformers.utils.logging  # quiet: the files below are all there is
        text.disable_progress_bar()
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    return ModelSource("bafytorch", "safetensors", files, task, options, None, mapping)


def speaker(folder: Path, model: Any, **options: Any) -> ModelSource:
    """A model that chats."""
    import json

    settings = {
        "chat_template": TEMPLATE,
        "bos_token": "<s>",
        "eos_token": {"content": "<|im_end|>"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return saved(folder, model, "text-generation", tokenizer=byte_level(), **options)


def t5() -> Any:
    """A sequence-to-sequence model of two layers, with relative positions."""
    torch.manual_seed(8)
    config = transformers.T5Config(
        vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, initializer_factor=3.0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval()


def marian(**settings: Any) -> Any:
    """The same with fixed positions, as small translators have them."""
    torch.manual_seed(9)
    config = transformers.MarianConfig(
        vocab_size=320, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64,
        decoder_ffn_dim=64, encoder_attention_heads=4, decoder_attention_heads=4,
        max_position_embeddings=64, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0,
        forced_eos_token_id=None, init_std=0.3,
    )  # fmt: skip
    model = transformers.MarianMTModel(config).eval()
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model
