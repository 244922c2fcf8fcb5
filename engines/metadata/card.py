"""What a model card says: the YAML at the beginning of a README.md.

Source: Hugging Face Hub, "Model cards", metadata. A card may hold long tables of results, so only
the entries that are wanted are given to a YAML parser, each once, without anchors and without
types: `no` is a language, and no document expands beyond its own size.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from aigrid.engines.small_files import read_small
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import KIB, LIMITS

CARD_FILE: Final = "README.md"
_WANTED: Final = frozenset({"license", "license_name", "language", "pipeline_tag"})
_KEY: Final = re.compile(r"([A-Za-z_]+):")
_ENTRY_MAX_CHARS: Final = 8 * KIB
_OPENED_MAX: Final = 32  # the parser's time grows with the square of what is open at once
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}\Z")
_SPDX: Final = {
    name.lower(): name
    for name in (
        *("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "ISC"),
        *("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"),
        *("CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "CC-BY-3.0", "CC-BY-SA-3.0", "CC-BY-2.0"),
        *("GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0", "MPL-2.0", "EPL-2.0"),
        *("Unlicense", "WTFPL", "Zlib", "Artistic-2.0", "AFL-3.0", "EUPL-1.1", "EUPL-1.2"),
        *("BSL-1.0", "PDDL", "ECL-2.0", "MS-PL", "NCSA", "OFL-1.1", "PostgreSQL"),
    )
}
_UNKNOWN: Final = frozenset({"", "other", "unknown", "none"})


def read_card(folder: Path) -> dict[str, Any]:
    """The wanted entries of the card in a folder: texts, or lists of texts. Never raises."""
    try:
        data = read_small(folder / CARD_FILE, LIMITS.model_config_max_bytes)
    except EngineError:
        return {}
    entries = dict(_entries(data.decode(errors="replace")))
    return {name: value for entry in entries.values() for name, value in _parsed(entry)}


def license_of(said: object, named: object = "") -> str:
    """An SPDX id for what a model calls its licence; "" where it calls it nothing."""
    word = said.strip() if isinstance(said, str) else ""
    if word.lower() in _UNKNOWN and isinstance(named, str) and named.strip():
        word = named.strip()
    if word.lower() in _UNKNOWN:
        return ""
    known = _SPDX.get(word.lower())
    if known is not None:
        return known
    safe = re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-")
    plain = safe.removeprefix("LicenseRef-")
    return f"LicenseRef-{plain}"[: LIMITS.name_max_chars] if plain else ""


def languages_of(said: object) -> tuple[str, ...]:
    """Those of a text or a list that are tags of languages, each once."""
    given = said if isinstance(said, list | tuple) else [said]
    tags = [tag.strip() for tag in given if isinstance(tag, str)]
    found = dict.fromkeys(tag for tag in tags if _LANGUAGE.match(tag))
    return tuple(found)[: LIMITS.languages_max]


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """The wanted keys, with the lines of their entries."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return
    entry: list[str] = []
    for line in [*lines[1:], "---"]:
        if line[:1] in (" ", "\t", "-", "") and line.strip() != "---":
            entry.append(line)
            continue
        found = _KEY.match(entry[0]) if entry else None
        if found and found[1] in _WANTED:
            yield found[1], "\n".join(entry)[:_ENTRY_MAX_CHARS]
        if line.strip() == "---":
            return
        entry = [line]


def _parsed(entry: str) -> Iterator[tuple[str, Any]]:
    import yaml

    if "&" in entry or "*" in entry:  # anchors: what they expand to has no bound
        return
    if entry.count("[") + entry.count("{") > _OPENED_MAX:
        return
    try:
        value = yaml.load(entry, Loader=yaml.BaseLoader)  # noqa: S506 -- makes texts and lists only
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError):
        return
    if isinstance(value, dict):
        yield from ((str(key), item) for key, item in value.items())
