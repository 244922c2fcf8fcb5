"""A tokenizer from the metadata of a GGUF: byte-level BPE, as most models of today have it.

The ways to split text before merging are those of the models' own tokenizers, under the names that
llama.cpp gives them (`tokenizer.ggml.pre`).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from aigrid.engines.gguf import INSTEAD, GgufFile, quoted
from aigrid.protocol.errors import Code, EngineError

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4

_REASON_CHARS: Final = 300
ENDING: Final = frozenset(
    {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"}
)
"""Control tokens that end an answer even where the model names only one of them."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


class GgufTokenizer:
    """Text to tokens and back.

    Attributes:
        bos: the token that begins a text, if there is one, and `adds_bos` whether it must.
        ending: tokens that end an answer.
        longest_bytes: most bytes of text that one token can stand for.
    """

    def __init__(self, model: GgufFile, vocabulary: int) -> None:
        """Build it.

        Raises:
            EngineError: `unsupported_model` for another kind of tokenizer or one that does not fit
                an embedding of `vocabulary` rows.
        """
        kind = model.text("tokenizer.ggml.model")
        if kind != "gpt2":
            raise _unsupported(
                f"tokenizer {quoted(kind)} is not supported, only byte-level BPE (gpt2); {INSTEAD}"
            )
        self._tokens = model.texts("tokenizer.ggml.tokens")
        self._kinds = (
            model.integers("tokenizer.ggml.token_type")
            if "tokenizer.ggml.token_type" in model.metadata
            else (_NORMAL,) * len(self._tokens)
        )
        if len(self._tokens) != vocabulary or len(self._kinds) != vocabulary:
            raise _unsupported(
                f"{len(self._tokens)} tokens of {len(self._kinds)} types do not fit "
                f"an embedding of {vocabulary} rows"
            )
        self._tokenizer = _bpe(model, self._tokens, self._kinds)
        self.bos = _token_id(model, "bos", vocabulary)
        self.eos = _token_id(model, "eos", vocabulary)
        self.adds_bos = self.bos is not None and model.flag(
            "tokenizer.ggml.add_bos_token", default=False
        )
        named = {self.eos, *(_token_id(model, name, vocabulary) for name in ("eot", "eom"))}
        self.ending = frozenset(token for token in named if token is not None) | {
            token
            for token, (text, kind) in enumerate(zip(self._tokens, self._kinds, strict=True))
            if kind == _CONTROL and text in ENDING
        }
        self.longest_bytes = max(len(text.encode()) for text in self._tokens)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; the names of control tokens in it become those tokens."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise EngineError("the text is not valid Unicode", Code.INVALID_REQUEST) from None
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self.adds_bos and self.bos is not None and ids[:1] != [self.bos]:
            ids.insert(0, self.bos)
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text; none for a control token."""
        kind, text = self._kinds[token], self._tokens[token]
        if kind == _NORMAL:
            return bytes_of(text)
        return text.encode() if kind == _USER_DEFINED else b""

    def name(self, token: int) -> str:
        """A token for a person to read, control tokens included."""
        if self._kinds[token] == _NORMAL:
            return bytes_of(self._tokens[token]).decode(errors="replace")
        return self._tokens[token]

    def text_of(self, token: int | None) -> str:
        """The literal text of a special token, empty for none."""
        return "" if token is None else self._tokens[token]


def _bpe(model: GgufFile, tokens: tuple[str, ...], kinds: tuple[int, ...]) -> Tokenizer:
    pre = model.text("tokenizer.ggml.pre", "default")
    splitter = _SPLITTERS.get(pre)
    if splitter is None:
        raise _unsupported(f"splitting text as {quoted(pre)} is not supported; {INSTEAD}")
    vocabulary = {text: token for token, text in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise _unsupported("a token stands twice in the vocabulary")
    merges = [tuple(merge.split(" ", 1)) for merge in model.texts("tokenizer.ggml.merges")]
    if any(len(pair) != 2 for pair in merges):
        raise _unsupported("a merge of the vocabulary is not a pair")
    try:
        bpe = models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe")  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - the library's own type, and nothing else is called
        reason = str(error)[:_REASON_CHARS]  # it may quote a token, however long
        raise _unsupported(f"the vocabulary does not hold together: {reason}") from None
    tokenizer = Tokenizer(bpe)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitter()
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        AddedToken(text, special=kind == _CONTROL, normalized=False)
        for text, kind in zip(tokens, kinds, strict=True)
        if kind in {_CONTROL, _USER_DEFINED} and text
    ]
    tokenizer.add_tokens(added)
    return tokenizer


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _bytes_only() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _splitting(*patterns: str) -> Callable[[], Any]:
    """Split by each pattern in turn, then map bytes to the letters that stand for them."""
    return lambda: pre_tokenizers.Sequence([*map(_split, patterns), _bytes_only()])


_SPLITTERS: Final[Mapping[str, Callable[[], Any]]] = MappingProxyType(
    {
        "smollm": _splitting(r"\p{N}", _GPT2),
        "gpt-2": _splitting(_GPT2),
        "default": _splitting(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
        "llama-bpe": _splitting(_LLAMA3),
        "qwen2": _splitting(_QWEN2),
    }
)


def _byte_letters() -> dict[str, int]:
    """Byte-level BPE writes every byte as a printable letter; this is the way back."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES: Final = _byte_letters()


def bytes_of(text: str) -> bytes:
    """The bytes of a token of byte-level BPE."""
    try:
        return bytes([_BYTES[letter] for letter in text])
    except KeyError:
        # Not in the alphabet, so no merge leads here: the token is meant literally.
        return text.encode()


def _token_id(model: GgufFile, name: str, vocabulary: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    return model.integer(key, high=vocabulary - 1) if key in model.metadata else None


def _unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)
