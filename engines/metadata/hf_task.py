"""Which task a model of Hugging Face's libraries is for: its class decides, its card refines.

`architectures` in config.json names the class that was saved, whose head leaves a few tasks at
most; `pipeline_tag` on the card chooses among them. A card that contradicts the head is wrong.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aigrid.engines.metadata.card import CARD_FILE

MODULES_FILE: Final = "modules.json"
_CONFIG: Final = "config.json"
# End of the class's name -> the tasks that its head can do, the usual one first.
_HEADS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("ForCausalLM", ("text-generation",)),
    ("LMHeadModel", ("text-generation",)),
    (
        "ForSequenceClassification",
        ("text-classification", "zero-shot-classification", "text-ranking"),
    ),
    ("ForTokenClassification", ("token-classification",)),
    ("ForImageClassification", ("image-classification",)),
    ("ForImageClassificationWithTeacher", ("image-classification",)),
    ("MTModel", ("translation",)),
    ("ForConditionalGeneration", ("", "translation", "summarization")),
    ("ForQuestionAnswering", ("question-answering",)),
    ("ForMaskedLM", ("fill-mask",)),
    ("ForAudioClassification", ("audio-classification",)),
    ("ForCTC", ("automatic-speech-recognition",)),
    ("ForObjectDetection", ("object-detection",)),
    ("Model", ("feature-extraction",)),
)
_SAME: Final = {
    "sentence-similarity": "feature-extraction",
    "text2text-generation": "",
    "conversational": "text-generation",
}


def task_of(config: Mapping[str, Any], card: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """The task, and where that was read; "" where nothing says."""
    tag = card.get("pipeline_tag")
    said = _SAME.get(tag, tag) if isinstance(tag, str) else ""
    if (folder / MODULES_FILE).is_file():
        return "feature-extraction", MODULES_FILE
    name = class_of(config)
    able = next((tasks for end, tasks in _HEADS if name.endswith(end)), ())
    if not able:
        return said, CARD_FILE
    if said in able and said:
        return said, CARD_FILE
    if name.endswith("ForSequenceClassification"):
        return _of_labels(config), f"{_CONFIG}: id2label"
    return able[0], f"{_CONFIG}: {name}"


def class_of(config: Mapping[str, Any]) -> str:
    """The class that was saved, or ""."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """`id2label` in order of id; empty where it is missing or has gaps."""
    said = config.get("id2label")
    if not isinstance(said, dict):
        return ()
    found = [said.get(str(n)) for n in range(len(said))]
    return (
        tuple(label for label in found if isinstance(label, str))
        if all(isinstance(label, str) for label in found)
        else ()
    )


def is_cross_encoder(config: Mapping[str, Any]) -> bool:
    """Whether it was saved by a `CrossEncoder` of sentence-transformers."""
    return "sentence_transformers" in config or "sbert_ce_default_activation_function" in config


def _of_labels(config: Mapping[str, Any]) -> str:
    labels = [label.lower() for label in labels_of(config)]
    if "entailment" in labels:
        return "zero-shot-classification"
    if len(labels) == 1 and is_cross_encoder(config):
        return "text-ranking"
    return "text-classification"
