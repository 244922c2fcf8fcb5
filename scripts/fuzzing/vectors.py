"""Seeds out of the test vectors of the protocol."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "tests" / "vectors"


@cache
def vector(name: str) -> Any:
    """What stands in a file of vectors."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@cache
def records() -> tuple[bytes, ...]:
    """Valid records of every kind, the credentials of the chains among them."""
    plain = [case["record"] for case in vector("records")]
    chained = [*vector("chains")["records"].values(), *vector("decisions")["records"].values()]
    return tuple(dict.fromkeys(text.encode() for text in (*plain, *chained)))


@cache
def refused_records() -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(case["record"]) for case in vector("refusals"))


def messages(conversation: str) -> list[bytes]:
    """The messages of one conversation, and records within them that really are some."""
    return [
        bytes.fromhex(case["bytes"])
        for case in vector("messages")
        if case["conversation"] == conversation
    ]
