"""Answers of other nodes and of the models behind them: told on in dialects, compared, weighed."""

import json
from contextlib import suppress
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from scripts.fuzzing.mutations import mutated
from scripts.fuzzing.target import RefusedError, Target
from scripts.fuzzing.trees import Tree

from aigrid.node.auditing import comparing
from aigrid.node.gateway import deltas
from aigrid.node.gateway.ollama.answers import _thoughts, _tool_calls
from aigrid.node.gateway.openai.answers import ChatSpelling
from aigrid.node.gateway.openai.response_output import Events, Output
from aigrid.node.gateway.step import Step
from aigrid.node.outcome.agreement import Agreement, same
from aigrid.node.outcome.confidence import confidence
from aigrid.protocol.errors import EngineError, RemoteError
from aigrid.protocol.inference import TokenLogprob

_TOKENS = (TokenLogprob(5, "x", -0.5, ((5, "x", -0.5), (None, "\u00e9", -1e9))),)


class Lines:
    """A few documents, one on a line, most of them the same or nearly so."""

    def __init__(self, seeds: tuple[Any, ...]) -> None:
        self._one = Tree([json.dumps(seed).encode() for seed in seeds])

    def make(self, rng: Random) -> bytes:
        first = self._one.make(rng)
        lines = [first]
        for _ in range(1 + rng.getrandbits(1)):
            match rng.randrange(4):
                case 0:
                    lines.append(first)
                case 1:
                    lines.append(mutated(rng, first, ()))
                case 2:
                    lines.append(rng.choice(self._one.seeds))
                case _:
                    lines.append(self._one.make(rng))
        return b"\n".join(line.replace(b"\n", b" ") for line in lines)


def _told(data: bytes) -> None:
    """What pieces say beside their text: checked, joined, and told in each dialect."""
    pieces, refused = [], None
    for line in data.split(b"\n"):
        try:
            if kept := deltas.checked(line):
                pieces.append(kept)
        except RemoteError as error:
            refused = error
    if not pieces:
        raise RefusedError from refused
    steps = [
        Step("a" * (n % 2), _TOKENS[: n % 2], None, more=(one,)) for n, one in enumerate(pieces)
    ]
    whole = deltas.joined(pieces)
    msgspec.json.encode(whole)
    _thoughts(whole)
    with suppress(EngineError):
        for call in _tool_calls(whole):
            msgspec.json.encode(call)
    _events(steps)
    chat = ChatSpelling(answer_id="a", created=1)
    data = chat.begin(cast("Any", SimpleNamespace(name="m"))) + b"".join(map(chat.step, steps))
    _check_events(data)


def _events(steps: list[Step]) -> None:
    output = Output("r", Events())
    try:
        data = b"".join([*map(output.step, steps), output.close("completed")])
    except RemoteError:
        return
    _check_events(data)
    msgspec.json.encode(output.items)


def _check_events(data: bytes) -> None:
    """Each is JSON, so that nothing that a model says ends one and begins another."""
    for line in data.split(b"\n"):
        assert line.partition(b": ")[0] in (b"", b"event", b"data"), line[:40]
        if line.startswith(b"data: "):
            msgspec.json.decode(line[6:])


def _compared(data: bytes) -> None:
    """Whatever they hold, answers are like themselves, and a bounded time decides it."""
    lines, known = data.split(b"\n"), []
    for line in lines:
        with suppress(ValueError, RecursionError):
            known.append(msgspec.json.decode(line))
    agreement = Agreement()
    for place, one in enumerate(known):
        agreement.add(place, one)
        sure = confidence(one)
        assert sure is None or 0 <= sure <= 1
        assert same(one, one)
    for again in lines[1:]:
        comparing.outputs(lines[0], again)
        assert comparing.outputs(again, again) in ("same", "different")
    if not known:
        raise RefusedError
    place, alike = agreement.most()
    assert place in alike


_DELTAS: tuple[Any, ...] = (
    {"reasoning_content": "so", "refusal": None},
    {"reasoning": "so", "annotations": [{"type": "url"}]},
    {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}, {"function": {"name": "g"}}]},
    {"refusal": "no", "audio": {"data": "AAAA"}, "role": "assistant", "content": "x"},
    {"function": {"name": "f", "arguments": "{}"}, "own": [1], "other": "text"},
)
_ANSWERS: tuple[Any, ...] = (
    "A text.",
    [{"label": "yes", "score": 0.9}, {"label": "no", "score": 0.1}],
    [{"entity": "PER", "start": 0, "end": 3, "word": "Ann", "score": 0.5}],
    [{"anomaly": True, "score": 3.5}, {"anomaly": False, "score": 0}],
    [{"label": "a", "score": 1, "box": {"xmin": 0, "ymin": 0, "xmax": 5, "ymax": 5}}],
    {"answer": "x", "score": 0.5, "start": 0, "end": 1},
    {"text": "x", "chunks": [{"text": "y"}]},
    [0.1 * n for n in range(20)],
    [[1, 2.5], [3, 4]],
    [["a", [True, None]], 5],
)

TARGETS = (
    Target("answer-members", lambda: Lines(_DELTAS), _told, ()),
    Target("compared-answers", lambda: Lines(_ANSWERS), _compared, ()),
)
