"""kill -9 of the serving node in the middle of an answer, again and again; another one goes on.

    python scripts/faults/kill_midstream.py --rounds 100 --alone 10

Three real nodes: a gateway that holds nothing, and two that hold SmolLM2, both warm. In each round
a greedy answer is streamed through the gateway, and the node that serves it is killed after a
random number of tokens; it is started again and warm before the next round. Then, `--alone` times,
the same with one holder. With `--freeze` it is held by SIGSTOP instead, and only its silence tells.

Wrong, and an exit status other than 0, is: an answer that does not end, counts or tokens that do
not agree with its usage, a token that differs from the uninterrupted answer other than at a near
tie (there the two likeliest tokens differ by less than `sampling.NEAR_TIE`: whoever goes on
computes the same numbers in another order, so their last bits differ), tokens before the kill that
are told again after it, an answer without its second holder that ends otherwise than in the error
event of a lost node. An answer that had ended before the kill proves nothing, so that round is made
again. The stall is the time from the kill to the next token; its 95th percentile above
`--stall-max` seconds is wrong, too. Prints a table.
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.nodes import NodeFailedError, NodeProcess, form_grid, stop_all, wait_for

from aigrid.engines.sampling import NEAR_TIE

MODEL = "smollm2"
# What a client may hear where nobody goes on with its answer: the node was lost, not the request.
LOST = frozenset({"connection_lost", "engine_crashed", "unreachable"})
SEAM = 12  # tokens at least that, told again after the kill, are no chance
LEAST = 3  # where these are all that was told before
AGAIN_MAX = 10  # in a row of one round
PROMPTS = (
    "Write a story about a lighthouse keeper.",
    "Explain how rivers form, in simple words.",
    "List ten facts about the moon.",
    "Schreibe einen Absatz über Käse.",
    "What is the difference between a list and a tuple in Python?",
)


@dataclass
class Answer:
    """What a client got: for each token its text and the margin of the two likeliest, in nats."""

    tokens: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    text: str = ""
    completion_tokens: int = -1
    segments: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    stall_seconds: float = 0.0
    killed_after: int = 0
    first_seconds: float = 0.0
    spoke_seconds: float = 0.0

    @property
    def anew_seconds(self) -> float:
        """What computing the prompt and the tokens before the kill took the first time."""
        return self.first_seconds + self.spoke_seconds


def main() -> int:
    arguments = _parse()
    rng = random.Random(arguments.seed)
    root = Path(tempfile.mkdtemp(prefix="aigrid-kill-"))
    names = ("gateway", "one", "two")
    nodes = [NodeProcess(root / name, "--name", name, "--threads", "1") for name in names]
    try:
        form_grid(nodes)
        run = Run(nodes, arguments.tokens, rng, freeze=arguments.freeze)
        return run.run(arguments.rounds, arguments.alone, arguments.stall_max)
    except NodeFailedError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    finally:
        stop_all(nodes)
        shutil.rmtree(root, ignore_errors=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100, help="kills with a second holder")
    parser.add_argument("--alone", type=int, default=10, help="kills without one")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer")
    parser.add_argument("--seed", type=int, default=1, help="of prompts and moments")
    parser.add_argument("--stall-max", type=float, help="seconds, of the stall's p95; none: any")
    parser.add_argument("--freeze", action="store_true", help="SIGSTOP instead of SIGKILL")
    parser.add_argument("--quick", action="store_true", help="5 rounds, and 2 alone")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.alone = 5, 2
    return arguments


class Run:
    """The rounds, and what went wrong in them."""

    def __init__(
        self, nodes: Sequence[NodeProcess], tokens: int, rng: random.Random, *, freeze: bool
    ) -> None:
        self.gateway, *holders = nodes
        self.holders = {node.peer_id: node for node in holders}
        self.tokens = tokens
        self.rng = rng
        self.freeze = freeze
        self.frozen: list[NodeProcess] = []
        self.wrong: list[str] = []
        self.again = 0

    def run(self, rounds: int, alone: int, stall_max: float | None) -> int:
        for node in self.holders.values():
            node.cli("models", "fetch", MODEL, timeout_seconds=600)
        self.warm(self.holders)
        whole = {prompt: self.ask(prompt) for prompt in PROMPTS}
        answers, ties = [], 0
        for number in range(rounds):
            prompt, answer = self.struck(self.tokens, self.holders)
            ties += self.judge(number, answer, whole[prompt])
            answers.append(answer)
            self.back(self.holders)
        self.back(self.holders)
        left, other = self.holders.items()
        other[1].stop()
        ended = 0
        for number in range(alone):
            _, answer = self.struck(64, dict([left]))
            ended += answer.error in LOST
            if answer.error not in LOST:
                self.wrong.append(f"alone {number}: {answer.error or 'no error event'}")
            self.back(dict([left]))
        stalls = [a.stall_seconds for a in answers if len(a.segments) > 1]
        p95 = _p95(stalls)
        if stall_max is not None and p95 > stall_max:
            self.wrong.append(f"the stall's p95 is {p95:.2f} s, more than {stall_max} s")
        self.report(answers, ties, alone, ended)
        return 1 if self.wrong else 0

    def struck(self, most: int, holders: dict[str, NodeProcess]) -> tuple[str, Answer]:
        """A prompt and its answer, in the middle of which whoever served it was killed."""
        for _ in range(AGAIN_MAX):
            prompt = self.rng.choice(PROMPTS)
            answer = self.ask(prompt, kill_after=self.rng.randrange(1, most))
            if answer.error or len(answer.segments) > 1:
                return prompt, answer
            self.again += 1  # all of it was on its way already
            self.back(holders)
        raise NodeFailedError(f"{AGAIN_MAX} answers in a row ended before the kill")

    def warm(self, holders: dict[str, NodeProcess]) -> None:
        """Have each holder load the model, and the gateway know so."""
        for node in holders.values():
            _all(_chat(node.gateway, "Hi", 1))
        wait_for(
            lambda: self.seen() == set(holders), timeout_seconds=60, what="the holders to be met"
        )

    def seen(self) -> set[str]:
        """Who the gateway thinks may serve."""
        connection = http.client.HTTPConnection(urlsplit(self.gateway.gateway).netloc, timeout=10)
        connection.request("GET", "/v1/models")
        listed = json.loads(connection.getresponse().read())["data"]
        connection.close()
        time.sleep(0.05)
        return {node for model in listed for node in model["aigrid"]["nodes"]}

    def strike(self, node: NodeProcess) -> None:
        if self.freeze:
            os.kill(node.pid, signal.SIGSTOP)
            self.frozen.append(node)
        else:
            node.kill9()

    def back(self, holders: dict[str, NodeProcess]) -> None:
        while self.frozen:
            os.kill(self.frozen.pop().pid, signal.SIGCONT)
        for node in holders.values():
            if not node.alive:
                node.start()
        self.warm(holders)
        time.sleep(1.2)  # its offer says warm now, and news go out once a second

    def ask(self, prompt: str, *, kill_after: int = 0) -> Answer:
        """An answer through the gateway; whoever serves it is killed after so many tokens."""
        answer, killed_at = Answer(killed_after=kill_after), 0.0
        asked_at = time.perf_counter()
        for event in _chat(self.gateway.gateway, prompt, self.tokens):
            if "error" in event:
                answer.error = event["error"]["code"]
                break
            now = time.perf_counter()
            got = _take(answer, event)
            if got and not answer.first_seconds:
                answer.first_seconds = now - asked_at
            if killed_at and got and not answer.stall_seconds:
                answer.stall_seconds = now - killed_at
            if kill_after and not killed_at and len(answer.tokens) >= kill_after:
                self.strike(self.holders[event["served_by"]])
                killed_at = time.perf_counter()
                answer.spoke_seconds = killed_at - asked_at - answer.first_seconds
        return answer

    def judge(self, number: int, answer: Answer, whole: Answer) -> bool:
        """Whether the answer left the uninterrupted one, at a near tie."""
        told = f"round {number}, killed after {answer.killed_after}"
        if answer.error or answer.completion_tokens < 0:
            self.wrong.append(f"{told}: {answer.error or 'no end'}")
            return False
        counted = sum(segment["tokens"] for segment in answer.segments)
        # The token that ends an answer is not told, and control tokens have no text.
        if not len(answer.tokens) == answer.completion_tokens == counted:
            self.wrong.append(
                f"{told}: {len(answer.tokens)} tokens came, {answer.completion_tokens} in usage, "
                f"{counted} in segments"
            )
        if "".join(answer.tokens) != answer.text and "\ufffd" not in "".join(answer.tokens):
            self.wrong.append(f"{told}: the text is not that of the tokens")
        if (told_again := _repeated(answer, whole)) is not None:
            self.wrong.append(f"{told}: the tokens before {told_again} are told again after it")
        pairs = zip(answer.tokens, whole.tokens, strict=False)
        for place, (mine, theirs) in enumerate(pairs):
            if mine != theirs:
                margin = whole.margins[place]
                if place < answer.killed_after or margin >= NEAR_TIE:
                    self.wrong.append(
                        f"{told}: token {place} is {mine!r}, not {theirs!r}, margin {margin:.4f}"
                    )
                return True
        if len(answer.tokens) != len(whole.tokens) or answer.text != whole.text:
            self.wrong.append(f"{told}: {len(answer.tokens)} tokens of {len(whole.tokens)}")
        return False

    def report(self, answers: list[Answer], ties: int, alone: int, ended: int) -> None:
        continued = [a for a in answers if len(a.segments) > 1]
        stalls = sorted(a.stall_seconds for a in continued)
        print(f"kills with a second holder  {len(answers)}")
        print(f"continued                   {len(stalls)}; {self.again} made again: all was sent")
        print(f"identical                   {len(answers) - ties}")
        print(f"differ from a near tie on   {ties} (margin < {NEAR_TIE} nats)")
        if len(stalls) > 1:
            p50, p95 = median(stalls), _p95(stalls)
            print(f"stall p50 / p95 / max       {p50:.2f} / {p95:.2f} / {stalls[-1]:.2f} s")
            anew = median(a.stall_seconds / a.anew_seconds for a in continued)
            print(f"first token p50             {median(a.first_seconds for a in answers):.2f} s")
            print(f"stall / computing it before {anew:.2f} (p50: prompt and tokens up to the kill)")
        print(f"kills without one           {alone}, {ended} ended in an error event")
        print(f"wrong                       {len(self.wrong)}")
        for line in self.wrong[:20]:
            print(f"  {line}")


def _p95(stalls: Sequence[float]) -> float:
    return (
        quantiles(stalls, n=20, method="inclusive")[-1]
        if len(stalls) > 1
        else max(stalls, default=0.0)
    )


def _repeated(answer: Answer, whole: Answer) -> int | None:
    """The seam behind which tokens that were told before it come again; None: at none.

    The uninterrupted answer may repeat itself, and then this one may do so where that one did.
    """
    place: int = 0
    for segment in answer.segments[:-1]:
        place += int(segment["tokens"])
        for size in range(1, place + 1):
            before, after = answer.tokens[place - size : place], answer.tokens[place : place + size]
            so_whole: bool = whole.tokens[place : place + size] == after
            if before == after and not so_whole and (size >= SEAM or size == place >= LEAST):
                return place
    return None


def _take(answer: Answer, event: dict[str, Any]) -> bool:
    """Add an event to an answer; whether it brought a token."""
    got = False
    for choice in event["choices"]:
        answer.text += choice.get("delta", {}).get("content") or ""
        for entry in (choice.get("logprobs") or {}).get("content") or ():
            likeliest = [other["logprob"] for other in entry["top_logprobs"]]
            answer.tokens.append(entry["token"])
            answer.margins.append(likeliest[0] - likeliest[1])
            got = True
    if event.get("usage"):
        answer.completion_tokens = event["usage"]["completion_tokens"]
    answer.segments = event.get("aigrid", {}).get("segments", answer.segments)
    return got


def _chat(gateway: str, prompt: str, tokens: int) -> Iterator[dict[str, Any]]:
    """The events of a stream, each with who began to serve it."""
    connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=120)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 2,
    }
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise NodeFailedError(f"HTTP {response.status}: {response.read(4096)!r}")
        served_by = response.getheader("x-aigrid-node")
        for line in response:
            data = line.strip()
            if data.startswith(b"data: {"):
                yield {**json.loads(data.removeprefix(b"data: ")), "served_by": served_by}
    finally:
        connection.close()


def _all(events: Iterator[dict[str, Any]]) -> None:
    for event in events:
        if "error" in event:
            raise NodeFailedError(f"the stream ended with {event['error']}")


if __name__ == "__main__":
    sys.exit(main())
