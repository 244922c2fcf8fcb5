"""The data path beside raw TCP, py-libp2p as it is shipped, and rust-libp2p's Python binding.

    python scripts/bench/data_path --rounds 5 --json result.json      (quick: --quick, 30 s)

In each round every column has its turn, in two fresh processes over 127.0.0.1; medians of the
rounds count. The columns:

- `raw`: trio over plain TCP, nothing encrypted, a connection for each stream;
- `stock`: py-libp2p, `new_host` as it is shipped: Noise, Yamux;
- `ours`: requests as nodes make them, `RpcClient` to `RpcServer` over pooled streams of this node's
  transport; its writes are bodies of an answer, as files come;
- `bare`: streams of that transport alone, with the frames that `raw` and `stock` have;
- `lattica`: PyPI's binding of rust-libp2p, bytes in and out, no pickle (see `lattica_child.py`). It
  is installed from the package index into an environment of its own in the user's cache, once;
  where that fails its column is empty and the reason given. `--lattica-python` names an
  interpreter that has it.

The starred figure of a row is the one that its ratios and aims are about. CPU is that of all
threads of a side, for each request or token; what a pace adds to a token is from when it was made
to when the caller has it. Milliseconds mean something on an idle machine alone; where others are
at work, `--best` takes each figure from its best round, and CPU is to be trusted most. Exit
status 1: a column failed, or the run was cut short, and what there is was printed; an aim not met
is only said.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from scripts.bench.children import ChildFailedError, child, leave_cleanly
from scripts.bench.data_path import table
from scripts.bench.data_path.figures import Amounts, Found

LATTICA = "1.0.21"
LOAD_TIMEOUT_SECONDS = 240.0
START_TIMEOUT_SECONDS = 30.0
HERE = "scripts.bench.data_path"
WRITE_TIMES = {
    "raw": 8,
    "stock": 1,
    "ours": 4,
    "bare": 4,
    "lattica": 1,
}  # so that each takes a while


def main() -> int:
    options = _options()
    leave_cleanly()
    programs, left_out = _programs(options)
    rounds: dict[str, list[Found]] = {name: [] for name in programs}
    failed: dict[str, str] = {}
    try:
        all_rounds(options, programs, rounds, failed)
    except (KeyboardInterrupt, SystemExit):
        failed["run"] = "it was cut short"  # and what there is counts
    table.tell_all(rounds)
    found = table.medians(rounds, best=options.best)
    for line in [*table.lines(found), "", *table.aim_lines(found), *left_out]:
        print(line)
    if options.json:
        options.json.write_text(
            json.dumps(_report(found, rounds, failed, left_out, best=options.best), indent=1) + "\n"
        )
    return 1 if failed else 0


def all_rounds(
    options: argparse.Namespace,
    programs: Mapping[str, list[str]],
    rounds: Mapping[str, list[Found]],
    failed: dict[str, str],
) -> None:
    """Fills in what was found, and what went wrong."""
    amounts = Amounts().scaled(options.scale)
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for name in _turned(list(programs), number):
            theirs = replace(amounts, write_mib=amounts.write_mib * WRITE_TIMES[name])
            try:
                rounds[name].append(measure(programs[name], theirs))
            except ChildFailedError as error:
                failed[name] = str(error)
                print(f"{name} failed: {error}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of all loads")
    parser.add_argument("--quick", action="store_true", help="one round of a fifth")
    parser.add_argument("--best", action="store_true", help="the best round counts, not the median")
    parser.add_argument("--columns", default=",".join(table.COLUMNS), help="which, in a list")
    parser.add_argument("--lattica", default=LATTICA, help="version, or none to leave it out")
    parser.add_argument("--lattica-python", help="an interpreter that has lattica")
    parser.add_argument("--json", type=Path, help="where the figures go, each round's too")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.scale = 1, options.scale / 5
    return options


def _turned(names: list[str], by: int) -> list[str]:
    """No column always follows the same other, or is always first."""
    by %= len(names) or 1
    return names[by:] + names[:by]


def _programs(options: argparse.Namespace) -> tuple[dict[str, list[str]], list[str]]:
    """The command of each column, and what is to be said of one that is left out."""
    programs, left_out = dict[str, list[str]](), list[str]()
    for name in options.columns.split(","):
        if name not in table.COLUMNS:
            sys.exit(f"no column is called {name}: {', '.join(table.COLUMNS)}")
        if name != "lattica":
            programs[name] = [sys.executable, "-m", f"{HERE}.child", name]
            continue
        python, why = lattica_python(options.lattica, options.lattica_python)
        if python is None:
            left_out.append(f"lattica is left out: {why}")
        else:
            programs[name] = [python, "-m", f"{HERE}.lattica_child"]
    return programs, left_out


def lattica_python(version: str, named: str | None) -> tuple[str | None, str]:
    """An interpreter that has lattica, installed if need be; or None, and why."""
    if named:
        return named, ""
    if version == "none":
        return None, "as was asked for"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    place = cache / "aigrid" / "bench" / f"lattica-{version}"
    python = place / "bin" / "python"
    if (place / "complete").exists():
        return str(python), ""
    print(f"Installing lattica {version}, once.", file=sys.stderr)
    try:
        venv.create(place, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", f"lattica=={version}"]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
    except (OSError, subprocess.CalledProcessError) as error:
        return None, str(error)
    if done.returncode:
        shutil.rmtree(place, ignore_errors=True)
        return None, (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    (place / "complete").touch()
    return str(python), ""


def measure(program: list[str], amounts: Amounts) -> Found:
    """One turn of a column: a process that serves, and one that measures it."""
    with child(program) as server:
        address = server.report("address", START_TIMEOUT_SECONDS)["address"]
        asked = [*program, str(address), str(server.pid), json.dumps(asdict(amounts))]
        with child(asked) as caller:
            found = caller.report("connect_ms", LOAD_TIMEOUT_SECONDS)
    return {str(name): float(value) for name, value in found.items()}


def _report(
    found: table.Medians,
    rounds: table.Rounds,
    failed: dict[str, str],
    left_out: list[str],
    *,
    best: bool,
) -> dict[str, Any]:
    aims = []
    for aim in table.AIMS:
        value, verdict = table.judged(found, aim, table.BY_NAME[aim.row].of)
        known = None if verdict == "no figure" else value
        aims.append({"row": aim.row, "aim": str(aim), "value": known, "verdict": verdict})
    return {
        "best" if best else "medians": found,
        "aims": aims,
        "rounds": rounds,
        "failed": failed,
        "left_out": left_out,
    }


if __name__ == "__main__":
    sys.exit(main())
