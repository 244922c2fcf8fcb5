"""Policy files: what is written is what is read, and what is not known is refused with its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.policy.policy_file import parse_policy, policy_json
from aigrid.protocol.credential_kinds import ACTIONS, Rule
from aigrid.protocol.errors import UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

ME, OTHER = (Identity(bytes([i]) * 32).did for i in (1, 2))
WORDS = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True)


def ascending(items, **bounds):
    return st.lists(items, unique=True, max_size=4, **bounds).map(sorted).map(tuple)


RULES = st.lists(
    st.builds(
        Rule,
        actions=ascending(st.sampled_from(ACTIONS), min_size=1),
        assignees=ascending(st.sampled_from(["members", "anyone", ME, OTHER]), min_size=1),
        purposes=ascending(WORDS),
        regions=ascending(st.from_regex(r"\A[A-Za-z0-9]{1,9}([._-][A-Za-z0-9]{1,9})?\Z")),
        accept_license=st.booleans(),
    ),
    max_size=LIMITS.policy_rules_max,
).map(tuple)


def toml(rules):
    """The same by hand: strings of JSON are strings of TOML."""
    if not rules:
        return "rules = []"
    return "\n".join(
        "[[rules]]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in rule.items())
        for rule in rules
    )


@given(RULES)
def test_what_is_written_is_read_again(rules):
    written = policy_json(rules)
    assert parse_policy(json.dumps({"rules": written}), me=ME) == rules
    plain = json.loads(json.dumps(written, ensure_ascii=False))
    if all(ord(c) < 0x10000 for c in json.dumps(plain, ensure_ascii=False)):
        assert parse_policy(toml(plain), me=ME) == rules


@given(RULES, st.randoms(use_true_random=False))
def test_order_and_repetition_say_nothing(rules, rng):
    written = policy_json(rules)
    for rule in written:
        for value in rule.values():
            if isinstance(value, list):
                value.append(rng.choice(value))
                rng.shuffle(value)
    assert parse_policy(json.dumps({"rules": written}), me=ME) == rules


def is_a_policy_or_a_sentence(text):
    try:
        parse_policy(text, me=ME)
    except UsageError as error:
        return error.message.isprintable()
    return True


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_rubbish_is_a_sentence(text):
    assert is_a_policy_or_a_sentence(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rules", "actions", "assignees", "purposes", "accept_license", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["rules", "more"]), JSON, max_size=2))
def test_any_json_is_a_policy_or_a_sentence(document):
    assert is_a_policy_or_a_sentence(json.dumps(document))


def test_me_is_this_node():
    text = '[[rules]]\nactions = ["invoke"]\nassignees = ["members", "me"]\n'
    (rule,) = parse_policy(text, me=ME)
    assert rule.assignees == (ME, "members")
    assert parse_policy("rules = []", me=ME) == ()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "rules is a list"),
        ("{", "neither TOML nor JSON"),
        ("rules = 1", "rules is a list"),
        ("rules = [1]", r"rules\[0\] is not a table"),
        ("rules = []\nmore = 1", "the policy: there is no 'more'; known are rules"),
        ('{"rules": [], "rules": []}', "twice"),
        ('{"rules": [{"actions": ["invoke"], "actions": []}]}', "twice"),
        ('[[rules]]\nactions = ["invoke"]', r"rules\[0\]: .*assignees"),
        ('[[rules]]\nassignees = ["members"]', r"rules\[0\]: .*actions"),
        ('[[rules]]\nactions = []\nassignees = ["members"]', r"rules\[0\].*actions"),
        ('[[rules]]\nactions = ["eat"]\nassignees = ["members"]', r"rules\[0\].*actions"),
        ('[[rules]]\nactions = "invoke"', r"rules\[0\].actions is not a list"),
        ('[[rules]]\nactions = ["invoke"]\nassignees = ["you"]', r"rules\[0\].*assignees"),
        (
            '[[rules]]\nactions = ["invoke"]\nassignees = ["members"]\nunless = ["monday"]',
            r"rules\[0\]: there is no 'unless'; known are actions, assignees, purposes",
        ),
        (
            '[[rules]]\nactions = ["invoke"]\nassignees = ["members"]\nacceptLicense = true',
            r"rules\[0\]: there is no 'acceptLicense'",
        ),
        (
            '[[rules]]\nactions = ["invoke"]\nassignees = ["members"]\naccept_license = 1',
            r"rules\[0\].*acceptLicense",
        ),
        (
            '[[rules]]\nactions = ["invoke"]\nassignees = ["members"]\npurposes = ["Any Thing"]',
            r"rules\[0\].*purposes",
        ),
        (
            f'[[rules]]\nactions = ["invoke"]\nassignees = ["{ME[:-1]}"]',
            r"rules\[0\].assignees: .* neither me, nor members, nor anyone, nor a DID",
        ),
        (
            '[[rules]]\nactions = ["invoke"]\nassignees = ["members"]\nregions = ["EU WEST"]',
            r"rules\[0\].regions: 'EU WEST'",
        ),
        (json.dumps({"rules": [{}] * (LIMITS.policy_rules_max + 1)}), "more than 16 rules"),
        ("#" * (LIMITS.policy_file_max_bytes + 1), "larger than"),
        ('{"rules": ' + "[" * 50_000, "nested too deeply|neither TOML nor JSON"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text, place):
    with pytest.raises(UsageError, match=place):
        parse_policy(text, me=ME)
