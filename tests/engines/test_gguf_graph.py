"""The graph computes what the file says: compared with a plain forward pass in float64."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tests.engines.gguf_writer import TYPES, Gguf, tiny_llama, write
from tests.engines.llama_reference import Array, Reference
from tests.engines.texts import inside, source

from aigrid.engines import gguf, progress
from aigrid.engines.base import CancelToken
from aigrid.engines.batched_sequence import BatchedSequence
from aigrid.engines.llama import read_config
from aigrid.engines.onnx_decoder import Run
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.protocol.errors import Code, EngineError

PROMPT = [1, 40, 41, 42, 7, 99, 150, 3]
NEXT = [17, 200, 5]
# What llama.cpp's Q4_K_M is made of, the last layer apart.
Q4_K_M = {"blk.0.attn_v": "Q6_K", "blk.0.ffn_down": "Q6_K", "output": "Q6_K"}
VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in TYPES},
    "separate head": {"kind": "Q4_1", "head": "Q8_0"},
    "mixed attention": {"kind": "Q4_0", "kinds": {"blk.0.attn_v": "F16", "blk.1.ffn_up": "Q8_0"}},
    "a mix of K types": {"kind": "Q4_K", "head": "Q6_K", "kinds": Q4_K_M},
    "blocks of both sizes": {
        "kind": "Q4_K",
        "kinds": {"blk.0.attn_k": "Q2_K", "blk.1.ffn_gate": "Q3_K", "blk.1.ffn_up": "Q2_K"},
    },
    "biases": {"kind": "Q4_1", "biases": True},
    "biases in a mix": {"kind": "Q4_K", "kinds": Q4_K_M, "head": "Q6_K", "biases": True},
    "qwen2": {"kind": "Q4_0", "architecture": "qwen2", "biases": True, "head": "Q8_0"},
    "qwen2 in a K type, tied": {"kind": "Q6_K", "architecture": "qwen2", "biases": True},
    "stretched rotation": {"kind": "F32", "factors": True},
    "linear scaling": {
        "kind": "F32",
        "metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
    },
}


def decoder(path: Path, **options: Any) -> BatchedSequence[Run]:
    """A sequence that shares its batch with no other."""
    engine = OnnxTextEngine()
    engine.load(source(path, **options), threads=1)
    return BatchedSequence(inside(engine).batch)


def step_logits(model: Gguf, tmp_path: Path, **options: Any) -> tuple[Array, Array]:
    """Logits after the prompt and after each further token, and those of the reference."""
    made, run = decoder(write(tmp_path, model), **options), Run(CancelToken())
    got = []
    assert all(made.prefill(PROMPT, run))
    got.append(made.logits.copy())
    for token in NEXT:
        assert made.step([token], run)
        got.append(made.logits.copy())
    expected = Reference(model).logits(PROMPT + NEXT)[len(PROMPT) - 1 :]
    return np.array(got), expected


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    got, expected = step_logits(tiny_llama(**VARIANTS[name]), tmp_path, exact_inputs=True)
    np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.startswith("Q")])
def test_the_greedy_answer_is_that_of_the_reference(kind: str, tmp_path: Path) -> None:
    model = tiny_llama(kind, seed=5)
    made, run = decoder(write(tmp_path, model), exact_inputs=True), Run(CancelToken())
    reference, said = Reference(model), list(PROMPT)
    assert all(made.prefill(PROMPT, run))
    for _ in range(12):
        said.append(int(made.logits.argmax()))
        made.step(said[-1:], run)
    # Each prefix gives the token that follows it, so one pass judges them all.
    assert reference.logits(said[:-1]).argmax(-1)[len(PROMPT) - 1 :].tolist() == said[len(PROMPT) :]


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.startswith("Q")])
def test_logits_with_rounded_inputs_stay_close(kind: str, tmp_path: Path) -> None:
    got, expected = step_logits(tiny_llama(kind), tmp_path)
    assert np.sqrt(((got - expected) ** 2).mean()) < 0.04 * np.sqrt((expected**2).mean())


def test_prefill_in_chunks_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigrid.engines.onnx_text.PREFILL_CHUNK", 3)
    got, expected = step_logits(tiny_llama("F32"), tmp_path)
    np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())


def test_a_second_conversation_reuses_whole_chunks_and_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigrid.engines.onnx_text.PREFILL_CHUNK", 4)
    path, run = write(tmp_path, tiny_llama("Q4_1")), Run(CancelToken())
    made, fresh = decoder(path), decoder(path, reuse_prefix=False)
    computed: list[int] = []
    rows: Any = made._batch._computer
    real = rows._embed

    def embed(tokens: Sequence[int]) -> Array:
        computed.extend(tokens)
        return real(tokens)

    monkeypatch.setattr(rows, "_embed", embed)
    all(made.prefill([*PROMPT, 9, 9, 9], run))
    for token in (8, 7, 6):
        made.step([token], run)
    for sequence, known in (
        ([*PROMPT, 9, 9, 9, 8, 7, 6, 5], 8),
        ([*PROMPT, 9, 9, 9, 8], 8),
        ([*PROMPT, 9, 9, 9, 7, 1], 8),
        (PROMPT, 4),
        ([2, *PROMPT], 0),
    ):
        computed.clear()
        all(made.prefill(sequence, run))
        assert computed == sequence[known:]
        all(fresh.prefill(sequence, run))
        np.testing.assert_array_equal(made.logits, fresh.logits)


def test_a_cancelled_prefill_leaves_no_wrong_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigrid.engines.onnx_text.PREFILL_CHUNK", 4)
    path, cancel = write(tmp_path, tiny_llama("Q4_1")), CancelToken()
    made, fresh = decoder(path), decoder(path)
    rows: Any = made._batch._computer
    real = rows._embed

    def embed(tokens: Sequence[int]) -> Array:
        cancel.cancel()
        return real(tokens)

    monkeypatch.setattr(rows, "_embed", embed)
    assert not all(made.prefill([3] * 11, Run(cancel)))
    for some in (made, fresh):
        assert all(some.prefill([3] * 11, Run(CancelToken())))
    np.testing.assert_array_equal(made.logits, fresh.logits)


def test_the_graph_is_built_once_and_kept_by_content(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = write(tmp_path, tiny_llama("Q4_1"))
    decoder(path, cache=cache)
    (kept,) = [entry for entry in cache.iterdir() if entry.is_dir()]
    before = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    decoder(path, cache=cache)
    assert {file.name: file.stat().st_mtime_ns for file in kept.iterdir()} == before
    decoder(write(tmp_path, tiny_llama("Q4_1", seed=1), "other.gguf"), cache=cache)
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 2


def test_building_tells_how_far_it_has_come_and_opening_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(progress, "_tell", told.append)
    monkeypatch.setattr(progress, "_last", "")
    path = write(tmp_path, tiny_llama("Q4_0"))
    decoder(path, cache=tmp_path / "cache")
    assert told == ["building the graph: 0 %", "building the graph: 50 %"]
    decoder(path, cache=tmp_path / "cache")
    assert len(told) == 2


def test_a_damaged_graph_is_built_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = write(tmp_path, tiny_llama("Q4_1"))
    decoder(path, cache=cache)
    (kept,) = [entry for entry in cache.iterdir() if entry.is_dir()]
    (kept / "graph.onnx").write_bytes(b"damaged")
    decoder(path, cache=cache)
    assert (kept / "graph.onnx").stat().st_size > 100


def test_what_a_killed_builder_left_is_cleared(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "building-killed").mkdir(parents=True)
    decoder(write(tmp_path, tiny_llama("F32")), cache=cache)
    assert not (cache / "building-killed").exists()


def test_a_failed_build_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aigrid.engines.gguf_graph.build", fail)
    cache = tmp_path / "cache"
    with pytest.raises(EngineError, match="No space left") as caught:
        decoder(write(tmp_path, tiny_llama("F32")), cache=cache)
    assert caught.value.code == Code.ENGINE_FAILED
    assert [entry.name for entry in cache.iterdir()] == ["build.lock"]


def test_infinite_weights_end_in_a_typed_error(tmp_path: Path) -> None:
    model = tiny_llama("F32")
    tensor = next(t for t in model.tensors if t.name == "blk.1.ffn_down.weight")
    tensor.data = np.full(len(tensor.data) // 4, np.inf, "<f4").tobytes()
    made = decoder(write(tmp_path, model))
    with pytest.raises(EngineError, match="not finite") as caught:
        all(made.prefill(PROMPT, Run(CancelToken())))
    assert caught.value.code == Code.ENGINE_FAILED


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1", "Q4_K", "Q6_K"])
def test_scales_that_are_no_numbers_end_in_a_typed_error(kind: str, tmp_path: Path) -> None:
    model = tiny_llama(kind)
    tensor = next(t for t in model.tensors if t.name == "blk.1.ffn_down.weight")
    tensor.data = b"\xff" * len(tensor.data)
    made = decoder(write(tmp_path, model))
    with pytest.raises(EngineError, match="not finite") as caught:
        all(made.prefill(PROMPT, Run(CancelToken())))
    assert caught.value.code == Code.ENGINE_FAILED


UNSUPPORTED: dict[str, dict[str, Any]] = {
    "another architecture": {"metadata": {"general.architecture": "mamba"}},
    "no architecture": {"without": ("general.architecture",)},
    "a missing length": {"without": ("llama.embedding_length",)},
    "a length of another type": {"metadata": {"llama.block_count": "two"}},
    "a huge length": {"metadata": {"llama.block_count": 4_000_000_000}},
    "no epsilon": {"without": ("llama.attention.layer_norm_rms_epsilon",)},
    "an epsilon of zero": {"metadata": {"llama.attention.layer_norm_rms_epsilon": 0.0}},
    "heads that do not share": {"metadata": {"llama.attention.head_count_kv": 3}},
    "keys per layer": {"metadata": {"llama.attention.head_count_kv": [2, 2]}},
    "odd heads": {"metadata": {"llama.attention.head_count": 8}},
    "partial rotation": {"metadata": {"llama.rope.dimension_count": 8}},
    "yarn": {"metadata": {"llama.rope.scaling.type": "yarn"}},
    "yarn in another architecture": {
        "architecture": "qwen2",
        "metadata": {"qwen2.rope.scaling.type": "yarn"},
    },
    "settings of another architecture": {"metadata": {"general.architecture": "qwen2"}},
    "a bias in one place": {"biases": True, "without": ("blk.1.attn_k.bias",)},
    "a bias where there is none": {"biases": True, "without": ("blk.0.attn_q.bias",)},
    "experts": {"metadata": {"llama.expert_count": 8}},
    "an unknown setting": {"metadata": {"llama.attention.scale": 0.5}},
    "a missing tensor": {"without": ("blk.1.ffn_up.weight",)},
    "a missing embedding": {"without": ("token_embd.weight",)},
    "another vocabulary": {"metadata": {"llama.vocab_size": 7}},
    "another shape": {"metadata": {"llama.feed_forward_length": 128}},
    "a layer less": {"metadata": {"llama.block_count": 1}},
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_computed_exactly_is_refused(name: str) -> None:
    model = gguf.parse(tiny_llama(**UNSUPPORTED[name]).build())
    with pytest.raises(EngineError) as caught:
        read_config(model)
    assert caught.value.code == Code.UNSUPPORTED_MODEL


def test_experts_that_are_not_there_are_fine() -> None:
    read_config(gguf.parse(tiny_llama(metadata={"llama.expert_count": 0}).build()))
