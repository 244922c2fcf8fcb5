"""Model cards: only what is wanted, as text, at no cost that has no bound."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aigrid.engines.metadata.card import languages_of, license_of, read_card


def card(folder: Path, text: str) -> dict[str, object]:
    (folder / "README.md").write_text(text, encoding="utf-8")
    return read_card(folder)


def test_a_card_says_licence_languages_and_task(tmp_path: Path) -> None:
    said = card(
        tmp_path,
        "---\nlanguage:\n- en\n- no\nlicense: apache-2.0\ntags:\n- a\nmodel-index:\n- name: x\n"
        "  results: [1, 2]\npipeline_tag: text-ranking\n---\n# Title\nlicense: mit\n",
    )
    assert said == {
        "language": ["en", "no"],
        "license": "apache-2.0",
        "pipeline_tag": "text-ranking",
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no front matter\nlicense: mit\n",
        "---\nlicense: [mit\n---\n",
        "---\nlicense: &a mit\nlanguage: *a\n---\n",
        "---\nlicense:\n  <<: [*a, *a]\n---\n",
        "---\n" + "language: " + "[" * 5000 + "\n---\n",
        "\0\xff",
    ],
)
def test_what_is_no_card_says_nothing(tmp_path: Path, text: str) -> None:
    assert card(tmp_path, text) == {}


def test_no_card_says_nothing(tmp_path: Path) -> None:
    assert read_card(tmp_path) == {}
    (tmp_path / "README.md").mkdir()
    assert read_card(tmp_path) == {}


def test_no_card_keeps_the_parser_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that stands many times is parsed once, and one that is all brackets never."""
    parsed = []
    load = yaml.load

    def counted(text: str, **more: object) -> object:
        parsed.append(text)
        return load(text, **more)

    monkeypatch.setattr(yaml, "load", counted)
    said = card(
        tmp_path,
        "---\n"
        + f"license: {'[' * 33}\nlicense_name: {'{a, ' * 33}\nlanguage: fr\n" * 99
        + "language: [en, de]\n---\n",
    )
    assert said == {"language": ["en", "de"]}
    assert parsed == ["language: [en, de]"]


@given(st.text())
def test_no_text_raises(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "card"
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_bytes(f"---\nlicense: {text}\n---\n".encode("utf-8", "replace"))
    read_card(folder)


@pytest.mark.parametrize(
    ("said", "named", "found"),
    [
        ("apache-2.0", "", "Apache-2.0"),
        ("MIT", "", "MIT"),
        ("other", "Llama 3 Community", "LicenseRef-Llama-3-Community"),
        ("llama3.1", "", "LicenseRef-llama3.1"),
        ("LicenseRef-mine", "", "LicenseRef-mine"),
        ("unknown", "", ""),
        (None, None, ""),
        ("other", None, ""),
        ("x" * 1000, "", ("LicenseRef-" + "x" * 1000)[:96]),
        (["mit"], "", ""),
    ],
)
def test_licences_become_spdx(said: object, named: object, found: str) -> None:
    assert license_of(said, named) == found


def test_only_tags_are_languages() -> None:
    assert languages_of(["en", "pt-BR", "multilingual", 7, "en", "e\x1b[0m"]) == ("en", "pt-BR")
    assert languages_of("de") == ("de",)
    assert languages_of(None) == ()
