"""Requests that schemathesis makes of a gateway's own OpenAPI document, and what it finds wrong.

    python -m scripts.fuzz_gateway http://127.0.0.1:8080 --model echo --examples 500

Every answer must have a status, a content type and a body that are documented, and none may be a
fault of the server. The same seed makes the same requests.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

INTERNAL = 500
PLAIN = frozenset({"messages", "prompt", "input", "inputs", "query", "stream"})
UNNAMED = ("/sparql", "/v2/repository/index")


@dataclass
class Found:
    """How often each status came, and by operation what was wrong first."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)


def fuzz(gateway: str, *, model: str, examples: int, seed_number: int = 0) -> Found:
    """`examples` of each operation; two of three name `model`, one of those with little else."""
    schema = schemathesis.openapi.from_url(f"{gateway}/openapi.json")
    found = Found()
    for result in schema.get_all_operations():
        operation = result.ok()
        try:
            _fuzz(operation, found, model, examples, seed_number)
        except (AssertionError, FailureGroup) as error:
            parts = error.exceptions if isinstance(error, FailureGroup) else [error]
            found.wrong[operation.label] = "\n".join(map(str, parts))
    return found


def _fuzz(operation: Any, found: Found, model: str, examples: int, seed_number: int) -> None:
    turns = iter(range(sys.maxsize))

    @seed(seed_number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        turn = next(turns)
        if turn % 3:
            _name(case, model, plain=turn % 3 == 1)
        answer = case.call()
        found.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            found.answered.add(operation.label)
        if answer.status_code == INTERNAL:
            raise AssertionError(f"500: {answer.text[:500]}")
        case.validate_response(
            answer,
            checks=[
                status_code_conformance,
                content_type_conformance,
                response_schema_conformance,
            ],
        )

    ask()


def _name(case: Any, model: str, *, plain: bool) -> None:
    """Name a model that there is; `plain` leaves out most of what may be wrong with the rest."""
    if "model" in (case.path_parameters or {}):
        case.path_parameters["model"] = model
    if not isinstance(case.body, dict) or "{model}" in case.path:
        return
    if plain:
        case.body = {name: value for name, value in case.body.items() if name in PLAIN}
        if "messages" in case.body:
            case.body["messages"] = [{"role": "user", "content": "hello"}]
    if case.path not in UNNAMED:
        case.body["model"] = model


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gateway", help="http://HOST:PORT")
    parser.add_argument("--model", default="echo")
    parser.add_argument("--examples", type=int, default=200, help="of each operation")
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args(arguments)
    found = fuzz(
        given_.gateway, model=given_.model, examples=given_.examples, seed_number=given_.seed
    )
    for label, what in found.wrong.items():
        print(f"{label}\n{what}\n")
    print(" ".join(f"{status}:{count}" for status, count in sorted(found.statuses.items())))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
