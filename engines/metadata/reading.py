"""Which reader a path needs: a file by its content, a folder by what lies in it."""

from collections.abc import Collection
from pathlib import Path

from aigrid.engines.formats import detect, inspect
from aigrid.engines.metadata.card import CARD_FILE, languages_of, license_of, read_card
from aigrid.engines.metadata.draft import Draft
from aigrid.engines.metadata.gguf_model import read_gguf
from aigrid.engines.metadata.hf_folder import CONFIG_FILE, Weights, find_weights, read_folder
from aigrid.engines.metadata.onnx_model import read_onnx
from aigrid.protocol.errors import Code, EngineError


def read(path: Path, *, task: str = "", formats: Collection[str] = ()) -> Draft:
    """The draft of a model file or of a folder with one.

    Args:
        path: a GGUF, ONNX or safetensors file, or a folder as Hugging Face's libraries save it.
        task: what somebody says that the model is for, or "" to read it.
        formats: what engines take that are installed here: a file `*.FORMAT` of one of them is
            taken for it if its content is of no other kind.

    Raises:
        EngineError: `unsafe_file`, `unsupported_model`, `unsupported_quantisation`,
            `model_file_missing`.
    """
    if path.is_dir():
        return _of_folder(path, task)
    kind = detect(path)
    ending = path.suffix[1:].lower()
    if kind == "other" and ending in formats:
        return Draft(ending, {f"model.{ending}": path}).said("--capability", task=task)
    report = inspect(path)
    match report.format:
        case "gguf":
            draft = read_gguf(path, report.precision)
        case "onnx":
            home = path.parent.parent if path.parent.name == "onnx" else path.parent
            if (home / CONFIG_FILE).is_file():
                return _in_folder(home, path, "onnx", task)
            draft = read_onnx(path, report.precision)
        case "safetensors":
            return _in_folder(path.parent, path, "safetensors", task)
        case _:
            draft = Draft(report.format, {f"model.{report.format}": path}, report.precision)
    return _with_card(draft.meant(task), path.parent)


def _of_folder(folder: Path, task: str) -> Draft:
    try:
        weights = find_weights(folder)
    except OSError as error:
        raise EngineError(
            f"cannot read {folder}: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None
    for path in weights.paths:
        inspect(path)
    alone = weights.format == "onnx" and not (folder / CONFIG_FILE).is_file()
    if weights.format == "gguf" or alone:
        return read(weights.paths[0], task=task)
    return read_folder(folder, task=task, weights=weights)


def _in_folder(home: Path, path: Path, format_: str, task: str) -> Draft:
    """A file that is one of a folder's: its neighbours say what it is."""
    return read_folder(home, task=task, weights=Weights(format_, (path,), {}))


def _with_card(draft: Draft, folder: Path) -> Draft:
    """A card beside a single file says whose it is, if nothing in the file does."""
    card = read_card(folder)
    return draft.said(
        CARD_FILE,
        license_id=license_of(card.get("license"), card.get("license_name")),
        languages=languages_of(card.get("language")),
    )
