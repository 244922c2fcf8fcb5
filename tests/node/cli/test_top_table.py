"""The table of `aigrid top`, at several widths and with whatever members may say of themselves."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from aigrid.node.cli.top_table import duration, layout, number

GIB = 1 << 30
FIGURES: dict[str, Any] = {
    "name": "laptop",
    "software": "0.1.0",
    "uptime_seconds": 4000,
    "running": 3,
    "waiting": 1,
    "served": 12,
    "failed": 2,
    "denied": 0,
    "first_p50_ms": 120,
    "first_p95_ms": 900,
    "memory": {"cpu": {"used_bytes": 5 * GIB, "budget_bytes": 12 * GIB}},
    "models": ["smollm2", "parrot"],
    "loaded": 3,
    "prompt_per_second": 12.5,
    "completion_per_second": 145.2,
}
LIAR = {
    **FIGURES,
    "name": "\u202e\x1b[31m\n" + "界" * 30,
    "software": "x" * 64,
    "uptime_seconds": 10**12,
    "running": 10**12,
    "served": 10**12,
    "first_p95_ms": 10**9,
    "memory": {"cpu": {"used_bytes": 2**60, "budget_bytes": 2**60}},
    "models": ["m" * 64] * 16,
    "loaded": 10**12,
    "completion_per_second": 1e12,
}


def node(peer: str, figures: dict[str, Any] | None, state: str = "fresh", age: float = 0.0) -> Any:
    return {"peer_id": peer, "state": state, "age_seconds": age, "vitals": figures}


def body(*nodes: Any, whole: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "whole": whole,
        "members": len(nodes),
        "not_connected": 0,
        "asked_max": 64,
        "nodes": nodes,
        **more,
    }


def texts(said: dict[str, Any], width: int, height: int | None = None) -> list[str]:
    return [line.text for line in layout(said, width=width, height=height)]


def test_a_hundred_columns_hold_everything() -> None:
    assert texts(body(node("12D3KooWabcdef", FIGURES)), 100) == [
        "1 member: 1 fresh",
        "3 running, 1 of them waiting; tokens/s 12.5 in, 145 out",
        "NODE             RUN  WAIT  IN/S OUT/S P50 s P95 s         GiB  DONE   ERR   UP VER    MODELS",
        "abcdef laptop      3     1  12.5   145  0.12  0.90        5/12    12     2  66m 0.1.0  smollm2, par…",
    ]


def test_where_it_is_narrow_what_matters_least_goes_first() -> None:
    heads = {
        width: texts(body(node("12D3KooWabcdef", FIGURES)), width)[2].split()
        for width in (40, 80, 160)
    }
    assert heads[160][-2:] == ["VER", "MODELS"]
    assert heads[80][-2:] == ["DONE", "ERR"]
    assert heads[40] == ["NODE", "RUN", "WAIT", "IN/S", "OUT/S"]
    assert "smollm2, parrot +1" in texts(body(node("12D3KooWabcdef", FIGURES)), 160)[3]


def test_of_a_member_without_figures_the_state_is_shown() -> None:
    said = body(
        node("12D3KooWabcdef", FIGURES),
        node("12D3KooWabcdeg", FIGURES, "stale", 12.4),
        node("12D3KooWabcdeh", None, "private"),
    )
    lines = layout(said, width=80)
    assert lines[0].text == "3 members: 1 fresh, 1 private, 1 stale"
    assert lines[1].text.startswith("3 running, 1 of them")
    assert [line.style for line in lines[3:]] == ["", "dim", "dim"]
    assert lines[4].text.split()[2:4] == ["stale", "12s"]
    assert lines[5].text.split() == ["abcdeh", "private"]


def test_what_is_not_shown_is_said() -> None:
    many = [node(f"12D3KooW{n:06}", FIGURES) for n in range(100)]
    lines = texts(body(*many, members=1000, not_connected=900), 100, height=24)
    assert len(lines) == 24
    assert lines[2] == "900 that this node is not connected to are not shown"
    assert lines[3] == "64 are asked at a time, so some figures are older"
    assert lines[-1] == "82 more in a taller terminal, or with --once"


def test_of_one_node_nothing_is_said_of_members() -> None:
    assert texts(body(node("12D3KooWabcdef", FIGURES), whole=False), 80)[0].startswith("3 running")


def test_a_liar_breaks_nothing() -> None:
    for width in (1, 7, 20, 60, 80, 100, 160, 300):
        lines = texts(body(node("12D3KooWabcdef", LIAR), node("12D3KooWabcdeg", FIGURES)), width)
        assert all(cell_len(line) <= width for line in lines)
        assert all(line.isprintable() for line in lines)
    wide = texts(body(node("12D3KooWabcdef", LIAR), node("12D3KooWabcdeg", FIGURES)), 100)
    assert wide[-1].endswith("smollm2, par…")


@given(st.floats(0, 1e30))
def test_numbers_have_five_characters_at_most(value: float) -> None:
    assert 1 <= len(number(value)) <= 5


@given(st.floats(0, 1e18))
def test_durations_have_four_characters_at_most(seconds: float) -> None:
    assert 2 <= len(duration(seconds)) <= 4


@given(st.text(max_size=64), st.integers(1, 200))
def test_any_name_keeps_the_table_in_its_width(name: str, width: int) -> None:
    lines = texts(body(node("12D3KooWabcdef", {**FIGURES, "name": name, "models": [name]})), width)
    assert all(cell_len(line) <= width for line in lines)


def test_numbers_and_durations_as_people_read_them() -> None:
    said = [number(n) for n in (0, 7, 0.254, 12.46, 145.2, 9999, 10_000, 123_456, 10**12)]
    assert said == ["0", "7", "0.25", "12.5", "145", "9999", "10.0k", "123k", "1.0T"]
    assert [duration(n) for n in (5, 119, 120, 7200, 172800)] == ["5s", "119s", "2m", "2h", "2d"]
