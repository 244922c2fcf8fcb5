"""A chat template is a stranger's program: it renders, refuses or fails, each with its code."""

import pytest
from jinja2.optimizer import Optimizer
from tests.engines.gguf_writer import CHATML

from aigrid.engines.chat_template import ChatTemplate
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import ChatMessage
from aigrid.protocol.limits import LIMITS

HELLO = (ChatMessage("user", "hello <b> & {{ 1 }}"),)


def render(source: str, messages: tuple[ChatMessage, ...] = HELLO) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages)


def test_messages_are_rendered_as_they_are() -> None:
    assert render(CHATML) == (
        "<|im_start|>user\nhello <b> & {{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_developer_speaks_as_the_system() -> None:
    assert "<|im_start|>system\nbe" in render(CHATML, (ChatMessage("developer", "be brief"),))


def test_special_tokens_and_json_are_there() -> None:
    assert render("{{ bos_token }}{{ {'a': '<é>'} | tojson }}{{ eos_token }}") == (
        '<s>{"a": "<é>"}</s>'
    )


def test_loops_may_be_left() -> None:
    assert (
        render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "01"
    )


def test_refused_messages_are_an_invalid_request() -> None:
    with pytest.raises(EngineError, match="no tools here") as caught:
        render(CHATML, (ChatMessage("tool", "4"),))
    assert caught.value.code == Code.INVALID_REQUEST


@pytest.mark.parametrize(
    "source",
    [
        "{% for",
        "{{ nosuch.attribute }}",
        "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{% for i in range(100000000) %}a{% endfor %}",
        "{% for i in range(90000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ 10000000000 * [1] }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ 2 ** 10000000000 }}",
        "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include 'x' %}",
        "{# " + "a" * LIMITS.template_max_chars + " #}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "9" * 5000 + " }}",
        "{% if true %}{% end" + "a" * 60_000 + " %}",
    ],
)
def test_a_hostile_template_is_an_unsupported_model(source: str) -> None:
    with pytest.raises(EngineError) as caught:
        render(source)
    assert caught.value.code == Code.UNSUPPORTED_MODEL
    assert len(caught.value.message) <= LIMITS.error_message_max_chars


def test_an_expression_however_deep_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jinja's optimizer looks at all below each of its levels, again at each level above."""
    monkeypatch.setattr(Optimizer, "generic_visit", None)
    template = ChatTemplate("{% set n = 1 %}{{ 9" + " - n" * 150 + " }}", bos="", eos="")
    assert template.render([]) == str(9 - 150)


def test_plain_arithmetic_is_allowed() -> None:
    assert (
        render("{{ 2 ** 3 }} {{ 7 % 4 }} {{ 'a' + 'b' }} {{ 'ab' * 2 }} {{ 2 * 3 }}")
        == "8 3 ab abab 6"
    )
