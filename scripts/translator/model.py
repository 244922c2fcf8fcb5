"""What a translator is made of: its sizes, its tokenizer, and the files that a node serves."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PAD: Final = "<pad>"
END: Final = "</s>"
PAD_ID: Final = 0
END_ID: Final = 1
POSITIONS: Final = 256  # tokens of a text


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what comes out, beside the corpus, the seed and torch itself.

    Attributes:
        vocabulary: tokens at most.
        batch_tokens: of French, padding included, in one step.
        learning_rate: the highest, after `warmup` steps; then it falls with the root of the step.
        averaged: what one step leaves of the running average of the weights, which is what is kept.
        copied: French sentences to copy, as a share of the pairs: so it soon learns where to look.
        blanked: share of the tokens before that are hidden while it learns to tell the next: else
            it goes by them alone, and says what is fluent and has little to do with the text.
        beams: with which it is served.
    """

    vocabulary: int
    width: int
    inner: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    batch_tokens: int
    steps: int
    warmup: int
    learning_rate: float
    averaged: float
    dropout: float
    copied: float
    blanked: float
    beams: int


FULL: Final = Plan(
    vocabulary=6000, width=192, inner=768, heads=4, encoder_layers=3, decoder_layers=2,
    batch_tokens=1536, steps=6000, warmup=300, learning_rate=1.5e-3, averaged=0.998,
    dropout=0.1, copied=0.5, blanked=0.3, beams=4,
)  # fmt: skip
SMOKE: Final = Plan(
    vocabulary=400, width=64, inner=128, heads=4, encoder_layers=1, decoder_layers=1,
    batch_tokens=512, steps=120, warmup=30, learning_rate=5e-3, averaged=0.9,
    dropout=0.0, copied=0.0, blanked=0.0, beams=1,
)  # fmt: skip


def tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Byte pairs of both languages; a text ends with `END`. Any text can be written and read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocabulary, 2 + 256),
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, END_ID)]
    )
    return made


def built(plan: Plan, vocabulary: int) -> Any:
    """A model of the architecture of Marian, its weights at random."""
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=vocabulary, d_model=plan.width, max_position_embeddings=POSITIONS,
        encoder_layers=plan.encoder_layers, decoder_layers=plan.decoder_layers,
        encoder_ffn_dim=plan.inner, decoder_ffn_dim=plan.inner,
        encoder_attention_heads=plan.heads, decoder_attention_heads=plan.heads,
        activation_function="relu", dropout=plan.dropout, scale_embedding=True,
        init_std=plan.width**-0.5, pad_token_id=PAD_ID, eos_token_id=END_ID, bos_token_id=None,
        decoder_start_token_id=PAD_ID, forced_eos_token_id=None,
    )  # fmt: skip
    return MarianMTModel(config)


def saved(folder: Path, model: Any, tokens: Any, plan: Plan, *, card: str) -> None:
    """The files that `aigrid publish FOLDER` takes: weights, configuration, tokenizer, card."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.num_beams = plan.beams
    model.generation_config.early_stopping = plan.beams > 1
    model.generation_config.bad_words_ids = [[PAD_ID]]
    model.save_pretrained(folder)
    tokens.save(str(folder / "tokenizer.json"))
    settings = {"model_max_length": POSITIONS, "pad_token": PAD, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    head = "---\npipeline_tag: translation\nlanguage: [en, fr]\n---\n"
    (folder / "README.md").write_text(head + card)
