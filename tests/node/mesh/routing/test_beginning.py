"""How long a node may take to begin: decisions over times that are given."""

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.mesh.routing.beginning import Allowed, Beginning, LateError, allowed
from aigrid.node.mesh.routing.waiting import IN_LINE, Said
from aigrid.protocol.errors import Code
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import KIB, LIMITS

SHORT = TextRequest(prompt="hello")


@given(
    st.none() | st.floats(0, 1e12), st.integers(0, 200), st.sampled_from(["warm", "on_disk", "x"])
)
def test_it_is_bounded_whatever_a_node_declares(known_ms, size, state):
    found = allowed(state, known_ms, TextRequest(prompt="x" * size * KIB))
    assert LIMITS.begin_min_seconds <= found.quiet_seconds <= found.most_seconds
    assert found.most_seconds <= LIMITS.answer_silence_seconds
    if state == "warm":
        assert found.most_seconds == LIMITS.begin_max_seconds


def test_the_slow_and_those_who_have_much_to_read_have_longer():
    assert allowed("warm", 100, SHORT).quiet_seconds < 1.1 * LIMITS.begin_min_seconds
    slow = allowed("warm", 5000, SHORT).quiet_seconds
    assert slow == 5 * LIMITS.begin_times
    long = allowed("warm", 100, TextRequest(prompt="x" * 8 * KIB)).quiet_seconds
    assert long == LIMITS.begin_min_seconds + 8 * LIMITS.begin_kib_seconds
    ids = TextRequest(token_ids=(1,) * 256 * 8, continued_ids=(2,) * 256)
    assert allowed("warm", None, ids).quiet_seconds > long


def said(text: str, at: float) -> Said:
    return Said("node", text, at)


def test_only_figures_that_rise_give_a_load_more_time():
    load = Beginning(Allowed(10.0, 35.0), 100.0)
    assert load.deadline == 110.0
    for text, at, deadline in [
        ("starting", 101.0, 110.0),
        ("loading: 5 %", 105.0, 115.0),
        ("loading: 5 %", 106.0, 115.0),
        ("loading: 4 %", 107.0, 115.0),
        ("loading: 6 %", 114.0, 124.0),
        ("warming: 0 %", 120.0, 130.0),
        ("loading: 50 %", 128.0, 135.0),
    ]:
        load.hear(said(text, at))
        assert load.deadline == deadline, text


@given(st.lists(st.tuples(st.text(max_size=6), st.integers(-5, 300)), max_size=300))
def test_words_never_take_it_beyond_its_most(words):
    load = Beginning(Allowed(10.0, 35.0), 0.0)
    for n, (text, percent) in enumerate(words):
        load.hear(said(f"{text} {percent} %", n / 10))
        assert load.deadline <= 35.0


def test_ever_new_works_count_but_a_few_times():
    load, at = Beginning(Allowed(10.0, 1e9), 0.0), 0.0
    for n in range(1000):
        at += 9.0
        load.hear(said("part " + "x" * n + " 1 %", at))
    assert load.deadline < 9.0 * 6 + 10.0


def test_who_has_no_slot_free_is_busy_and_who_does_not_begin_is_late():
    load = Beginning(Allowed(10.0, 35.0), 0.0)
    assert isinstance(load.problem("node"), LateError)
    assert load.problem("node").code is Code.TIMEOUT
    load.hear(said(IN_LINE, 1.0))
    busy = load.problem("node")
    assert not isinstance(busy, LateError)
    assert (busy.code, busy.retry_after_seconds) == (Code.BUSY, LIMITS.retry_after_seconds)
