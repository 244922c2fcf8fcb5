"""A tokenizer from the files that Hugging Face models bring: tokenizer.json and what is said of it.

Two ways to write bytes as tokens are read: the letters of byte-level BPE, and those of
SentencePiece, which has "▁" for a space and `<0x0A>` for a byte without a token of its own.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer

from aigrid.engines.chat_template import ChatTemplate
from aigrid.engines.gguf_tokenizer import ENDING, bytes_of
from aigrid.engines.small_files import read_json
from aigrid.engines.tasks.tokens import TOKENIZER_MAX_BYTES
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

TOKENIZER_FILE: Final = "tokenizer.json"
SETTINGS_FILE: Final = "tokenizer_config.json"
TEMPLATE_FILE: Final = "chat_template.jinja"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>\Z")


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _File(msgspec.Struct):
    decoder: dict[str, Any] | None = None
    added_tokens: list[_Added] = []


class HfTokenizer:
    """Text to tokens and back.

    Attributes:
        ending: tokens that end an answer.
        longest_bytes: most bytes of text that one token can stand for.
    """

    def __init__(self, files: Mapping[str, Path], ending: frozenset[int]) -> None:
        """`ending`: what the model's configuration says ends an answer.

        Raises:
            EngineError: `unsupported_model` where it is missing, too large, or of another kind.
        """
        path = files.get(TOKENIZER_FILE)
        if path is None:
            raise _unsupported(f"a model of text needs its {TOKENIZER_FILE}")
        if path.stat().st_size > TOKENIZER_MAX_BYTES:
            raise _unsupported(f"{path.name} is too large for a tokenizer")
        try:
            said = msgspec.json.decode(path.read_bytes(), type=_File)
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 -- boundary: the library raises it
            raise _unsupported(f"{path.name} is not a tokenizer: {error}"[:300]) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._letters = _is_byte_level(said.decoder)
        self._added = {token.id: token for token in said.added_tokens}
        self._tokens = {n: text for text, n in self._tokenizer.get_vocab(True).items()}  # noqa: FBT003
        self.ending = ending | {
            n for n, token in self._added.items() if token.special and token.content in ENDING
        }
        self.longest_bytes = max((len(text.encode()) for text in self._tokens.values()), default=1)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; a chat template may have written the first special token itself."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise EngineError("the text is not valid Unicode", Code.INVALID_REQUEST) from None
        plain: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        whole: list[int] = self._tokenizer.encode(text, add_special_tokens=True).ids
        begins = plain[:1] == whole[:1] and len(whole) > len(plain)
        return plain if begins else whole

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text; none for a control token."""
        added = self._added.get(token)
        if added is not None:
            return b"" if added.special else added.content.encode()
        text = self._tokens.get(token, "")
        if self._letters:
            return bytes_of(text)
        byte = _BYTE.match(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()

    def name(self, token: int) -> str:
        """A token for a person to read, control tokens included."""
        added = self._added.get(token)
        if added is not None:
            return added.content
        return self.piece(token).decode(errors="replace")


def chat_template(files: Mapping[str, Path]) -> ChatTemplate | None:
    """The model's chat template, from its own file or from the tokenizer's settings.

    Raises:
        EngineError: `unsupported_model` for one that is too long or not Jinja.
    """
    settings = read_json(files[SETTINGS_FILE]) if SETTINGS_FILE in files else {}
    source = settings.get("chat_template")
    if TEMPLATE_FILE in files:
        with files[TEMPLATE_FILE].open(encoding="utf-8", errors="replace") as stream:
            source = stream.read(LIMITS.template_max_chars + 1)
    if isinstance(source, list):  # several by name; the one that chats is the default
        named = {
            item.get("name"): item.get("template") for item in source if isinstance(item, dict)
        }
        source = named.get("default")
    if not isinstance(source, str):
        return None
    return ChatTemplate(
        source, bos=_text(settings.get("bos_token")), eos=_text(settings.get("eos_token"))
    )


def _text(token: Any) -> str:
    """A special token as settings spell it: a text, or an object with it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _is_byte_level(decoder: dict[str, Any] | None) -> bool:
    parts = (decoder or {}).get("decoders", [decoder])
    kinds = {part.get("type") for part in parts if isinstance(part, dict)}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"ByteFallback", "Metaspace"}:
        return False
    raise _unsupported("the tokenizer is neither byte-level BPE nor like SentencePiece")


def _unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)
