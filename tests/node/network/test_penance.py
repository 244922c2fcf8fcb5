"""Who is cut off for breaking the protocol waits longer each time, and is forgiven in the end."""

from aigrid.node.network.penance import FIRST_SECONDS, FORGOTTEN_SECONDS, MOST_SECONDS, Penance

HOST = "192.0.2.1"


def test_waits_double_up_to_a_bound_and_others_wait_for_nothing() -> None:
    penance, waits = Penance(), []
    for n in range(8):
        waits.append(penance.wait_seconds(HOST, float(n)))
        penance.broke(HOST, float(n))
    assert waits == [0.0, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert penance.wait_seconds("192.0.2.2", 8.0) == 0.0
    for n in range(5000):
        penance.broke(HOST, float(n))
    assert penance.wait_seconds(HOST, 5000.0) == MOST_SECONDS


def test_is_forgiven_after_a_time() -> None:
    penance = Penance()
    for _ in range(3):
        penance.broke(HOST, 0.0)
    assert penance.wait_seconds(HOST, FORGOTTEN_SECONDS + 1) == 0.0
    penance.broke(HOST, FORGOTTEN_SECONDS + 1)
    assert penance.wait_seconds(HOST, FORGOTTEN_SECONDS + 1) == FIRST_SECONDS


def test_is_bounded_and_forgets_who_broke_nothing_for_longest() -> None:
    penance = Penance()
    for n in range(2000):
        penance.broke(f"host-{n}", 1.0)
    assert penance.wait_seconds("host-1999", 1.0) == FIRST_SECONDS
    assert penance.wait_seconds("host-0", 1.0) == 0.0
