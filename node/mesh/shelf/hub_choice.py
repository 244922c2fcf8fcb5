"""Which files of a repository on the Hugging Face Hub make a model; pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aigrid.protocol.errors import Code, EngineError, UsageError
from aigrid.protocol.limits import LIMITS, MIB

_REFERENCE: Final = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(@(?P<revision>[A-Za-z0-9][\w.-]{0,127}))?"
    r"(/(?P<file>[A-Za-z0-9_][\w./-]{0,255})|:(?P<tag>[A-Za-z0-9][\w.-]{0,63}))?",
    re.ASCII,
)
_BESIDE: Final = frozenset(
    {
        *("config.json", "generation_config.json", "preprocessor_config.json", "modules.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("chat_template.jinja", "sentence_bert_config.json", "config_sentence_transformers.json"),
        *("model.safetensors.index.json", "README.md"),
    }
)
_MODULE: Final = re.compile(r"[0-9]{1,2}_[A-Za-z]{1,32}/config\.json", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_][\w./-]{0,255}", re.ASCII)
_SHARD: Final = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors", re.ASCII)
_CODE: Final = (
    *(".bin", ".pt", ".pt2", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"),
    *(".h5", ".keras", ".msgpack"),
)
_SCRIPTS: Final = (".py", ".pyc", ".so", ".sh")
_MODULES_MAX: Final = 8
_BESIDE_MAX_BYTES: Final = 64 * MIB
_LISTED: Final = 12
GB: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Reference:
    """What `hf:` names: a repository, and which revision or file of it, if that is said.

    Attributes:
        tag: a part of the name of one of several GGUF files, such as "Q4_K_M".
    """

    repo: str
    revision: str = ""
    file: str = ""
    tag: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{revision}" + (
            f"/{self.file}" if self.file else f":{self.tag}" if self.tag else ""
        )


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository; `sha256` is "" for small ones, of which the hub does not tell."""

    bytes: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is downloaded: `model` is the file to look at, or "" for the folder as a whole."""

    files: Mapping[str, RemoteFile]
    model: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)


def reference(text: str) -> Reference:
    """Parse what stands after `hf:`. Raises UsageError."""
    found = _REFERENCE.fullmatch(text)
    parts = {name: value or "" for name, value in found.groupdict().items()} if found else {}
    if not parts or ".." in text or "//" in text:
        raise UsageError(
            "a model on the hub is hf:ORG/NAME, hf:ORG/NAME@REVISION, hf:ORG/NAME/FILE, or "
            "hf:ORG/NAME:TAG for one of several GGUF files"
        )
    return Reference(**parts)


def is_plain(name: str) -> bool:
    """Whether a file's name may be one here: nothing that leads elsewhere, or that a shell eats."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def choose(wanted: Reference, files: Mapping[str, RemoteFile]) -> Choice:
    """The files to download.

    Raises:
        UsageError: where a file has to be named, or is not there.
        EngineError: `unsafe_file` where there are only weights that can run code, or where such
            a file is named; `unsupported_model` where there are none, too many, or too large ones.
    """
    choice = _choose(wanted, files)
    if sum(1 for name in choice.files if _MODULE.fullmatch(name)) > _MODULES_MAX:
        raise EngineError(
            f"{wanted.repo} describes more than {_MODULES_MAX} modules (NN_NAME/config.json)",
            Code.UNSUPPORTED_MODEL,
        )
    if len(choice.files) > LIMITS.files_max:
        raise EngineError(
            f"{wanted.repo} has {len(choice.files)} files of weights and beside them; a model has "
            f"at most {LIMITS.files_max} files",
            Code.UNSUPPORTED_MODEL,
        )
    for name, file in choice.files.items():
        if file.bytes > LIMITS.hub_file_max_bytes:
            raise EngineError(
                f"{name[:96]} has {file.bytes // GB} GB, and the hub gives no file above "
                f"{LIMITS.hub_file_max_bytes // GB} GB over plain HTTP: take a model in several "
                "files, or bring it here by other means and publish its path",
                Code.UNSUPPORTED_MODEL,
            )
    return choice


def _choose(wanted: Reference, files: Mapping[str, RemoteFile]) -> Choice:
    """The same, however many files and however large."""
    beside = {
        name: file
        for name, file in files.items()
        if (name in _BESIDE or _MODULE.fullmatch(name)) and file.bytes <= _BESIDE_MAX_BYTES
    }
    if wanted.file:
        return Choice({**beside, wanted.file: _named(wanted, files)}, wanted.file)
    ggufs = sorted(n for n in files if n.endswith(".gguf") and "mmproj" not in n and "/" not in n)
    if wanted.tag:
        one = _one([n for n in ggufs if wanted.tag.lower() in n.lower()], ggufs, files)
        return Choice({**beside, one: files[one]}, one)
    weights = _tensors(files) or [n for n in ("model.onnx", "onnx/model.onnx") if n in files][:1]
    if not weights and ggufs:
        one = _one(ggufs, ggufs, files)
        return Choice({**beside, one: files[one]}, one)
    code = sorted(name for name in files if name.endswith(_CODE))
    if not weights and code:
        raise EngineError(
            f"{wanted.repo} has only weights that can run code when they are loaded "
            f"({code[0][:96]}); ask for a revision with safetensors",
            Code.UNSAFE_FILE,
        )
    if not weights:
        raise EngineError(
            f"{wanted.repo} has no safetensors, ONNX or GGUF that could be taken",
            Code.UNSUPPORTED_MODEL,
        )
    left_out = dict.fromkeys(code[:_LISTED], "loading it could run code that is hidden in it")
    chosen = {**beside, **{name: files[name] for name in weights}}
    return Choice(chosen, weights[0] if weights[0].endswith(".onnx") else "", left_out)


def _named(wanted: Reference, files: Mapping[str, RemoteFile]) -> RemoteFile:
    """The file that was named, unless it can run code: that is taken from nobody unseen."""
    if wanted.file not in files:
        raise UsageError(f"{wanted.repo} has no file {wanted.file}", Code.MODEL_FILE_MISSING)
    if wanted.file.lower().endswith(_CODE + _SCRIPTS):
        raise EngineError(
            f"{wanted.file[:96]} can run code when it is loaded, so it is not downloaded; name a "
            "safetensors, ONNX or GGUF file",
            Code.UNSAFE_FILE,
        )
    return files[wanted.file]


def _tensors(files: Mapping[str, RemoteFile]) -> list[str]:
    """One set of safetensors in the outermost folder."""
    if "model.safetensors" in files:
        return ["model.safetensors"]
    shards = sorted(name for name in files if _SHARD.fullmatch(name))
    if shards:
        return shards
    alone = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    return alone if len(alone) == 1 and not alone[0].startswith("adapter") else []


def _one(fitting: list[str], known: list[str], files: Mapping[str, RemoteFile]) -> str:
    if len(fitting) == 1:
        return fitting[0]
    shown = fitting or known
    listed = ", ".join(f"{n} ({files[n].bytes // MIB} MiB)" for n in shown[:_LISTED])
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    raise UsageError(f"name one of its files, as hf:ORG/NAME/FILE: {listed}{more}")
