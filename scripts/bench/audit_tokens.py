"""What a check of a generated text finds: honest work, lower precision, a layer left out.

    python scripts/bench/audit_tokens.py MODEL.gguf [--answers 20] [--tokens 64]

Each way of working writes the same answers, half of them drawn at temperature 1 and half greedy;
one breaks off half-way, and one, as in an exam, says in reverse what does not repeat itself. The
model itself, on one thread, checks them all. Told are the tokens that it would have said otherwise,
how many answers it finds not to be the model's, and what a check takes beside writing the answer.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from tests.engines.requantise import requantise
from tests.engines.texts import load

from aigrid.engines import gguf
from aigrid.engines.base import CancelToken
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.metagraph.preferences import ANY
from aigrid.metagraph.selection import ANYTHING
from aigrid.node.auditing.case import Case, work
from aigrid.node.auditing.comparing import Reread
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.inference import ChatMessage, Finish, TextRequest

_TOPICS = ("the sea", "bread", "a lost key", "winter", "trains", "an old friend", "maps", "rain")
HALF, REVERSE = "the first half", "in reverse"
_FORMS = ("Write a short story about {}.", "Explain {} to a child.", "List facts about {}.")


@dataclass
class Found:
    """Of one way of working."""

    tokens: int = 0
    differing: int = 0
    alarms: int = 0
    answers: int = 0
    writing_seconds: float = 0.0
    checking_seconds: float = 0.0


def requests(count: int, tokens: int) -> Iterator[TextRequest]:
    """In turn greedy and drawn."""
    for number in range(count):
        text = _FORMS[number % len(_FORMS)].format(_TOPICS[number % len(_TOPICS)])
        yield TextRequest(
            messages=(ChatMessage("user", text),),
            max_tokens=tokens,
            temperature=float(number % 2),
            seed=number,
        )


def written(engine: OnnxTextEngine, request: TextRequest, *, half: bool) -> Case:
    """An answer, or the first half of it as if that were all."""
    *chunks, end = engine.infer(request, CancelToken())
    assert isinstance(end, Finish)
    kept = tuple(chunks[: len(chunks) // 2] if half else chunks)
    reason = "stop" if half else end.reason
    return Case(request, "", "", "", OPERATOR, ANY, ANYTHING, kept, reason)


def measured(
    worker: OnnxTextEngine, checker: OnnxTextEngine, asked: list[TextRequest], kind: str
) -> Found:
    """One way of working, checked."""
    found = Found()
    for request in asked:
        began = time.perf_counter()
        case = written(worker, request, half=kind == HALF)
        planted = case.planted()
        if kind == REVERSE:
            if planted is None:
                continue
            case = planted
        between = time.perf_counter()
        check = case.check()
        assert check is not None
        again = work(checker.infer(check, CancelToken()))
        assert isinstance(again, Reread)
        found.writing_seconds += between - began
        found.checking_seconds += time.perf_counter() - between
        found.answers += 1
        found.tokens += len(again.tokens)
        found.differing += sum(one.top[0][0] != one.token_id for one in again.tokens)
        found.alarms += case.verdict(again) == "different"
    return found


def without_a_layer(path: Path, made: Path) -> Path:
    """The file with a layer in the middle that adds nothing to what passes it."""
    data = bytearray(path.read_bytes())
    model = gguf.parse(bytes(data))
    middle = model.integer("llama.block_count", high=1000) // 2
    for part in ("attn_output", "ffn_down"):
        tensor = model.tensors[f"blk.{middle}.{part}.weight"]
        data[tensor.offset : tensor.offset + tensor.size_bytes] = bytes(tensor.size_bytes)
    made.write_bytes(data)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--answers", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    asked = list(requests(options.answers, options.tokens))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = ("Q8_0", "Q4_0", "Q4_K_M")
        paths = {kind: requantise(options.model, kind, folder / f"{kind}.gguf") for kind in kinds}
        paths["a layer left out"] = without_a_layer(options.model, folder / "short.gguf")
        checker = load(options.model, cache=folder / "cache")
        workers = {
            "honest, one thread": checker,
            "honest, two threads": load(options.model, cache=folder / "cache", threads=2),
            HALF: checker,
            REVERSE: checker,
            **{kind: load(path, cache=folder / "cache") for kind, path in paths.items()},
        }
        print(f"{'worker':22}{'differing':>10}{'found out':>11}{'check / writing':>17}")
        for kind, worker in workers.items():
            found = measured(worker, checker, asked, kind)
            if not found.tokens:
                print(f"{kind:22} nothing: all that these answers say repeats itself", flush=True)
                continue
            tell(f"found out: {kind}", [found.alarms], "answers", beside=("all", [found.answers]))
            took, writing = [found.checking_seconds], [found.writing_seconds]
            tell(f"a check: {kind}", took, "s", beside=("writing the answers", writing))
            print(
                f"{kind:22}{found.differing / found.tokens:10.2%}"
                f"{found.alarms:6} of {found.answers}"
                f"{found.checking_seconds / found.writing_seconds:15.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
