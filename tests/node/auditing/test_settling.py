"""Nobody is blamed on one word alone, but on that of this node itself."""

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.auditing.settling import UNSETTLED, Check, Settled, settle

verdicts = st.sampled_from(["same", "different", "unclear"])


def test_one_that_agrees_is_enough():
    assert settle("a", [Check("b", "same")]) == Settled(("a", "b"))


def test_one_that_disagrees_is_not():
    assert settle("a", [Check("b", "different")]) is None
    assert settle("a", []) is None


def test_a_second_decides():
    first = Check("b", "different")
    assert settle("a", [first, Check("c", "same")]) == Settled(("a", "c"), ("b",))
    assert settle("a", [first, Check("c", "different")]) == Settled(("b", "c"), ("a",))


def test_where_no_two_agree_nobody_is_blamed():
    checks = [Check("b", "different"), Check("c", "different")]
    assert settle("a", checks, alike=False) == UNSETTLED


def test_this_node_believes_itself_and_earns_nothing():
    assert settle("a", [Check("me", "different", own=True)]) == Settled((), ("a",))
    assert settle("a", [Check("me", "same", own=True)]) == Settled(("a",))
    second = [Check("b", "different"), Check("me", "different", own=True)]
    assert settle("a", second) == Settled(("b",), ("a",))


def test_what_is_unclear_is_passed_over():
    assert settle("a", [Check("b", "unclear")]) is None
    assert settle("a", [Check("b", "unclear"), Check("c", "same")]) == Settled(("a", "c"))


@given(st.lists(verdicts, max_size=3), st.booleans())
def test_nobody_is_both_and_none_is_blamed_by_one_other(said, alike):
    made = settle("a", [Check(f"c{n}", one) for n, one in enumerate(said)], alike=alike)
    clear = [one for one in said if one != "unclear"]
    if made is None:
        assert clear in ([], ["different"])
        return
    assert not set(made.right) & set(made.wrong)
    assert len(made.wrong) <= 1
    if made.wrong:
        assert len(made.right) == 2
