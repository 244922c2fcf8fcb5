"""What is proposed to a person before anything is published."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.gguf_writer import tiny_llama, write
from tests.engines.onnx_models import linear, save
from tests.node.mesh.shelf.shelf import bringing, empty_shelf

from aigrid.engines.metadata import read
from aigrid.node.mesh.shelf.bringing import Wishes
from aigrid.node.mesh.shelf.copying import can_move, put_back
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.model import ModelDescription, ModelFile
from aigrid.protocol.task import TaskMapping, TaskOutput, TextInput, files_of

LABELS = TaskMapping(text=TextInput(tokenizer="t.json"), output=TaskOutput(labels=("a", "b")))


async def test_a_model_is_what_it_is_whatever_its_file_is_called(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"))
    one, two = save(tmp_path / "one.bin", linear()), save(tmp_path / "two", linear())
    wishes = Wishes(capability="tabular-regression")
    first = await models.propose(one, wishes)
    described = await models.describe(first.draft)
    assert described == await models.describe((await models.propose(two, wishes)).draft)
    assert (described.format, described.precision) == ("onnx", "float32")
    assert [file.name for file in described.files] == ["model.onnx"]
    assert (first.name, first.capability) == ("one", "tabular-regression")
    assert first.fit is not None
    assert first.fit.estimate.memory_bytes == 7
    llama = await models.describe(read(write(tmp_path, tiny_llama(kind="Q8_0"))))
    assert (llama.format, llama.task, llama.precision) == ("gguf", "text-generation", "q8_0")


async def test_what_nobody_says_is_asked_for(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"))
    with pytest.raises(AigridError, match=r"--capability.*FP32") as refused:
        await models.propose(save(tmp_path / "m", linear()), Wishes())
    assert refused.value.code is Code.USAGE
    (tmp_path / "evil").write_bytes(b"\x80\x04abcdefgh")
    with pytest.raises(AigridError) as unsafe:
        await models.propose(tmp_path / "evil", Wishes(capability="x"))
    assert unsafe.value.code is Code.UNSAFE_FILE


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes(name="n" * 97), "--name"),
        (Wishes(name="two\nlines"), "--name"),
        (Wishes(license_id="l" * 97), "--license"),
        (Wishes(languages=("e\u202en",)), "--language"),
        (Wishes(mapping=TaskMapping(output=TaskOutput(labels=("a\x00",)))), "files say"),
        (Wishes(mapping=TaskMapping(text=TextInput(tokenizer="a word.json"))), "rename it"),
        (Wishes(mapping=TaskMapping(text=TextInput(tokenizer="MODEL.onnx"))), "rename one"),
    ],
)
async def test_what_cannot_be_signed_is_not_proposed(
    tmp_path: Path, wishes: Wishes, said: str
) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"))
    path = save(tmp_path / "m.onnx", linear())
    for name in files_of(wishes.mapping):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(AigridError, match=said) as caught:
        await models.propose(path, replace(wishes, capability="tensor"))
    assert caught.value.code is Code.USAGE


async def test_a_file_whose_name_no_model_may_have_is_to_be_renamed(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"), formats=("toy",))
    path = tmp_path / ("x" * 100 + ".onnx")
    found = await models.propose(save(path, linear()), Wishes(capability="tensor"))
    assert found.name == "x" * 96
    nameless = tmp_path / "folder"
    nameless.mkdir()
    (nameless / "model.onnx").write_bytes(path.read_bytes())
    with pytest.raises(AigridError, match="--name") as caught:
        await models.propose(nameless, Wishes(capability="tensor"), name="\u202e")
    assert caught.value.code is Code.USAGE


async def test_no_model_is_called_dot_dot(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"))
    inner = tmp_path / "flowers" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(save(tmp_path / "flowers" / "model.onnx", linear()))
    wishes = Wishes(capability="tensor")
    for path in (inner / "..", inner / ".." / "model.onnx"):
        assert (await models.propose(path, wishes)).name == "flowers"
    assert (await models.propose(tmp_path / "link", wishes)).name == "link"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for bad in (loop / "m.onnx", loop / "..", Path("/a\x00b")):
        with pytest.raises(AigridError):
            await models.propose(bad, wishes)


async def test_a_person_has_the_last_word_and_is_named_as_its_origin(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"))
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: de\n---\n")
    path = save(tmp_path / "m.onnx", linear())
    plain = (await models.propose(path, Wishes(capability="x"))).draft
    assert (plain.license_id, plain.languages) == ("MIT", ("de",))
    (tmp_path / "t.json").write_bytes(b"{}")
    wishes = Wishes("named", "text-classification", "ISC", ("en",), LABELS)
    found = await models.propose(path, wishes)
    assert found.name == "named"
    assert (found.draft.license_id, found.draft.languages) == ("ISC", ("en",))
    assert found.draft.mapping == LABELS
    assert found.draft.files["t.json"] == tmp_path / "t.json"
    assert found.draft.origins["license_id"] == "--license"
    assert found.draft.origins["mapping"] == "--task-mapping"


async def test_a_mapping_may_not_name_the_model_itself(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"))
    mapping = TaskMapping(text=TextInput(tokenizer="model.onnx"))
    path = save(tmp_path / "m.onnx", linear())
    with pytest.raises(AigridError, match="does not lie beside") as missing:
        await models.propose(path, Wishes(capability="x", mapping=mapping))
    assert missing.value.code is Code.MODEL_FILE_MISSING
    save(tmp_path / "model.onnx", linear())
    with pytest.raises(AigridError, match="what the model is called"):
        await models.propose(path, Wishes(capability="x", mapping=mapping))


async def test_a_file_named_as_all_are_is_called_like_its_folder(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"))
    folder = tmp_path / "Flowers-1.7B"
    folder.mkdir()
    save(folder / "model.onnx", linear())
    wishes = Wishes(capability="x")
    assert (await models.propose(folder / "model.onnx", wishes)).name == "flowers-1.7b"
    assert (await models.propose(folder, wishes)).name == "flowers-1.7b"


async def test_no_engine_for_it_is_part_of_the_proposal_and_ends_a_publication(
    tmp_path: Path,
) -> None:
    refusal = EngineError("no engine takes it", Code.UNSUPPORTED_MODEL)
    models = bringing(await empty_shelf(tmp_path / "models"), refusal=refusal)
    found = await models.propose(save(tmp_path / "m.onnx", linear()), Wishes(capability="x"))
    assert found.problem is refusal
    with pytest.raises(EngineError) as caught:
        await models.publish(found)
    assert caught.value is refusal


async def test_a_file_that_is_not_what_was_promised_is_not_published(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"))
    found = await models.propose(save(tmp_path / "m.onnx", linear()), Wishes(capability="x"))
    with pytest.raises(AigridError, match="promised") as caught:
        await models.publish(found, sha256_of=lambda _: "0" * 64)
    assert caught.value.code is Code.HASH_MISMATCH


async def test_a_plug_ins_files_are_known_by_their_ending(tmp_path: Path) -> None:
    models = bringing(await empty_shelf(tmp_path / "models"), formats=("toy",))
    path = tmp_path / "tiny.TOY"
    path.write_bytes(b"something of its own")
    found = await models.propose(path, Wishes(capability="text-classification"))
    assert dict(found.draft.files) == {"model.toy": path}
    assert found.draft.format == "toy"
    with pytest.raises(AigridError, match="GGUF, ONNX or safetensors"):
        await models.propose(path.rename(tmp_path / "tiny.other"), Wishes(capability="x"))


async def test_files_that_are_taken_go_back_where_they_were_if_it_fails(tmp_path: Path) -> None:
    shelf = await empty_shelf(tmp_path / "models")
    there = {name: tmp_path / name for name in ("a", "b")}
    for path in there.values():
        path.write_bytes(path.name.encode() * 100)
    files = tuple(
        ModelFile(n, hashlib.sha256(p.read_bytes()).hexdigest(), 100) for n, p in there.items()
    )
    good = ModelDescription("echo", "x", files)
    bad = ModelDescription("echo", "x", (files[0], ModelFile("b", "0" * 64, 100)))
    with pytest.raises(AigridError) as caught:
        await shelf.add(bad, there, take=True)
    assert caught.value.code is Code.HASH_MISMATCH
    assert all(path.read_bytes() == path.name.encode() * 100 for path in there.values())
    model = await shelf.add(good, there, take=True)
    assert not any(path.exists() for path in there.values())
    assert shelf.source(model).files["a"].read_bytes() == b"a" * 100
    await shelf.discard(model, taken=there)
    assert all(path.read_bytes() == path.name.encode() * 100 for path in there.values())


def test_links_are_copied_and_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "soft").symlink_to(tmp_path / "a")
    assert not any(can_move(tmp_path / name, tmp_path) for name in ("a", "hard", "soft"))
    (tmp_path / "kept").write_bytes(b"kept")
    put_back(tmp_path, {"a": tmp_path / "kept"})
    assert (tmp_path / "kept").read_bytes() == b"kept"
