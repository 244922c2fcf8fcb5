"""Which reader a path needs: a file by its content, a folder by what lies in it."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from aigrid.engines.draft import Draft
from aigrid.engines.formats import FileReport, detect, inspect
from aigrid.engines.metadata.card import CARD_FILE, languages_of, license_of, read_card
from aigrid.engines.metadata.gguf_model import read_gguf
from aigrid.engines.metadata.hf_folder import CONFIG_FILE, Weights, find_weights, read_folder
from aigrid.engines.metadata.onnx_model import read_onnx
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.task import files_of

_BY_CONTENT: Final = frozenset({"gguf", "onnx", "safetensors", "pt2"})


def read(
    path: Path, *, task: str = "", formats: Collection[str] = (), trusted: bool = False
) -> Draft:
    """The draft of a model file or of a folder with one.

    Args:
        path: a GGUF, ONNX or safetensors file, or a folder as Hugging Face's libraries save it.
        task: what somebody says that the model is for, or "" to read it.
        formats: what engines take that are installed here: a file `*.FORMAT` of one of them is
            taken for it if its content is of no other kind.
        trusted: whether this node lets its publisher run code here.

    Raises:
        EngineError: `unsafe_file`, `unsupported_model`, `unsupported_quantisation`,
            `model_file_missing`.
    """
    try:
        return _read(path, task, formats, trusted=trusted)
    except OSError as error:
        raise EngineError(
            f"cannot read {path.name}: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None


def _read(path: Path, task: str, formats: Collection[str], *, trusted: bool) -> Draft:
    if path.is_dir():
        return _of_folder(path, task)
    kind = detect(path)
    ending = path.suffix[1:].lower()
    if kind == "other" and ending in set(formats) - _BY_CONTENT:
        return Draft(ending, {f"model.{ending}": path}).said("--capability", task=task)
    report = inspect(path, trusted=trusted)
    match report.format:
        case "gguf":
            draft = read_gguf(path, report.precision)
        case "onnx":
            home = path.parent.parent if path.parent.name == "onnx" else path.parent
            if (home / CONFIG_FILE).is_file():
                return read_folder(home, _alone(path, report), task=task)
            draft = _with_named(read_onnx(path, report.precision), path.parent)
        case "safetensors":
            return read_folder(path.parent, _alone(path, report), task=task)
        case _:
            draft = Draft(report.format, {f"model.{report.format}": path}, report.precision)
    return _with_card(draft.meant(task), path.parent)


def _of_folder(folder: Path, task: str) -> Draft:
    weights = find_weights(folder)
    reports = [inspect(path) for path in weights.paths]
    alone = weights.format == "onnx" and not (folder / CONFIG_FILE).is_file()
    if weights.format == "gguf" or alone:
        return read(weights.paths[0], task=task)
    return read_folder(folder, replace(weights, precision=reports[0].precision), task=task)


def _alone(path: Path, report: FileReport) -> Weights:
    """A file that is one of a folder's: its neighbours say what it is."""
    return Weights(report.format, (path,), {}, report.precision)


def _with_named(draft: Draft, folder: Path) -> Draft:
    """With the files that a model's own mapping names."""
    beside = {name: folder / name for name in files_of(draft.mapping)}
    for name, path in beside.items():
        if name in draft.files or not path.is_file():
            raise EngineError(
                f"the mapping in the file names {name!r}, which does not lie beside it",
                Code.MODEL_FILE_MISSING,
            )
    return replace(draft, files={**draft.files, **beside})


def _with_card(draft: Draft, folder: Path) -> Draft:
    """A card beside a single file says whose it is, if nothing in the file does."""
    card = read_card(folder)
    return draft.said(
        CARD_FILE,
        license_id=license_of(card.get("license"), card.get("license_name")),
        languages=languages_of(card.get("language")),
    )
