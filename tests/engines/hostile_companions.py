"""Files beside a model from people who mean harm: tokenizers, configurations, lists of labels.

`make` puts a model into a folder whose weights are honest; one file beside them is not.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.engines import bert_models
from tests.engines.bert_models import CONFIG
from tests.engines.tasks.text_models import lookup, plain_words

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import TaskOutput

Change = Callable[[dict[str, Any]], Any]
TEXT: Final = "a" * 40 + "!"


def _tokenizer(change: Change | None = None, raw: bytes = b"") -> Callable[[Path], ModelSource]:
    """A sum of vectors over the tokens of a text; its tokenizer is changed, or is these bytes."""

    def make(folder: Path) -> ModelSource:
        made = lookup(
            folder,
            plain_words("a", "b"),
            {"a": [1.0, 0.0], "b": [0.0, 1.0]},
            task="feature-extraction",
            output=TaskOutput(),
            pooled=True,
        )
        path = made.files["tokenizer.json"]
        if change is not None:
            said = json.loads(path.read_bytes())
            change(said)
            path.write_text(json.dumps(said))
        else:
            path.write_bytes(raw)
        return made

    return make


def _part(name: str, value: Any) -> Callable[[Path], ModelSource]:
    return _tokenizer(lambda said: said.__setitem__(name, value))


def _split(pattern: str) -> Callable[[Path], ModelSource]:
    behaviour = {"behavior": "Isolated", "invert": False}
    return _part("pre_tokenizer", {"type": "Split", "pattern": {"Regex": pattern}, **behaviour})


def _replace(what: Any, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": what, "content": by}


def _growing() -> Any:
    """Each step makes of one letter a thousand."""
    return {"type": "Sequence", "normalizers": [_replace({"String": "a"}, "a" * 1000)] * 5}


def _words(count: int) -> Change:
    def change(said: dict[str, Any]) -> None:
        said["model"]["vocab"] |= {f"w{n}": n + 3 for n in range(count)}

    return change


def _added(content: str, number: int) -> Any:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": number, "content": content, "special": False, **flags}]


def _template(count: int) -> Any:
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}] * count
    return {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    }


TOKENIZERS: Final[dict[str, Callable[[Path], ModelSource]]] = {
    "a pattern that tries everything": _split("(a+)+$"),
    "a pattern that tries everything, at each place": _split("(?:a|a|aa)+?(?=b)"),
    "a pattern in a pattern in a pattern": _split("(" * 5000 + "a" + ")" * 5000),
    "a pattern of a billion": _split("(?:a{1000}){1000}" * 10),
    "a pattern that matches nothing": _split("(?=)"),
    "text that grows": _part("normalizer", _growing()),
    "text that grows out of nothing": _part("normalizer", _replace({"String": ""}, "a" * 99_999)),
    "steps without end": _part(
        "normalizer", {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 100_000}
    ),
    "a table that is none": _part(
        "normalizer", {"type": "Precompiled", "precompiled_charsmap": "//////8="}
    ),
    "two million words": _tokenizer(_words(2_000_000)),
    "a word of all memory": _part("added_tokens", _added("x" * 50_000_000, 3)),
    "an empty word": _part("added_tokens", _added("", 3)),
    "a number that no model has": _part("added_tokens", _added("a", 2**32 - 1)),
    "a million times the same text": _part("post_processor", _template(1_000_000)),
    "padding of a billion": _part(
        "padding",
        {
            "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
    ),
    "lists in lists": _tokenizer(raw=b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
    "what is no text": _tokenizer(raw=b"\xff\xfe" * 50),
    "nothing": _tokenizer(raw=b""),
    "65 MiB": _tokenizer(raw=b" " * (65 << 20)),
    "a model of another kind": _part("model", {"type": "Shell", "command": "id"}),
}  # fmt: skip


def _config(**changes: Any) -> Callable[[Path], ModelSource]:
    def make(folder: Path) -> ModelSource:
        made = bert_models.save(folder, CONFIG, bert_models.weights(CONFIG))
        made.files["config.json"].write_text(json.dumps({**CONFIG, **changes}))
        return made

    return make


def _raw_config(raw: bytes) -> Callable[[Path], ModelSource]:
    def make(folder: Path) -> ModelSource:
        made = _config()(folder)
        made.files["config.json"].write_bytes(raw)
        return made

    return make


CONFIGURATIONS: Final[dict[str, Callable[[Path], ModelSource]]] = {
    "a width of 2^31": _config(hidden_size=2**31),
    "a width beyond all": _config(hidden_size=10**30),
    "a width below nothing": _config(hidden_size=-24),
    "a billion layers": _config(num_hidden_layers=10**9),
    "no heads": _config(num_attention_heads=0),
    "heads that do not fit": _config(num_attention_heads=7),
    "two billion words": _config(vocab_size=2**31),
    "a billion labels": _config(num_labels=10**9, architectures=["BertForTokenClassification"]),
    "a norm of infinity": _raw_config(json.dumps(CONFIG).encode().replace(b"1e-12", b"1e999")),
    "a norm that is a text": _config(layer_norm_eps="__import__('os')"),
    "an activation of its own": _config(hidden_act="os.system"),
    "code from elsewhere": _config(
        model_type="mine", auto_map={"AutoModel": "modeling_mine.Mine"}, trust_remote_code=True
    ),
    "lists in lists": _raw_config(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a list": _raw_config(b"[]"),
    "what is no text": _raw_config(b"\xff\xfe{}"),
    "nothing": _raw_config(b""),
    "2 MiB": _raw_config(b" " * (2 << 20)),
}


def _labels(raw: bytes) -> Callable[[Path], ModelSource]:
    def make(folder: Path) -> ModelSource:
        tokenizer = plain_words("a", "b")
        output = TaskOutput(labels_file="labels.txt")
        made = lookup(
            folder, tokenizer, {"a": [1.0, 0.0]}, task="text-classification", output=output,
            pooled=True,
        )  # fmt: skip
        (folder / "labels.txt").write_bytes(raw)
        return replace(made, files={**made.files, "labels.txt": folder / "labels.txt"})

    return make


LABELS: Final[dict[str, Callable[[Path], ModelSource]]] = {
    "2 MiB": _labels(b"x\n" * (1 << 20)),
    "what is no text": _labels(b"\xff\xfe\n\x00\n"),
    "too many": _labels(b"x\n" * 100),
    "nothing": _labels(b""),
}
COMPANIONS: Final = {
    f"{kind}: {name}": make
    for kind, found in (
        ("tokenizer", TOKENIZERS),
        ("configuration", CONFIGURATIONS),
        ("labels", LABELS),
    )
    for name, make in found.items()
}
