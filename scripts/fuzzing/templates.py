"""Chat templates, which come inside a model: programs of strangers, and what they are told."""

from scripts.fuzzing.mutations import Text
from scripts.fuzzing.target import Target

from aigrid.engines.chat_template import ChatTemplate
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import ChatMessage
from aigrid.protocol.limits import LIMITS

_SAID = (ChatMessage("system", "Be brief."), ChatMessage("user", "Hello"))
_AGAIN = (b"for", b"macro", b"recursive", b"call", b"include", b"range")


def _template(data: bytes) -> None:
    """A loop in a loop may take as long as it likes, but for its worker's time: it is not run."""
    compiled = ChatTemplate(data.decode("utf-8", "replace"), bos="<s>", eos="</s>")
    if sum(map(data.count, _AGAIN)) <= 3:
        said = compiled.render(_SAID)
        most = LIMITS.template_overhead_max_chars + 2 * sum(len(one.content) for one in _SAID)
        assert len(said) <= most


_TEMPLATES = (
    (
        b"{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n"
        b"{{ message.content | trim }}{{ eos_token }}\n{% endfor %}"
        b"{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    (
        b"{%- set ns = namespace(first=true) -%}\n"
        b"{%- for m in messages if m['role'] != 'tool' -%}\n"
        b"{%- if loop.index0 % 2 == 0 and not ns.first %}{% break %}{% endif -%}\n"
        b"{{ (m.content ~ ' ')[:40] + '|' * 3 }}{%- set ns.first = false -%}\n{%- endfor -%}"
    ),
    (
        b"{% if messages[0].role == 'system' %}{% set system = messages[0].content %}\n"
        b"{% set rest = messages[1:] %}{% endif %}\n"
        b"{% if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}\n"
        b"{% if rest | length > 9 %}{{ raise_exception('too many') }}{% endif %}\n"
        b"{{ system | upper | replace('B', 'C') }}\n"
        b"{{ rest | map(attribute='content') | join(', ') }}"
    ),
)
_WORDS = (
    *(b"messages", b"message", b"content", b"role", b"loop", b"namespace", b"self", b"caller"),
    *(b"__class__", b"__globals__", b"mro", b"attr", b"format", b"tojson", b"batch", b"slice"),
    *(b"{{", b"}}", b"{%", b"%}", b"{#", b"#}", b"|", b"~", b"**", b"//", b"[::-1]", b"lipsum()"),
    *(b"3", b"10", b"dict(a=1)", b"cycler('a')", b"sort", b"unique", b"groupby('role')", b"endif"),
)
TARGETS = (Target("chat-templates", lambda: Text(_TEMPLATES, _WORDS), _template, (EngineError,)),)
