"""Which benchmarks there are, how each is run, and what is none. A table."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MINUTE = 60.0
SHORT = 15.0
SMOLLM2 = "{smollm2}"  # stands for the path of the starter model's file


@dataclass(frozen=True)
class Program:
    """A file or folder of `scripts/bench/`.

    Attributes:
        arguments: of a full run.
        quick: arguments of a run of a few seconds; None: there is no such run.
        needs: what must be there, by its name in `needs.py`.
        bound_seconds: a full run that takes longer is ended.
        quick_bound_seconds: likewise a quick one; those with a shorter bound come first.
        judges: it ends with status 1 where an aim was missed, which is no failure of the run.
    """

    name: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    bound_seconds: float = 10 * MINUTE
    quick_bound_seconds: float = 30.0
    judges: bool = False


def words(said: str) -> tuple[str, ...]:
    return tuple(said.split())


PROGRAMS = (
    Program("accelerator", needs=("torch",)),
    Program("audit_tokens", (SMOLLM2,), needs=("smollm2",), bound_seconds=30 * MINUTE),
    Program(
        "audits",
        quick=words("--seeds 2 --requests 200 --way always --way noise"),
        quick_bound_seconds=SHORT,
    ),
    Program("batching", needs=("smollm2",)),
    Program("cancel", quick=words("--rounds 3")),
    Program("cold_start", needs=("smollm2",)),
    Program("convergence", bound_seconds=15 * MINUTE),
    Program(
        "crash",
        quick=words("--rounds 4 --opens 3 --nodes 0"),
        quick_bound_seconds=SHORT,
        bound_seconds=15 * MINUTE,
    ),
    Program(
        "data_path",
        quick=words("--rounds 1 --scale 0.02 --lattica none"),
        bound_seconds=30 * MINUTE,
    ),
    Program("decide", quick=words("--rounds 200"), quick_bound_seconds=SHORT),
    Program("embeddings", quick=words("--seconds 2"), needs=("minilm",)),
    Program("gateway", quick=words("--seconds 0.2 --rounds 1 --litellm none")),
    Program("gossip", bound_seconds=30 * MINUTE, judges=True),
    Program("gossip_virtual", quick=words("--nodes 30"), quick_bound_seconds=SHORT, judges=True),
    Program("hostile_sparql", needs=("proc",)),
    Program("idle", needs=("proc",), bound_seconds=10 * MINUTE),
    Program("ingest", quick=words("--records 500"), quick_bound_seconds=SHORT, needs=("proc",)),
    Program("many_models", needs=("proc",), bound_seconds=15 * MINUTE),
    Program("onnx_text", needs=("smollm2",)),
    Program("overhead", needs=("proc",)),
    Program("policy_share", quick=words("--requests 20")),
    Program("quantisations"),
    Program("query", needs=("proc",)),
    Program("race", quick=words("--requests 40"), quick_bound_seconds=SHORT),
    Program("reconcile", ("--nodes",), quick=words("--records 2000"), quick_bound_seconds=SHORT),
    Program(
        "scale",
        ("--measure",),
        quick=words("--measure --nodes 100"),
        quick_bound_seconds=SHORT,
        needs=("proc",),
    ),
    Program("selection", quick=words("--rounds 3"), quick_bound_seconds=SHORT),
    Program(
        "strangers", quick=words("--strangers 500"), quick_bound_seconds=SHORT, needs=("proc",)
    ),
    Program("surge", needs=("smollm2",)),
    Program(
        "torch_text",
        quick=words("--layers 2 --tokens 16 --rounds 5"),
        needs=("torch", "transformers"),
    ),
    Program("typed_query"),
    Program("weights"),
    Program("wrong_keys"),
)

HELPERS = {
    "all": "runs what is in the table",
    "children": "processes that a benchmark starts",
    "convergence_mix": "what `convergence` publishes and asks",
    "crash_writer": "the process that `crash` kills",
    "gossip_member": "one process of `gossip`",
    "http_load": "the clients of `gateway`",
    "mock_upstream": "the server behind `gateway` and `overhead`",
    "reporting": "how figures are told",
    "runner": "what `all` is made of",
    "sampler": "what samples the nodes of `overhead`",
}


def command(program: Program, need: Callable[[str], str], *, quick: bool) -> list[str]:
    """What starts it. `need` finds what it needs, or raises MissingError."""
    found = {f"{{{name}}}": need(name) for name in program.needs}
    place = f"scripts/bench/{program.name}"
    said = program.quick if quick and program.quick is not None else program.arguments
    path = place if (ROOT / place).is_dir() else f"{place}.py"
    return [sys.executable, path, *(found.get(word, word) for word in said)]
