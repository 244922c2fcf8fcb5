"""What a run of a testnet came to: figures, verdict, table."""

import io
import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console
from scripts.nodes import Usage
from scripts.testnet import _plain, _tell
from scripts.testnets import report as report_module
from scripts.testnets.figures import answered, growth_of, quantile
from scripts.testnets.options import Options
from scripts.testnets.report import Facts, over_time, report, summary
from scripts.testnets.sampling import SILENT, Sample, lacking, whole
from scripts.testnets.schedule import Ask, Fault, Kind
from scripts.testnets.table import Row, cpu_percent, line, screen
from scripts.testnets.workload import HIT, OK, WRONG, Outcome, Prompts

MIB = 1024 * 1024


def sample(at=0.0, number=0, *, life=1, state="up", cpu=0.0, kib=100_000.0, **said) -> Sample:
    size = int(kib * 1024)
    used = Usage(2 * size, size, cpu)
    known: dict[str, Any] = {
        "descriptors": 20,
        "threads": 9,
        "tasks": 100,
        "alive": 1,
        "others": 1,
        "records": 7,
    }
    known |= {"models": 1, "served": 3, "failed": 0, "own_pss_bytes": size}
    return Sample(at, number, life, state, used, **{"anonymous_bytes": size} | known | said)


def outcome(code=OK, took=0.1, at=0.0, **said) -> Outcome:
    return Outcome(at, code, took, **said)


def facts(**said) -> Facts:
    """A run of a minute, with a look each second at two nodes that nothing is done to."""
    looks = [[sample(float(at), n, cpu=0.02 * at) for n in (0, 1)] for at in range(60)]
    made: dict[str, Any] = {"looks": looks, "seconds": 60.0, "untouched": frozenset({0, 1})} | said
    return Facts(made.pop("options", Options(nodes=2)), **made)


def growing(**each_second: float) -> list[list[Sample]]:
    """Node 1 grows so; its memory in KiB a second."""
    kib = each_second.pop("kib", 0.0)
    return [
        [
            sample(float(at), 0),
            sample(
                float(at), 1, kib=100_000 + kib * at + at % 3,
                **{name: int(100 + by * at) for name, by in each_second.items()},
            ),
        ]
        for at in range(60)
    ]  # fmt: skip


def test_a_run_that_was_cut_short_need_not_have_come_to_all_it_was_to_show():
    options = Options(nodes=2, models="echo", rate=1.0, kill=1.0)
    assert report(facts(options=options, cut_short=True))["well"]


def test_requests_that_do_not_count_are_told_of():
    found = report(facts(outcomes=[outcome(HIT)] * 5))
    assert f"no request counts ({HIT} 5)" in summary(found)


def test_quantiles_are_nearest_ranks():
    values = [float(n) for n in range(1, 101)]
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert quantile([7.0], 0.01) == 7.0
    assert math.isnan(quantile([], 0.5))


def test_requests_whose_own_gateway_was_broken_do_not_count():
    came = answered([outcome(), outcome("no_candidate"), outcome(HIT), outcome(HIT, took=9.0)])
    assert (came.counted, came.answered, came.not_counted, came.share) == (2, 1, 2, 0.5)
    assert came.p99_seconds == 0.1
    assert came.codes == {HIT: 2, "no_candidate": 1, OK: 1}


def test_an_echo_is_the_prompt_as_far_as_it_may_go():
    ask = Ask(0.0, 7, "echo", streamed=False, draw=0.0)
    whole_one, cut = Prompts(3, 8, 1.0), Prompts(3, 2, 1.0)
    assert whole_one.echoed(ask, "word7-0 word7-1 word7-2")
    assert not whole_one.echoed(ask, "word7-0 word7-1")
    assert not whole_one.echoed(ask, "")
    assert cut.echoed(ask, "word7-0 word7-1")
    assert not cut.echoed(ask, "word7-0 word7-1 word7-2")


def test_a_quiet_run_is_well():
    found = report(facts(outcomes=[outcome()] * 50))
    assert (found["well"], found["problems"]) == (True, [])
    assert [one["number"] for one in found["growth"]] == [0, 1]
    assert found["nodes"]["n0"]["cpu_percent"] == pytest.approx(2.0)
    assert found["nodes"]["n0"]["served"] == 3


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"outcomes": [outcome()] * 9 + [outcome("loading")]}, "answered 90.00%"),
        ({"outcomes": [outcome()] * 999 + [outcome(WRONG)]}, "1 wrong"),
        ({"failures": ["n1 ended by itself"]}, "n1 ended by itself"),
        ({"orphans": ["worker of n1"]}, "left behind: worker of n1"),
        ({"settled": True, "unmet": "n1 sees 0 of 1"}, "after all were up: n1 sees 0 of 1"),
        ({"options": Options(nodes=2, models="echo", rate=1.0)}, "no request was answered, of 0"),
        (
            {"options": Options(nodes=2, models="echo", rate=1.0), "outcomes": [outcome(HIT)] * 5},
            "no request was answered, of 5",
        ),
        ({"options": Options(nodes=2, kill=1.0), "left_out": 3}, "no kill was done, and 3"),
        ({"options": Options(nodes=2, kill=9.0, drop=1.0), "done": Counter(kill=3)}, "no drop was"),
        ({"looks": growing(kib=10.0)}, "n1: memory +600 KiB a minute"),
        ({"looks": growing(descriptors=2.0)}, "n1: descriptors +"),
        ({"looks": growing(tasks=2.0)}, "n1: tasks +"),
        ({"looks": growing(threads=2.0)}, "n1: threads +"),
    ],
)
def test_each_thing_that_is_not_well_is_told(said, problem):
    found = report(facts(**said))
    assert not found["well"]
    (told,) = found["problems"]
    assert told.startswith(problem) or problem in told
    assert f"FAILED {told}" in summary(found)


def test_growth_before_the_warmup_and_of_nodes_that_were_touched_is_none():
    early = growing(tasks=10.0)[:30] + growing()[30:]
    for look in early[30:]:
        look[1] = sample(look[1].at_seconds, 1, tasks=400)
    assert report(facts(looks=early, options=Options(nodes=2, warmup=0.5)))["well"]
    assert not report(facts(looks=early, options=Options(nodes=2, warmup=0.0)))["well"]
    assert report(facts(looks=growing(kib=10.0), untouched=frozenset({0})))["well"]


def test_shared_pages_that_others_let_go_of_are_no_leak():
    shared = [sample(float(at), own_pss_bytes=(100 + at) * MIB, kib=90_000) for at in range(60)]
    found = growth_of(shared, from_seconds=0.0)
    assert found is not None
    assert found.pss_kib_per_minute > 60_000
    assert found.leaks(kib_per_minute_max=256.0, growth_max=0.2) == []


def test_memory_that_is_not_known_is_no_growth_and_said():
    unknown = [[sample(float(at), own_pss_bytes=-1, kib=-1 / 1024)] for at in range(60)]
    assert unknown[0][0].anonymous_bytes == -1
    found = growth_of([one for (one,) in unknown], from_seconds=0.0)
    assert found is not None
    assert math.isnan(found.anonymous_kib_per_minute)
    assert found.leaks(kib_per_minute_max=256.0, growth_max=0.2) == []
    told = report(facts(looks=unknown, options=Options(nodes=1), untouched=frozenset({0})))
    assert any("not known" in one for one in summary(told))


def test_a_run_without_an_end_keeps_looks_that_are_as_far_from_each_other(monkeypatch):
    monkeypatch.setattr(report_module, "LOOKS_MAX", 64)
    seen = facts(looks=[])
    for at in range(1000):
        seen.look([sample(float(at))])
    times = [look[0].at_seconds for look in seen.looks]
    assert len(times) < 64
    assert times[-1] > 950.0
    assert len({later - earlier for earlier, later in pairwise(times)}) == 1


def test_a_report_that_cannot_be_written_is_no_success(capsys):
    found = report(facts(outcomes=[outcome()] * 50))
    assert _tell(found, "/dev/full") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_what_more_connections_take_is_no_leak():
    fewer = [sample(float(at), alive=3, tasks=60) for at in range(25)]
    more = [sample(float(at), alive=4, tasks=100) for at in range(25, 60)]
    found = growth_of([*fewer, *more], from_seconds=0.0)
    assert found is not None
    assert found.leaks(kib_per_minute_max=256.0, growth_max=0.2) == []


CUT = Fault(20.0, Kind.PARTITION, (0, 1), 8.0)


def after_cuts(seconds: int, *cuts: Fault, leak: float = 0.0) -> Facts:
    """Calls that waited in a cut left streams, which are tasks, for a while."""
    options = Options(nodes=1)
    seen = facts(options=options, looks=[], untouched=frozenset({0}), seconds=float(seconds))
    for cut in cuts:
        seen.strain(cut)
    for at in range(seconds):
        streams = any(begin <= at < end for begin, end in seen.strained)
        seen.look([sample(float(at), 0, tasks=int(100 + 60 * streams + leak * at))])
    return seen


def test_streams_of_calls_that_waited_are_no_leak():
    short, again = after_cuts(40, CUT), [replace(CUT, at_seconds=at) for at in (20.0, 240.0)]
    assert report(short)["well"]
    assert "tasks not known, so soon after a fault" in summary(report(short))[-1]
    assert report(after_cuts(300, *again))["well"]
    assert report(after_cuts(300, *(replace(CUT, at_seconds=20.0 * n) for n in range(1, 15))))[
        "well"
    ]


@pytest.mark.parametrize("every", [20.0, 150.0, 1000.0])
def test_tasks_that_grow_beside_them_are_a_leak(every: float):
    cuts = [replace(CUT, at_seconds=20.0 + every * n) for n in range(int(280 / every) + 1)]
    (told,) = report(after_cuts(300, *cuts, leak=0.5))["problems"]
    assert "n0: tasks +" in told


def test_only_who_is_silent_and_comes_back_leaves_streams():
    seen = facts(looks=[])
    for kind in (Kind.KILL, Kind.DROP, Kind.RESTART):
        seen.strain(Fault(1.0, kind, (1,), 3.0))
    assert not seen.strained
    for at in (10.0, 60.0, 300.0):
        seen.strain(Fault(at, Kind.STOP, (1,), 3.0))
    assert seen.strained == [(10.0, 136.0), (300.0, 376.0)]


def test_of_few_samples_nothing_is_said():
    assert growth_of([sample(float(at)) for at in range(11)], from_seconds=0.0) is None
    short = facts(looks=facts().looks[:5])
    assert any("too short" in one for one in summary(report(short)))


def test_of_a_few_seconds_nothing_is_said_however_often_they_were_looked_at():
    often = [[sample(0.1 * n, kib=100_000 + 5.0 * n)] for n in range(40)]
    said = facts(options=Options(nodes=1), looks=often, untouched=frozenset({0}), seconds=4.0)
    found = report(said)
    assert (found["well"], found["growth"]) == (True, [])
    assert "too short, or too few nodes left alone, to speak of leaks" in summary(found)


def test_cpu_is_of_one_process_and_no_less_than_nothing():
    before = sample(10.0, cpu=1.0)
    assert cpu_percent(before, sample(12.0, cpu=1.5)) == 25.0
    assert cpu_percent(before, sample(12.0, cpu=0.5)) == 0.0  # a worker has ended
    assert cpu_percent(before, sample(12.0, cpu=1.5, life=2)) == -1.0
    assert cpu_percent(None, before) == -1.0


def test_served_counts_every_life():
    lives = [(1, 3), (1, 5), (2, 0), (2, 4)]
    looks = [[sample(float(n), 0, life=i, served=s)] for n, (i, s) in enumerate(lives)]
    found = report(facts(options=Options(nodes=1), looks=looks, untouched=frozenset()))
    assert found["nodes"]["n0"]["served"] == 9
    assert found["nodes"]["n0"]["lives"] == 2


def test_success_over_time_is_in_steps_of_ten_seconds():
    asked = [outcome(at=1.0), outcome("loading", at=9.0), outcome(at=25.0), outcome(HIT, at=26.0)]
    assert over_time(asked) == [(0.0, 2, 1), (20.0, 1, 1)]


def test_all_see_all_when_each_is_up_and_sees_the_others():
    assert whole([sample(number=n, alive=2) for n in range(3)])
    assert not whole([sample(number=n, alive=2 - (n == 1)) for n in range(3)])
    assert not whole([sample(number=n, alive=2, state="held" if n else "up") for n in range(3)])


def test_who_is_not_up_or_does_not_see_all_is_named():
    looks = [sample(number=0, alive=2), sample(number=1, alive=1), sample(number=2, state="held")]
    assert lacking(looks) == "n1 sees 1 of 2, n2 is held"


def test_the_table_has_a_row_for_each_node_and_the_totals():
    rows = [
        Row(sample(records=12, served=4), "101", "AAAAAAAA", 12.3),
        Row(sample(number=1, state="held", alive=-1, others=-1, records=-1, served=-1), "102", "B", -1.0),
        Row(sample(number=2, state=SILENT, records=-1), "103", "C", -1.0),
        Row(Sample(0.0, 3, 2, "down", Usage(0, 0, 0.0)), "104", "D", -1.0),
    ]  # fmt: skip
    shown = io.StringIO()
    console = Console(file=shown, width=160)
    came = answered([outcome()] * 3 + [outcome("loading")])
    console.print(screen(rows, came, Counter(kill=2), "30 s"))
    head, *table, total, below, done = shown.getvalue().splitlines()
    assert head.split()[:5] == ["NODE", "PID", "PEER", "STATE", "PEERS"]
    assert [one.split()[3] for one in table] == ["up", "held", SILENT, "down"]
    assert table[0].split() == [
        "n0", "101", "AAAAAAAA", "up", "1/1", "1", "12", "4", "0", "195", "98", "12.3", "20", "100", "1",
    ]  # fmt: skip
    assert table[3].split()[4:] == ["-"] * 10 + ["2"]
    assert total.split()[:5] == ["all", "1", "up", "12", "7"]
    assert "answered 75.00% of 4" in below
    assert done.strip() == "kill 2"
    told = line(rows, came, Counter(kill=2), 30.0)
    assert told.startswith("    30 s  1 down, 1 held, 1 silent, 1 up; 12 records; PSS 293 MB")
    assert told.endswith("kill 2")


def test_a_report_is_json_whatever_there_was():
    nothing = report(facts(looks=[], untouched=frozenset(), options=Options(nodes=1)))
    assert json.loads(json.dumps(_plain(nothing), allow_nan=False))["well"] is True
