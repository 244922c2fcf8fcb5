"""SPEC.md says what the code does, where that can be checked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aigrid.metagraph.selection import Filters
from aigrid.protocol.errors import Code
from aigrid.protocol.limits import table

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "SPEC.md").read_text(encoding="utf-8")
UNITS = r"(?:max|seconds|bytes|burst|per_second|interval_seconds)"


def test_the_generated_parts_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/spec.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_parameter_that_the_text_names_exists() -> None:
    prose = "\n".join(line for line in SPEC.splitlines() if not line.startswith("|"))
    named = set(re.findall(rf"`([a-z_]+_{UNITS})`", prose))  # tables of fields have their own
    known = {name for name, _, _ in table()} | {"retry_after_seconds"}
    known |= {*Filters.__struct_fields__, "max_latency_ms", "max_size_bytes"}  # constraints
    assert len(named) > 20
    assert named <= known


def test_every_code_of_the_refusal_table_exists() -> None:
    rows = re.findall(r"^\| \d+ \| .* \| (.*) \|$", SPEC, re.MULTILINE)
    assert len(rows) == 22
    codes = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
    assert codes <= {code.value for code in Code}


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "tests" / "vectors").iterdir()))
def test_every_vector_is_listed(name: str) -> None:
    assert f"`{name}`" in SPEC or f"`{name}/`" in SPEC
