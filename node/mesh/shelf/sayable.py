"""Whether what would be published can be signed, asked before anything is copied or tried."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta

from aigrid.engines.draft import Draft
from aigrid.protocol.errors import UsageError
from aigrid.protocol.kinds import Label, Name
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import ModelDescription
from aigrid.protocol.names import FileName

_Languages = Annotated[tuple[Label, ...], Meta(max_length=LIMITS.languages_max)]
_NO_HASH: Final = "0" * 64
_SHOWN_MAX_CHARS: Final = 48


def settled(path: Path) -> Path:
    """The path, ending in a name: not in `..`.

    Links at its end stay, for the file that a hub's cache links to is called by its hash.
    """
    found = path.absolute()
    try:
        return found.resolve() if found.name == ".." else found.parent.resolve() / found.name
    except (OSError, RuntimeError, ValueError):  # whoever opens it says what is wrong with it
        return found


def check_said(name: str, license_id: str, languages: tuple[str, ...]) -> None:
    """What a person may say of any model.

    Raises:
        UsageError: for what no manifest may hold, with the option that says something else.
    """
    _check(name, Name, "the name", "say another with --name")
    _check(license_id, Label, "the licence", "say its SPDX id with --license")
    _check(languages, _Languages, "the languages", "say them with --language")


def check_draft(name: str, draft: Draft) -> None:
    """The same, and what a model's files say.

    Raises:
        UsageError: for what cannot be signed, or has no place on a shelf.
    """
    check_said(name, draft.license_id, draft.languages)
    for file in sorted(draft.files):
        _check(
            file,
            FileName,
            "the name of a file",
            f"rename it (letters, digits, `.`, `_` and `-`, at most {LIMITS.name_max_chars})",
        )
    if len({file.lower() for file in draft.files}) != len(draft.files):
        raise UsageError("the names of two files differ in nothing but case: rename one")
    _check(_described(draft), ModelDescription, "the model", "what its files say cannot be signed")


def _described(draft: Draft) -> dict[str, Any]:
    """What the model's description will be, but for sizes and hashes."""
    said = ("format", draft.format), ("task", draft.task), ("precision", draft.precision)
    mapping = {} if draft.mapping is UNSET else {"mapping": msgspec.to_builtins(draft.mapping)}
    return {**dict(said), "files": list(_files(draft)), **mapping}


def _files(draft: Draft) -> Iterator[dict[str, Any]]:
    for file in draft.files:
        yield {"name": file, "sha256": _NO_HASH, "bytes": 0}


def _check(value: Any, kind: Any, what: str, mend: str) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        shown = f" {value[:_SHOWN_MAX_CHARS]!r}" if isinstance(value, str) else ""
        raise UsageError(f"{what}{shown} cannot be signed ({_reason(error)}): {mend}") from None


def _reason(error: msgspec.ValidationError) -> str:
    """Without the pattern, which says nothing to most people."""
    text = str(error)
    return "a character that it may not hold" if "matching regex" in text else text


def usual_name(upstream_model: str) -> str:
    """What a model behind a server is called, unless somebody names it."""
    return upstream_model[: LIMITS.name_max_chars]
