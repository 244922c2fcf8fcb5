"""Tasks whose answer is a text that the model writes: translation and summaries."""

from aigrid.engines.tasks.base import Setup, TaskCall, Writer, unsupported
from aigrid.engines.tasks.tokens import Tokens
from aigrid.protocol.limits import LIMITS

_DEFAULT_TOKENS = 512


class Rewriting:
    """A text to another. The mapping's template puts the model's instruction around the text."""

    parameters = frozenset({"max_tokens"})

    def __init__(self, setup: Setup) -> None:
        if not isinstance(setup.runner, Writer):
            raise unsupported(f"{setup.name} needs an engine that writes text")
        self._writer = setup.runner
        self._tokens = Tokens(setup)
        self._template = self._tokens.mapping.template or "{text}"
        if "{text}" not in self._template:
            raise unsupported("the template of the mapping has to hold {text}")

    def __call__(self, call: TaskCall) -> str:
        text = call.input(str, "a text")
        most = call.whole("max_tokens", _DEFAULT_TOKENS, low=1, high=LIMITS.context_default_tokens)
        (encoding,) = self._tokens.encode([self._template.replace("{text}", text)])
        call.tokens += len(encoding.ids)
        written, call.cut = self._writer.write(encoding.ids, most, call.cancel)
        return self._tokens.decode(written)
