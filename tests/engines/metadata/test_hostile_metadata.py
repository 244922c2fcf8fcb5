"""Whatever lies beside a model's weights: a draft, or an EngineError, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engines import bert_models
from tests.engines.bert_models import CONFIG, weights

from aigrid.engines.metadata import read
from aigrid.engines.metadata.hf_image import image_input
from aigrid.protocol.errors import EngineError

odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40),
    st.just(5e-324), st.just(10**400), st.just([]), st.just({}),
    st.lists(st.integers() | st.text(max_size=5) | st.floats(), max_size=4),
    st.dictionaries(st.sampled_from(["shortest_edge", "width", "height", "0", "1"]),
                    st.integers(-5, 5000) | st.text(max_size=5) | st.none(), max_size=3),
)  # fmt: skip
IMAGE = ("size", "crop_size", "do_resize", "do_center_crop", "resample", "do_rescale",
         "rescale_factor", "do_normalize", "image_mean", "image_std")  # fmt: skip
SAID = ("architectures", "model_type", "id2label", "problem_type", "max_position_embeddings",
        "pad_token_id", "type_vocab_size", "task_specific_params", "sentence_transformers",
        "sbert_ce_default_activation_function")  # fmt: skip
ARCHITECTURES = ("BertModel", "BertForSequenceClassification", "BertForTokenClassification",
                 "ViTForImageClassification", "T5ForConditionalGeneration", "MarianMTModel",
                 "LlamaForCausalLM", "XModel", "")  # fmt: skip
many = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    bert_models.save(made, CONFIG, weights(CONFIG))
    return made


@many
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(IMAGE, odd)))
def test_any_preprocessor_configuration(folder: Path, said: dict[str, Any]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    try:
        image_input(folder)
    except EngineError:
        pass


@many
@given(
    st.sampled_from(ARCHITECTURES),
    st.fixed_dictionaries({}, optional=dict.fromkeys(SAID, odd)),
    st.none()
    | st.lists(st.fixed_dictionaries({}, optional={"type": odd, "path": odd}), max_size=3),
    st.none() | st.fixed_dictionaries({}, optional={"model_max_length": odd}),
)
def test_any_configuration(folder: Path, architecture: str, said: Any, modules: Any, more) -> None:
    config = {**CONFIG, "architectures": [architecture], **said}
    (folder / "config.json").write_text(json.dumps(config))
    for name, value in (("modules.json", modules), ("tokenizer_config.json", more)):
        (folder / name).unlink(missing_ok=True)
        if value is not None:
            (folder / name).write_text(json.dumps(value))
    try:
        read(folder)
    except EngineError:
        pass
