"""What a testnet is asked and how it is broken follows from its options, and nothing else."""

import argparse
import math
import random
import shlex
import sys
from collections import Counter
from dataclasses import fields, replace
from itertools import islice, pairwise
from typing import Any

import pytest
from scripts import testnet
from scripts.testnets import schedule
from scripts.testnets.options import LOOPBACK, NAMESPACES, Options, add_to, options_of, replay_line
from scripts.testnets.schedule import REST_SECONDS, Kind

BROKEN = Options(
    nodes=12, duration=600.0, models="echo", holders=3, rate=3.0,
    kill=6.0, stop=2.0, restart=2.0, drop=4.0,
)  # fmt: skip


def parsed(line: str) -> Options:
    parser = argparse.ArgumentParser()
    add_to(parser)
    return options_of(parser.parse_args(shlex.split(line)[2:]))


def test_the_same_seed_is_the_same_schedule_and_another_is_another():
    random.seed(5)
    faults, asks = list(schedule.faults(BROKEN)), list(schedule.asks(BROKEN))
    random.seed(6)
    assert (list(schedule.faults(BROKEN)), list(schedule.asks(BROKEN))) == (faults, asks)
    other = replace(BROKEN, seed=2)
    assert list(schedule.faults(other)) != faults
    assert list(schedule.asks(other)) != asks


def test_the_replay_line_says_every_option():
    said = replace(
        BROKEN, seed=9, stream=0.25, net=NAMESPACES, partition=1.0, through="n0,n3", echo=True,
        latency="lognormal:40,0.5", success_min=0.5,
    )  # fmt: skip
    assert parsed(replay_line(said)) == said
    assert replay_line(Options()) == "python scripts/testnet.py --seed 1"


def test_a_shell_takes_the_replay_line_for_one_command():
    line = replay_line(Options(models="capability:text generation; touch x"))
    assert shlex.split(line)[4:6] == ["--models", "capability:text generation; touch x"]


def test_the_lines_that_were_always_there_mean_what_they_did():
    assert parsed("python scripts/testnet.py --nodes 5") == Options(nodes=5)
    said = parsed("python scripts/testnet.py --nodes 3 --echo --seconds 7")
    assert (said.nodes, said.echo, said.duration, said.rate) == (3, True, 7.0, 0.0)
    assert not said.breaks


def test_faults_come_at_their_rates_and_leave_the_spared_alone():
    faults, alone = list(schedule.faults(BROKEN)), schedule.spared(BROKEN)
    assert (len(alone), 0 in alone) == (4, True)
    assert not alone & {node for one in faults for node in one.nodes}
    counts = Counter(one.kind for one in faults)
    for kind in (Kind.KILL, Kind.STOP, Kind.RESTART, Kind.DROP):
        expected = 10 * getattr(BROKEN, kind.value)
        assert expected - 15 < counts[kind] < expected + 15
    assert all(a.at_seconds <= b.at_seconds for a, b in pairwise(faults))
    assert all(one.at_seconds + one.seconds < BROKEN.duration for one in faults)


def test_a_node_rests_between_faults_and_a_fault_without_a_node_is_left_out():
    crowded = replace(BROKEN, nodes=3, kill=60.0)
    free_at = dict.fromkeys(range(3), 0.0)
    kills = 0
    for one in schedule.faults(crowded):
        (node,) = one.nodes
        assert one.at_seconds >= free_at[node]
        free_at[node] = one.at_seconds + one.seconds + REST_SECONDS
        kills += one.kind is Kind.KILL
    assert 0 < kills < 200  # 600 are due


def test_more_of_one_kind_does_not_move_the_others():
    def times(options: Options) -> list[float]:
        found = schedule.faults(options)
        return [one.at_seconds for one in found if one.kind is Kind.DROP]

    roomy = replace(BROKEN, nodes=500)
    assert times(roomy) == times(replace(roomy, kill=0.0)) != []


def test_partitions_part_half_of_all_and_do_not_overlap():
    cut = replace(BROKEN, net=NAMESPACES, partition=4.0, cut=10.0)
    found = [one for one in schedule.faults(cut) if one.kind is Kind.PARTITION]
    assert len(found) > 10
    assert {len(one.nodes) for one in found} == {6}
    assert all(b.at_seconds >= a.at_seconds + 15 for a, b in pairwise(found))


def test_requests_come_at_their_rate_of_every_model_streamed_or_not():
    both = replace(BROKEN, models="echo,capability:text-generation", stream=0.25)
    asks = list(schedule.asks(both))
    assert 1600 < len(asks) < 2000
    assert {one.model for one in asks} == set(both.asked)
    assert 0.2 < sum(one.streamed for one in asks) / len(asks) < 0.3
    assert all(0 <= one.draw < 1 for one in asks)
    assert [one.number for one in asks] == list(range(len(asks)))


def test_without_an_end_a_schedule_goes_on():
    assert len(list(islice(schedule.asks(replace(BROKEN, duration=0.0)), 10_000))) == 10_000
    assert len(list(islice(schedule.faults(replace(BROKEN, duration=0.0)), 1000))) == 1000
    assert list(schedule.asks(Options())) == []
    assert list(schedule.faults(Options())) == []


def test_holders_and_askers_are_those_named_or_drawn():
    both = replace(BROKEN, models="echo,capability:text-generation")
    held = schedule.holders(both)
    assert list(held) == ["echo"]
    assert len(set(held["echo"])) == 3
    assert schedule.askers(BROKEN) == frozenset(range(12))
    assert schedule.askers(replace(BROKEN, through="spared")) == schedule.spared(BROKEN)
    assert schedule.askers(replace(BROKEN, through="n2,n7")) == {2, 7}


NUMBERS = [one for one in fields(Options) if isinstance(one.default, int | float)]
FLAGS = [one.name.replace("_", "-") for one in NUMBERS if not isinstance(one.default, bool)]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("wrong", ["nan", "inf", "-inf", "-1", "1e30", "9" * 400, "9" * 5000, "x"])
def test_no_number_is_taken_that_is_none_or_out_of_bounds(flag, wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["testnet.py", f"--{flag}={wrong}"])
    monkeypatch.setattr(testnet, "_run", lambda *_: pytest.fail("it was taken"))
    with pytest.raises(SystemExit) as ended:
        testnet.main()
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("testnet: error: ")
    assert f"--{flag}" in last


def test_every_number_has_bounds_which_its_default_and_their_ends_are_within():
    assert {"interval", "clients", "patience"} < {one.name for one in NUMBERS}
    for flag in FLAGS:
        (one,) = [one for one in NUMBERS if one.name == flag.replace("-", "_")]
        least, most = one.metadata["bounds"]
        assert least <= one.default <= most
        assert least < most < math.inf
        kind: Any = type(one.default)
        whole = Options(nodes=1000, net=NAMESPACES, models="echo", kill=1.0, stop=1.0)
        if one.name in {"cut", "partition"}:
            whole = replace(whole, partition=1.0, duration=60.0)
        for value in (least, most):
            said = (
                replace(whole, **{one.name: kind(value)})
                if (one.name not in ("nodes", "spare"))
                else Options(**{one.name: kind(value)})
            )
            assert getattr(said, one.name) == value
            assert parsed(replay_line(said)) == said


def test_a_schedule_of_which_nothing_can_be_done_ends_when_it_is_told_to():
    looks = iter([False] * 5)
    crowded = replace(BROKEN, nodes=3, duration=0.0, kill=6000.0, down=86_400.0)
    assert len(list(schedule.faults(crowded, lambda: next(looks, True)))) <= 5
    assert next(schedule.faults(crowded, lambda: True), None) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": 0},
        {"net": "wires"},
        {"partition": 1.0},
        {"partition": 1.0, "net": NAMESPACES, "duration": 0.0},
        {"stream": 1.5},
        {"kill": -1.0},
        {"rate": 1.0, "models": ""},
        {"holders": 13},
        {"through": "n99"},
        {"through": "all,n1"},
        {"latency": "slow"},
        {"latency": "1..2"},
        {"latency": "9" * 400},
        {"latency": "lognormal:40,50"},
        {"kill": 1.0, "spare": 1.0},
        {"holders": 1001},
        {"kill": 0.0, "down": 9.0},
        {"stop": 0.0, "held": 9.5},
        {"cut": 9.0},
        {"net": LOOPBACK, "loss": 0.1},
        {"net": LOOPBACK, "loss": 0.0, "latency": "9"},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r".+"):
        replace(BROKEN, **wrong)
