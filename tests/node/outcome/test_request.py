"""Requests of capabilities: bodies, what they ask for, and names of models that are none."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.gateway.by_capability import capability_of
from aigrid.node.outcome.contract import unsaid
from aigrid.node.outcome.contracts import Contracts
from aigrid.node.outcome.modes import FALLBACK, Vote
from aigrid.node.outcome.request import Asked, asked, decode, filters_of, named, step_asked, wanted
from aigrid.protocol.errors import AigridError, InvalidRequestError
from aigrid.protocol.inference import TaskRequest, TextRequest

CONTRACTS = Contracts(LiveConcepts(default_taxonomy()), now_ms=lambda: 0)
MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}


def ask(capability: str, **body: Any) -> Asked:
    return asked(CONTRACTS.of(capability), decode(msgspec.json.encode(body)))


def test_what_chooses_is_kept_apart_from_what_is_passed_on() -> None:
    found = ask("translation", input="hi", parameters={"source": "en", "max_tokens": 5})
    assert found.want.request == TaskRequest("translation", b'"hi"', {"max_tokens": 5})
    assert found.want.criteria.constraints is not None
    assert found.want.criteria.constraints.selecting == {"source": "en"}
    assert found.want.criteria.strategy.name == "balanced"
    assert found.mode == FALLBACK
    assert found.graph is None


STATING = Contracts(
    LiveConcepts(default_taxonomy()),
    now_ms=lambda: 0,
    stated=lambda name: {"domain", "max_tokens"} if name == "translation" else (),
)


def test_what_manifests_state_values_of_chooses_and_is_not_sent() -> None:
    body = {"input": "hi", "parameters": {"domain": "law", "target": "fr", "max_tokens": 5}}
    found = asked(STATING.of("translation"), decode(msgspec.json.encode(body)))
    assert isinstance(found.want.request, TaskRequest)
    # What engines know as a setting stays one, whatever somebody states.
    assert found.want.request.parameters == {"max_tokens": 5}
    assert found.want.criteria.constraints is not None
    assert found.want.criteria.constraints.selecting == {"target": "fr", "domain": "law"}
    body["constraints"] = {"parameters": {"style": "plain"}}
    found = asked(STATING.of("translation"), decode(msgspec.json.encode(body)))
    assert found.want.criteria.constraints is not None
    assert found.want.criteria.constraints.parameters == {"style": "plain", "domain": "law"}
    with pytest.raises(InvalidRequestError, match="domain"):  # which nobody states there
        ask("translation", input="hi", parameters={"domain": "law"})
    with pytest.raises(InvalidRequestError):
        asked(STATING.of("translation"), decode(b'{"input": "hi", "parameters": {"domain": 5}}'))


def test_a_name_may_choose_by_what_manifests_state() -> None:
    def stated(name: str) -> frozenset[str]:
        return STATING.of(name).stated()

    found = capability_of(["capability:translation?domain=law&strategy=fastest"], stated)
    assert found is not None
    assert found[1].constraints is not None
    assert found[1].constraints.parameters == {"domain": "law"}
    with pytest.raises(InvalidRequestError, match="style"):
        capability_of(["capability:translation?domain=law&style=plain"], stated)
    with pytest.raises(InvalidRequestError) as refused:
        capability_of(["capability:translation?domain=" + "x" * 9999], stated)
    assert refused.value.param == "model"


@pytest.mark.parametrize("said", ["1", "True", "yes"])
def test_warm_is_true_or_false(said: str) -> None:
    found = named("capability:translation?warm=false")
    assert found is not None
    assert not found[1].warm
    with pytest.raises(InvalidRequestError) as refused:
        named(f"capability:translation?target=fr&warm={said}")
    assert refused.value.param == "model"
    assert "`warm`" in refused.value.message


def test_constraints_strategy_mode_and_seed_are_what_was_said() -> None:
    found = ask(
        "image-classification",
        input="aGk=",
        constraints={"region": "eu", "latency_ms_max": 500, "license": "MIT"},
        strategy={"quality": 1},
        mode={"name": "vote", "of": 5},
        seed=7,
        explain=True,
    )
    filters = found.want.criteria.constraints
    assert filters is not None
    assert (filters.region, filters.latency_ms_max, filters.license) == ("eu", 500, "MIT")
    assert found.want.criteria.strategy.shares.quality == 1
    assert found.mode == Vote(5)
    assert (found.want.criteria.seed, found.explain) == (7, True)


def test_generated_text_has_a_request_of_its_own() -> None:
    found = ask("text-generation", input=MESSAGES, parameters={"max_tokens": 3, "stop": "."})
    request = found.want.request
    assert isinstance(request, TextRequest)
    assert (request.messages[0].content, request.max_tokens, request.stop) == ("hi", 3, (".",))


def test_a_pipeline_is_checked_whole_before_anything_runs() -> None:
    step = {"name": "feeling", "capability": "text-classification"}
    found = ask("translation", input="hi", mode={"name": "pipeline", "steps": [step]})
    assert found.graph is not None
    assert found.graph.after == {"first": frozenset(), "feeling": frozenset({"first"})}
    then = step_asked(
        CONTRACTS.of("text-classification"), found.graph.steps["feeling"], "salut", seed=1
    )
    assert then.want.request == TaskRequest("text-classification", b'"salut"', {})
    nested = {**step, "mode": {"name": "pipeline", "steps": [step]}}
    found = ask("translation", input="hi", mode={"name": "pipeline", "steps": [nested]})
    assert found.graph is not None
    with pytest.raises(InvalidRequestError, match="beside it"):
        step_asked(CONTRACTS.of("text-classification"), found.graph.steps["feeling"], "x", None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": 5},
        {"input": "hi", "model": "x"},
        {"input": "hi", "parameters": {"max_tokens": 0}},
        {"input": "hi", "parameters": {"temperature": 1}},
        {"input": "hi", "parameters": {"source": "not a tag"}},
        {"input": "hi", "parameters": {"source": 5}},
        {"input": "hi", "constraints": []},
        {"input": "hi", "constraints": {"capability": "fill-mask"}},
        {"input": "hi", "constraints": {"colour": "red"}},
        {"input": "hi", "constraints": {"latency_ms_max": 0}},
        {"input": "hi", "constraints": {"latency_ms_max": True}},
        {"input": "hi", "strategy": "best"},
        {"input": "hi", "strategy": {"quality": -1}},
        {"input": "hi", "strategy": {"beauty": 1}},
        {"input": "hi", "strategy": 5},
        {"input": "hi", "mode": "swarm"},
        {"input": "hi", "seed": -1},
        {"input": "hi", "seed": 2**70},
        {"input": "hi", "explain": "yes"},
    ],
)
def test_what_does_not_fit_is_refused_and_says_where(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        ask("translation", **body)


def test_an_input_that_cannot_be_written_down_again_is_refused() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidRequestError, match="nested"):
        wanted(unsaid("translation"), deep, parameters={})


def test_what_does_not_fit_is_said_briefly() -> None:
    name = "x" * 9000
    bodies: tuple[dict[str, Any], ...] = (
        {name: 1},
        {"constraints": {name: 1}},
        {"mode": {"name": "race", name: 1}},
    )
    for body in bodies:
        with pytest.raises(InvalidRequestError) as caught:
            ask("translation", input="hi", **body)
        assert len(caught.value.message) < 500


@given(st.binary(max_size=60))
def test_any_bytes_are_a_body_or_refused(raw: bytes) -> None:
    try:
        asked(CONTRACTS.of("translation"), decode(raw))
    except InvalidRequestError:
        pass


def test_a_model_may_be_a_capability_with_constraints() -> None:
    assert named("llama") is None
    assert named("capability:fill-mask") == ("fill-mask", filters_of("fill-mask", {}, {}), {})
    found = named(
        "capability:translation?source=en&target=fr&max_latency_ms=500&warm=true&strategy=quality"
    )
    assert found is not None
    capability, filters, others = found
    assert capability == "translation"
    assert filters.selecting == {"source": "en", "target": "fr"}
    assert (filters.latency_ms_max, filters.warm) == (500, True)
    assert others == {"strategy": "quality"}


@pytest.mark.parametrize(
    "model",
    [
        "capability:",
        "capability:a b",
        "capability:translation?",
        "capability:translation?source",
        "capability:translation?source=en&source=fr",
        "capability:translation?max_latency_ms=soon",
        "capability:translation?max_latency_ms=0",
        "capability:translation?" + "a=b&" * 40,
    ],
)
def test_one_that_is_none_is_refused(model: str) -> None:
    if model.endswith("?"):
        assert named(model) is not None  # an empty query asks for nothing more
        return
    with pytest.raises(InvalidRequestError) as refused:
        named(model)
    assert refused.value.param == "model"


@given(st.text(max_size=40))
def test_any_name_is_a_capability_or_refused(text: str) -> None:
    try:
        named(f"capability:{text}")
    except AigridError:
        pass
