"""Which files of a repository are wanted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.mesh.shelf.hub_choice import Reference, RemoteFile, choose, is_plain, reference
from aigrid.protocol.errors import AigridError, Code, UsageError
from aigrid.protocol.limits import LIMITS

REPO = Reference("org/name")
BESIDE = ("config.json", "tokenizer.json", "README.md")


def files(*names: str) -> dict[str, RemoteFile]:
    return {name: RemoteFile(1000) for name in names}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/name", Reference("org/name")),
        ("org/na.me-1", Reference("org/na.me-1")),
        ("org/name@main", Reference("org/name", "main")),
        ("org/name@abc/onnx/model.onnx", Reference("org/name", "abc", "onnx/model.onnx")),
        ("org/name:Q4_K_M", Reference("org/name", "", "", "Q4_K_M")),
    ],
)
def test_references_are_parsed_and_written_alike(text: str, parts: Reference) -> None:
    assert reference(text) == parts
    assert str(parts) == text


@pytest.mark.parametrize(
    "text",
    ["", "name", "org/", "/name", "org/name/..", "org/../name", "a/b@", "a/b//c", "a/b c", "ä/b",
     "org/name/\n", "-org/name", "org/name@-x", "https://hub/org/name"],
)  # fmt: skip
def test_what_names_no_model_is_usage(text: str) -> None:
    with pytest.raises(UsageError, match="hf:ORG/NAME"):
        reference(text)


@given(st.text(max_size=300))
def test_a_reference_leads_nowhere_else(text: str) -> None:
    try:
        found = reference(text)
    except UsageError:
        return
    assert not found.repo.startswith(("/", ".", "-"))
    assert is_plain(found.file or "x")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("model.safetensors", True),
        ("onnx/model.onnx", True),
        ("../x", False),
        ("/etc/passwd", False),
        ("a/../../x", False),
        (".hidden", False),
        ("a\\b", False),
        ("a\n", False),
        ("x" * 300, False),
    ],
)
def test_only_plain_names_are_taken(name: str, plain: bool) -> None:
    assert is_plain(name) is plain


def test_safetensors_come_first_and_with_what_is_beside_them() -> None:
    held = files(*BESIDE, "model.safetensors", "model.onnx", "pytorch_model.bin", "x.png",
                 "1_Pooling/config.json", "deep/1_Pooling/config.json")  # fmt: skip
    choice = choose(REPO, held)
    assert set(choice.files) == {*BESIDE, "model.safetensors", "1_Pooling/config.json"}
    assert choice.model == ""
    assert set(choice.left_out) == {"pytorch_model.bin"}


def test_shards_come_together() -> None:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    choice = choose(
        REPO, files(*shards, "model.safetensors.index.json", "consolidated.safetensors")
    )
    assert set(choice.files) == {*shards, "model.safetensors.index.json"}


def test_a_graph_is_taken_where_there_are_no_safetensors() -> None:
    choice = choose(REPO, files(*BESIDE, "onnx/model.onnx", "onnx/model_int8.onnx"))
    assert choice.model == "onnx/model.onnx"
    assert set(choice.files) == {*BESIDE, "onnx/model.onnx"}


def test_one_of_several_ggufs_is_named_by_file_or_tag() -> None:
    held = files("m.Q4_K_M.gguf", "m.Q8_0.gguf", "mmproj-f16.gguf", "README.md")
    with pytest.raises(UsageError, match=r"m\.Q4_K_M\.gguf"):
        choose(REPO, held)
    by_tag = choose(Reference("org/name", tag="q8_0"), held)
    assert (by_tag.model, set(by_tag.files)) == ("m.Q8_0.gguf", {"m.Q8_0.gguf", "README.md"})
    by_file = choose(Reference("org/name", file="m.Q4_K_M.gguf"), held)
    assert by_file.model == "m.Q4_K_M.gguf"
    with pytest.raises(UsageError):
        choose(Reference("org/name", tag="q5"), held)
    with pytest.raises(UsageError, match="has no file"):
        choose(Reference("org/name", file="other.gguf"), held)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("pytorch_model.bin", "config.json"), Code.UNSAFE_FILE),
        (("README.md",), Code.UNSUPPORTED_MODEL),
        (("adapter_model.safetensors", "adapter_config.json"), Code.UNSUPPORTED_MODEL),
        (
            tuple(f"model-{n:05}-of-00099.safetensors" for n in range(99)),
            Code.UNSUPPORTED_MODEL,
        ),
    ],
)
def test_what_cannot_be_taken_says_why(names: tuple[str, ...], code: Code) -> None:
    with pytest.raises(AigridError) as caught:
        choose(REPO, files(*names))
    assert caught.value.code is code


def test_a_huge_file_beside_is_left_where_it_is() -> None:
    held = {**files("model.safetensors"), "tokenizer.json": RemoteFile(2**40)}
    assert set(choose(REPO, held).files) == {"model.safetensors"}


MANY_MODULES = tuple(f"{n}_{kind}/config.json" for n in range(100) for kind in ("A", "B", "C"))
NINE_MODULES = tuple(f"{n}_Dense/config.json" for n in range(9))


@pytest.mark.parametrize("modules", [MANY_MODULES, NINE_MODULES])
@pytest.mark.parametrize(
    "wanted",
    [REPO, Reference("org/name", file="x.gguf"), Reference("org/name", tag="x")],
)
def test_modules_without_end_are_refused_however_the_model_is_named(wanted, modules) -> None:
    held = files("x.gguf", *modules, *(("model.safetensors",) if wanted == REPO else ()))
    for known in (held, files("x.gguf", *modules)):
        with pytest.raises(AigridError, match="modules") as caught:
            choose(wanted, known)
        assert caught.value.code is Code.UNSUPPORTED_MODEL


@pytest.mark.parametrize(("beside", "fits"), [(1, True), (2, False)])
def test_a_model_has_so_many_files_with_those_beside(beside: int, fits: bool) -> None:
    count = LIMITS.files_max - 1
    shards = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(count)]
    held = files(*shards, *BESIDE[:beside])
    if fits:
        assert set(choose(REPO, held).files) == set(held)
        return
    with pytest.raises(AigridError, match="at most") as caught:
        choose(REPO, held)
    assert caught.value.code is Code.UNSUPPORTED_MODEL


@pytest.mark.parametrize(
    "name",
    ["evil.pt2", "evil.PT2", "deep/pytorch_model.bin", "x.pkl", "x.pickle", "x.joblib", "x.keras",
     "model.py", "x.so"],
)  # fmt: skip
def test_a_named_file_that_can_run_code_is_not_downloaded(name: str) -> None:
    with pytest.raises(AigridError) as caught:
        choose(Reference("org/name", file=name), files(name, "config.json"))
    assert caught.value.code is Code.UNSAFE_FILE


@pytest.mark.parametrize("wanted", [REPO, Reference("org/name", file="x.gguf")])
def test_a_file_that_the_hub_does_not_give_says_why(wanted: Reference) -> None:
    from huggingface_hub import constants

    most = LIMITS.hub_file_max_bytes
    assert most <= constants.MAX_HTTP_DOWNLOAD_SIZE
    assert choose(wanted, {"x.gguf": RemoteFile(most)}).model == "x.gguf"
    with pytest.raises(AigridError, match="50 GB") as caught:
        choose(wanted, {"x.gguf": RemoteFile(most + 1)})
    assert caught.value.code is Code.UNSUPPORTED_MODEL
