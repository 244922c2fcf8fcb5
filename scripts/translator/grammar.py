"""Sentences of a small grammar in English and French, for tests: agreement and word order differ.

`the old cats see a red house` is `les vieux chats voient une maison rouge`, so nothing that goes
word by word gets them right.
"""

import itertools
import random
from typing import Final

from scripts.translator.catalogues import Pair
from scripts.translator.corpus import Corpus

_NOUNS: Final = (  # English, French, whether feminine
    ("cat", "chat", False), ("dog", "chien", False), ("book", "livre", False),
    ("garden", "jardin", False), ("bird", "canard", False), ("door", "porte", True),
    ("table", "table", True), ("flower", "fleur", True), ("car", "voiture", True),
    ("house", "maison", True),
)  # fmt: skip
_ADJECTIVES: Final = (  # English, masculine, feminine
    ("red", "rouge", "rouge"), ("green", "vert", "verte"), ("black", "noir", "noire"),
    ("heavy", "lourd", "lourde"), ("blue", "bleu", "bleue"), ("empty", "vide", "vide"),
)  # fmt: skip
_VERBS: Final = (  # English and French, of one and of several
    ("sees", "voit", "see", "voient"), ("takes", "prend", "take", "prennent"),
    ("finds", "trouve", "find", "trouvent"),
)  # fmt: skip


_PHRASES: Final = tuple(itertools.product(_NOUNS, _ADJECTIVES, (False, True)))


def _sentence(number: int) -> Pair:
    """One of all that there are: the `number`th."""
    number, verb = divmod(number, len(_VERBS))
    who, whom = divmod(number, len(_PHRASES))
    form = 2 if _PHRASES[who][2] else 0
    first, second = (
        _phrase(noun, adjective, many=many)
        for noun, adjective, many in (_PHRASES[who], _PHRASES[whom])
    )
    words = _VERBS[verb][form : form + 2]
    source, target = (f"{first[side]} {words[side]} {second[side]}" for side in (0, 1))
    return source, target


def _phrase(noun: tuple[str, str, bool], adjective: tuple[str, str, str], *, many: bool) -> Pair:
    ending = "s" if many else ""
    article = "les" if many else ("la" if noun[2] else "le")
    french = adjective[2 if noun[2] else 1]
    return f"the {adjective[0]} {noun[0]}{ending}", f"{article} {noun[1]}{ending} {french}{ending}"


def sentences(seed: int) -> Corpus:
    """2,000 sentences to train on and 100 others, of some 43,000 that there are."""
    draw = random.Random(seed).sample(range(len(_PHRASES) ** 2 * len(_VERBS)), 2120)
    made = tuple(_sentence(number) for number in draw)
    return Corpus(made[:2000], made[2000:2020], made[2020:], dropped=0)
