"""Contracts: what fits, what does not and how that is said, and schemas of strangers."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.outcome import contract as contract_module
from aigrid.node.outcome.contract import NOTHING, Contract, check_schema, unsaid
from aigrid.node.outcome.contracts import Contracts
from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code, EngineError, InvalidRequestError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import CapabilityBody
from aigrid.protocol.limits import LIMITS

ANN = Identity(bytes([1]) * 32)
LEGAL = f"{ANN.did}#legal-translation"


def known(*bodies: CapabilityBody) -> Contracts:
    concepts = LiveConcepts(default_taxonomy())
    for number, body in enumerate(bodies):
        concepts.put(body, 100, f"record-{number}")
    return Contracts(concepts, now_ms=lambda: 0)


def legal(**schemas: Any) -> CapabilityBody:
    return CapabilityBody(
        id=LEGAL, broader=("translation",), labels={"de": "Juristisch", "en": "Legal"}, **schemas
    )


def test_a_shipped_capability_says_what_fits() -> None:
    contract = known().of("translation")
    contract.check_input("hello")
    contract.check_output("salut")
    contract.check_parameters({"source": "en", "max_tokens": 10})
    with pytest.raises(InvalidRequestError, match=r"/v1/capabilities/translation"):
        contract.check_input(["hello"])
    with pytest.raises(EngineError):
        contract.check_output({"text": "salut"})
    with pytest.raises(InvalidRequestError, match="max_tokens") as refused:
        contract.check_parameters({"sauce": "en"})
    assert refused.value.code is Code.UNSUPPORTED_PARAMETER
    with pytest.raises(InvalidRequestError, match="/max_tokens"):
        contract.check_parameters({"max_tokens": "many"})


def test_a_number_that_no_message_carries_is_refused_by_name_whatever_the_contract() -> None:
    for contract in (known().of("text-classification"), unsaid("made-up")):
        contract.check_parameters({"top_k": 2**63 - 1})
        for wide in (2**63, 10**21):
            with pytest.raises(InvalidRequestError, match="'top_k' must fit") as refused:
                contract.check_parameters({"top_k": wide})
            assert refused.value.param == "parameters.top_k"


def test_what_was_given_is_never_quoted() -> None:
    contract = known().of("zero-shot-classification")
    with pytest.raises(InvalidRequestError) as refused:
        contract.check_input({"text": ["secret words"], "labels": ["a"]})
    assert "secret" not in str(refused.value)
    assert "/text" in str(refused.value)


def test_every_shipped_capability_has_schemas_that_can_be_used() -> None:
    for contract in known().all():
        for schema in (contract.input, contract.output, contract.parameters):
            assert schema == canonical(msgspec.json.decode(schema))
            assert not check_schema(msgspec.json.decode(schema))


def test_a_published_one_says_what_it_narrows_and_inherits_the_rest() -> None:
    contract = known(legal(input_schema={"type": "string", "maxLength": 5})).of(LEGAL)
    assert (contract.task, contract.label, contract.published) == (
        "translation",
        "Legal",
        "record-0",
    )
    contract.check_input("short")
    with pytest.raises(InvalidRequestError):
        contract.check_input("too long")
    contract.check_parameters({"target": "fr"})
    with pytest.raises(EngineError):
        contract.check_output(5)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "https://example.org/schema"}}},
        {"type": "nonsense"},
        {"pattern": "(("},
        {"pattern": "(?=a)b"},
        {"pattern": "(" * 60 + "a{1000}" + "){1000}" * 60},
        {"pattern": "(a{1,50}){1,20}"},
        {"properties": {"x": {"allOf": [{"pattern": f"a{n}"} for n in range(17)]}}},
        {"patternProperties": {f"a{n}": {} for n in range(17)}},
        {"uniqueItems": True},
        {"x": "y" * LIMITS.capability_schema_max_bytes},
        {"const": 10**300},
    ],
)
def test_a_schema_that_is_of_no_use_or_too_dear_is_left_out(schema: dict[str, Any]) -> None:
    assert check_schema(schema)
    contract = known(legal(input_schema=schema)).of(LEGAL)
    assert contract.input == known().of("translation").input


def test_the_list_compiles_no_schema_that_somebody_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[bytes] = []
    real = contract_module._compiled

    def counting(raw: bytes) -> Any:
        compiled.append(raw)
        return real(raw)

    monkeypatch.setattr(contract_module, "_compiled", counting)
    dear = [{"allOf": [{"pattern": f"(a{{1,9}}){{1,{n}}}dear"}]} for n in range(1, 4)]
    contracts = known(legal(input_schema=dear[0], output_schema=dear[1], parameters_schema=dear[2]))
    assert LEGAL in {one.capability for one in contracts.all()}
    assert compiled == []
    for _ in range(3):
        contracts.of(LEGAL).check_input("aaadear")
    assert len(compiled) == 3


def test_of_schemas_that_somebody_published_few_are_kept() -> None:
    for n in range(2 * LIMITS.schemas_kept_max):
        assert not check_schema({"pattern": f"few{n}"})
    kept = contract_module._published.cache_info()
    assert kept.currsize == kept.maxsize == LIMITS.schemas_kept_max
    shipped = known().of("translation")
    compiled = contract_module._validator.cache_info().misses
    shipped.check_input("hello")
    shipped.check_input("hello")
    assert contract_module._validator.cache_info().misses <= compiled + 1


def test_what_cannot_be_used_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def refusing(raw: bytes) -> Any:
        asked.append(raw)
        raise ValueError("no")

    monkeypatch.setattr(contract_module, "_compiled", refusing)
    contracts = known(legal(input_schema={"pattern": "never used"}))
    for _ in range(3):
        assert contracts.of(LEGAL).input == contracts.of("translation").input
    assert len(asked) == 1


def test_one_that_is_nested_without_end_is_left_out() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        deep = {"items": deep}
    assert "deep" in check_schema(deep)


def test_a_pattern_takes_no_longer_for_what_nearly_matches() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    assert not check_schema(schema)
    contract = Contract("x", "X", "x", (), input=canonical(schema))
    with pytest.raises(InvalidRequestError):
        contract.check_input("a" * 100_000 + "b")


def test_nothing_said_is_nothing_checked() -> None:
    contract = Contract("x", "X", "x", (), NOTHING, NOTHING, NOTHING)
    contract.check_input(object())
    contract.check_parameters({"anything": 1})


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_a_number_that_no_message_carries_is_no_parameter(number: int) -> None:
    contract = Contract("x", "X", "x", (), NOTHING, NOTHING, NOTHING)
    contract.check_parameters({"a": 2**63 - 1, "b": -(2**63), "c": 1e300})
    with pytest.raises(InvalidRequestError, match="64 bits"):
        contract.check_parameters({"a": number})


def test_what_nobody_knows_is_refused_with_what_may_have_been_meant() -> None:
    with pytest.raises(InvalidRequestError, match="translation"):
        known().of("tranlsation")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "items", "properties", "enum", "anyOf", "minimum", "a"]), inner
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["type", "items", "properties", "anyOf"]), JSON), JSON)
def test_any_schema_is_refused_or_decides_without_another_error(
    schema: dict[str, Any], value: Any
) -> None:
    if check_schema(schema):
        return
    contract = Contract("x", "X", "x", (), input=canonical(schema))
    try:
        contract.check_input(value)
    except InvalidRequestError:
        pass
