"""The tables of the bench of the data path: what they compare, and with what."""

import math

import pytest
from scripts.bench.data_path import table
from scripts.bench.data_path.figures import Amounts, quantile
from scripts.bench.data_path.table import AIMS, BY_NAME, ROWS, Aim

FIVE = {
    "raw": [{"rpc_p50_ms": ms, "many_per_second": 1000.0} for ms in (9.0, 0.1, 0.1, 0.1, 0.2)],
    "stock": [{"fresh_p50_ms": 4.0, "write_64k_mbps": 100.0}],
    "ours": [{"rpc_p50_ms": 0.3, "many_per_second": 399.0, "connect_ms": 50.0}],
    "bare": [{"rpc_p50_ms": 0.2, "fresh_p50_ms": 2.0, "write_64k_mbps": 399.0}],
    "lattica": [],
}


def aim(row: str, against: str | None) -> Aim:
    (found,) = (one for one in AIMS if (one.row, one.against) == (row, against))
    return found


def test_the_median_of_the_rounds_counts_and_one_bad_round_does_not():
    assert table.medians(FIVE)["raw"]["rpc_p50_ms"] == 0.1


def test_the_best_round_is_the_quickest_and_the_one_of_most():
    rounds = {
        "raw": [{"rpc_p50_ms": ms, "write_64k_mbps": ms, "burst_lost": 1.0} for ms in (3, 1, 2)]
    }
    assert table.medians(rounds, best=True) == {"raw": {"rpc_p50_ms": 1, "write_64k_mbps": 3}}


def test_a_column_without_figures_gives_no_ratio_and_no_verdict():
    of = table.medians(FIVE)
    assert math.isnan(table.ratio(of, "rpc_p50_ms", "ours", "lattica"))
    assert table.judged(of, aim("rpc_p50_ms", "lattica"), "ours")[1] == "no figure"
    assert "NOT MET" not in " ".join(line for line in table.aim_lines(of) if "lattica" in line)


@pytest.mark.parametrize(
    ("row", "against", "column", "value", "verdict"),
    [
        ("rpc_p50_ms", "raw", "ours", 3.0, "met"),
        ("many_per_second", "raw", "ours", 0.399, "NOT MET"),
        ("fresh_p50_ms", "stock", "bare", 0.5, "met"),
        ("write_64k_mbps", "stock", "bare", 3.99, "NOT MET"),
        ("connect_ms", None, "ours", 50.0, "met"),
    ],
)
def test_an_aim_is_a_bound_on_a_ratio_or_on_the_figure_itself(row, against, column, value, verdict):
    of = table.medians(FIVE)
    assert BY_NAME[row].of == column
    found, said = table.judged(of, aim(row, against), column)
    assert found == pytest.approx(value)
    assert said == verdict


def test_every_row_is_printed_with_a_star_at_the_figure_that_counts():
    lines = table.lines(table.medians(FIVE))
    assert len(lines) == 1 + len(ROWS)
    fresh = next(line for line in lines if line.startswith("new stream"))
    assert "2.00*" in fresh
    assert fresh.split()[-3:] == ["-", "0.50", "-"]


def test_quantiles_of_few_and_of_none():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0], 0.99) == 1.0
    assert math.isnan(quantile([], 0.5))


def test_a_smaller_run_still_does_everything_once():
    least = Amounts().scaled(0.001)
    assert least.connects == least.write_mib == 1
    assert least.interval_ms == Amounts().interval_ms
    assert all(count > 0 for count in vars(least).values())
