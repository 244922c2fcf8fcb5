"""The list of models: a row for each, which a terminal has room for."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.node.cli.conftest import Cli, ScriptedNode
from tests.node.cli.test_model_cards import HERE, MODEL, OTHER

from aigrid.node.cli import model_table

LONG = 100


def table(cli: Cli, node: ScriptedNode, *models: dict[str, Any]) -> list[str]:
    node.answers["models"] = {"models": list(models), "trouble": "", "peer_id": ""}
    done = cli("models")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["NAME", "TASK", "WARM", "ON", "HERE", "MEMORY", "UNLOADS"]
    return [*lines[1:], *done.err.splitlines()]


def row(cli: Cli, node: ScriptedNode, *, fetching: Any = None, **here: Any) -> str:
    model = {**MODEL, "here": {**HERE, **here}, "fetching": fetching}
    return " ".join(table(cli, node, model)[0].split())


def test_one_row_says_where_a_model_is_and_how_it_stands_here(cli: Cli, node: ScriptedNode) -> None:
    assert row(cli, node) == "smollm2 text-generation 2 of 2 loaded 300 MiB in 4 min"
    idle: dict[str, Any] = {"expires_in_seconds": None, "leases": 0}
    assert row(cli, node, **idle).endswith("loaded 300 MiB if needed")
    assert row(cli, node, expires_in_seconds=None).endswith("loaded 300 MiB when idle")
    assert row(cli, node, **idle, pinned=True).endswith("loaded, pinned 300 MiB never")
    assert row(cli, node, state="on_disk").endswith("on disk - -")
    loading: dict[str, Any] = {"state": "loading", "progress": "loading: 45 %"}
    assert row(cli, node, **loading).endswith("loading 45 % - -")
    assert row(cli, node, **loading, pinned=True).endswith("loading 45 %, pinned - -")
    assert row(cli, node, **loading, problem="x").endswith("loading, withheld - -")


def test_a_model_elsewhere_or_on_its_way(cli: Cli, node: ScriptedNode) -> None:
    away = {name: value for name, value in MODEL.items() if name != "here"}
    away |= {"warm": [], "on_disk": [OTHER], "capabilities": ["did:key:z6Mk#law"]}
    on_its_way = {**away, "name": "b", "fetching": {"percent": 43, "text": "fetching: 43 %"}}
    rows = [" ".join(line.split()) for line in table(cli, node, away, on_its_way)]
    assert rows == ["smollm2 law 0 of 1 - - -", "b law 0 of 1 fetching 43 % - -"]


def test_why_a_model_is_withheld_is_said_below_the_table(cli: Cli, node: ScriptedNode) -> None:
    model = {**MODEL, "here": {**HERE, "state": "on_disk", "problem": "it keeps\ncrashing"}}
    first, second = table(cli, node, model)
    assert "on disk, withheld" in first
    assert second == "smollm2: it keeps crashing"


def test_no_models_say_what_to_do(cli: Cli, node: ScriptedNode) -> None:
    node.answers["models"] = {"models": [], "trouble": ""}
    for words in (["models"], ["models", "--long"]):
        assert cli(*words).out == "No models yet: aigrid models fetch smollm2\n"


words = st.text(max_size=120)


@given(
    name=words,
    task=words,
    progress=words,
    state=st.sampled_from(["warm", "loading", "on_disk"]),
    problem=words,
    pinned=st.booleans(),
    size=st.integers(0, (1 << 50) - 1),
    seconds=st.one_of(st.none(), st.floats(0, 3600)),
)
def test_no_row_is_wider_than_a_hundred_columns(
    name: str, task: str, state: str, size: int, seconds: float | None, **said: Any
) -> None:
    use = {**HERE, "state": state, "memory": {"cpu": size}, "expires_in_seconds": seconds, **said}
    model = {**MODEL, "name": name, "capabilities": [task], "here": use}
    row = model_table._row(model)
    widths = [min(w, cell_len(cell)) for w, cell in zip(model_table._WIDTHS, row, strict=True)]
    line = model_table._line(row, widths)
    assert cell_len(line) <= LONG
    assert "\n" not in line
    for cell in row[2:]:  # whatever is not a name or a task fits as it is
        assert cell in line
