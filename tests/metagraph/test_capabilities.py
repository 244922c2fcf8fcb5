import msgspec
import pytest

from aigrid.metagraph import capabilities
from aigrid.metagraph.capabilities import Concept, Taxonomy, default_taxonomy, parse_taxonomy


def test_the_shipped_taxonomy_is_sound_and_has_the_six_groups() -> None:
    concepts = default_taxonomy().concepts
    roots = {name for name, concept in concepts.items() if not concept.broader}
    assert roots == {"text", "vision", "audio", "tabular", "multimodal", "utility"}
    for name in (
        "text-generation",
        "feature-extraction",
        "image-classification",
        "automatic-speech-recognition",
        "voice-activity-detection",
        "tabular-regression",
        "file-type-detection",
        "tensor",
    ):
        assert capabilities.known(name)
        assert capabilities.ancestors(name) & roots


def test_ancestors_and_descendants_are_each_others_inverse() -> None:
    names = default_taxonomy().concepts
    for name in names:
        for other in names:
            assert (other in capabilities.ancestors(name)) == (
                name in capabilities.descendants(other)
            )
        assert name not in capabilities.ancestors(name)


def test_ancestors_go_all_the_way_up() -> None:
    assert capabilities.ancestors("text-to-speech") == {"text-to-audio", "audio"}
    assert "text-to-speech" in capabilities.descendants("audio")


def test_an_unknown_name_is_unrelated() -> None:
    assert not capabilities.known("mind-reading")
    assert capabilities.ancestors("mind-reading") == frozenset()
    assert capabilities.descendants("mind-reading") == frozenset()


@pytest.mark.parametrize(
    ("concepts", "complaint"),
    [
        ([Concept("a", "A", ("b",))], "not defined"),
        ([Concept("a", "A", ("b",)), Concept("b", "B", ("a",))], "broader than itself"),
        ([Concept("a", "A", ("a",))], "broader than itself"),
        ([Concept("a", "A", ()), Concept("a", "A", ())], "twice"),
    ],
)
def test_an_unsound_vocabulary_is_refused(concepts: list[Concept], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Taxonomy(concepts)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "Not A Tag", "label": "x", "broader": []},
        {"name": "a", "label": "", "broader": []},
        {"name": "a", "label": "x", "broader": [], "narrower": []},
        {"name": "a", "label": "x"},
    ],
)
def test_a_vocabulary_of_another_form_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        parse_taxonomy(msgspec.json.encode({"capabilities": [entry]}))
