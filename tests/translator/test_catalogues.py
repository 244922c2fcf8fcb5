"""Pairs out of catalogues as programs ship them."""

import json
import struct

from hypothesis import given
from hypothesis import strategies as st
from scripts.translator.catalogues import cleaned, from_json, from_mo, from_po

PO = rb"""
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

#: a.py:1
#, python-format
msgctxt "menu"
msgid "Open "
"it"
msgstr "L'ouvrir \"vite\""

#, fuzzy
msgid "Not sure"
msgstr "Pas certain"

#. Default: "Read \"more\""
msgid "label_more"
msgstr "Lire plus"

msgid "one file"
msgid_plural "%d files"
msgstr[0] "un fichier"
msgstr[1] "%d fichiers"

msgid "untranslated"
msgstr ""

#~ msgid "gone"
#~ msgstr "parti"
"""


def compiled(messages: dict[str, str]) -> bytes:
    """As msgfmt writes a .mo file, with no table of hashes."""
    sides = [[text.encode() for text in side] for side in (messages, messages.values())]
    at = 28 + 16 * len(messages)
    tables, body = b"", b""
    for side in sides:
        for text in side:
            tables += struct.pack("<2I", len(text), at + len(body))
            body += text + b"\0"
    header = (0x950412DE, 0, len(messages), 28, 28 + 8 * len(messages), 0, at)
    return struct.pack("<7I", *header) + tables + body


def test_a_catalogue_as_people_edit_it() -> None:
    assert [pair for pair in from_po(PO) if pair[0]] == [
        ("Open it", 'L\'ouvrir "vite"'),
        ('Read "more"', "Lire plus"),
        ("one file", "un fichier"),
    ]


text = st.text(st.characters(exclude_characters="\0\4", codec="utf-8"), min_size=1)


@given(st.dictionaries(text, text))
def test_a_compiled_catalogue_gives_what_was_compiled(messages: dict[str, str]) -> None:
    assert list(from_mo(compiled(messages))) == list(messages.items())


def test_contexts_and_plurals_of_a_compiled_catalogue() -> None:
    made = compiled({"menu\4one file\0%d files": "un fichier\0%d fichiers"})
    assert list(from_mo(made)) == [("one file", "un fichier")]


def test_trees_of_texts_are_paired_by_their_keys() -> None:
    english = {"a": {"b": "One", "c": "Two"}, "d": "Three", "e": 4}
    french = {"a": {"b": "Un", "x": "?"}, "d": {"y": "?"}, "e": "quatre"}
    sides = (json.dumps(tree).encode() for tree in (english, french))
    assert list(from_json(*sides)) == [("One", "Un")]


def test_only_plain_text_in_two_languages_is_kept() -> None:
    kept = [("Don\u2019t  save", "Ne pas enregistrer"), ("Done", "Terminé")]
    left = [
        ("Hello {name}", "Bonjour {name}"), ("<b>Bold</b>", "<b>Gras</b>"), ("label_more", "Plus"),
        ("%d files", "%d fichiers"), ("Port", "port"), ("See https://a.b", "Voir https://a.b"),
        ("42", "43"), ("Yes", "Oui " * 40), ("long " * 60, "longue " * 60),
    ]  # fmt: skip
    assert list(cleaned([*kept, *left])) == [("Don't save", "Ne pas enregistrer"), kept[1]]
