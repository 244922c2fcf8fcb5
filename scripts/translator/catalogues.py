"""Pairs of sentences out of the catalogues in which programs keep their translations. Pure.

Every reader takes the bytes of a file and gives (English, French) pairs as they stand there.
"""

import ast
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

Pair = tuple[str, str]

_MO_MAGIC: Final = 0x950412DE
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_PO_FIELD: Final = re.compile(r"(msgctxt|msgid|msgid_plural|msgstr|msgstr\[\d+\]) ")
_DEFAULT: Final = re.compile(r'#\. Default: ("(?:[^"\\]|\\.)*")')


def from_mo(data: bytes) -> Iterator[Pair]:
    """A compiled catalogue of gettext: of messages with a plural, the singular."""
    magic, _, count, ids, texts = struct.unpack_from("<5I", data)
    if magic != _MO_MAGIC:
        raise ValueError("not a little-endian .mo file")

    def text(table: int, n: int) -> str:
        length, offset = struct.unpack_from("<2I", data, table + 8 * n)
        return data[offset : offset + length].decode()

    for n in range(count):
        source = text(ids, n).rpartition("\x04")[2].split("\0")[0]  # a context comes before \4
        yield source, text(texts, n).split("\0")[0]


def from_po(data: bytes) -> Iterator[Pair]:
    """A catalogue as people edit it. Where ids are keys, their English stands in a comment."""
    for block in re.split(r"\n\s*\n", data.decode()):
        fields: dict[str, str] = {}
        name, fuzzy, english = "", False, ""
        for line in block.splitlines():
            if line.startswith("#"):
                fuzzy = fuzzy or (line.startswith("#,") and "fuzzy" in line)
                found = _DEFAULT.match(line)
                english = ast.literal_eval(found[1]) if found else english
                continue
            if begins := _PO_FIELD.match(line):
                name = begins[1]
            for part in _QUOTED.findall(line):
                fields[name] = fields.get(name, "") + ast.literal_eval(part)
        target = fields.get("msgstr") or fields.get("msgstr[0]", "")
        if target and not fuzzy:
            yield english or fields.get("msgid", ""), target


def from_json(english: bytes, french: bytes) -> Iterator[Pair]:
    """Two trees of texts under the same keys."""
    sources, targets = _leaves(json.loads(english)), _leaves(json.loads(french))
    for key, source in sources.items():
        if key in targets:
            yield source, targets[key]


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    if isinstance(tree, str):
        return {path: tree}
    if not isinstance(tree, Mapping):
        return {}
    return {k: v for key, sub in tree.items() for k, v in _leaves(sub, (*path, key)).items()}


_SPACE: Final = re.compile(r"\s+")
_SAME: Final = str.maketrans(
    {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2026: "...", 0x2013: "-"}
)  # quotes, dots and dashes of typography
_MARKUP: Final = re.compile(r"[<>{}\[\]%$\\|_=@#~^*&`]|https?:|\w\.\w|\.\.\.\w")
_LETTERS: Final = re.compile(r"[^\W\d_]{2}")
SOURCE_MAX_CHARS: Final = 200


def cleaned(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Those that are plain text in two languages.

    Left out: placeholders, markup, keys and addresses; what is the same in both languages (most of
    it was never translated); more than `SOURCE_MAX_CHARS`; lengths that differ more than between
    translations. Quotes and spaces are those of a keyboard.
    """
    for pair in pairs:
        source, target = (_SPACE.sub(" ", text.translate(_SAME)).strip() for text in pair)
        if _MARKUP.search(source) or _MARKUP.search(target):
            continue
        if not (_LETTERS.search(source) and _LETTERS.search(target)):
            continue
        if len(source) > SOURCE_MAX_CHARS or source.casefold() == target.casefold():
            continue
        if 0.5 <= (len(target) + 8) / (len(source) + 8) <= 2.2:
            yield source, target
