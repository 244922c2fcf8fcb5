"""The closed list of codes is complete, and the table of limits too."""

from dataclasses import fields

import pytest

from aigrid.protocol import errors, limits
from aigrid.protocol.errors import CODES, POLICY, AigridError, Code, RemoteError, VerificationError
from aigrid.protocol.kinds import KINDS
from aigrid.protocol.limits import LIMITS, Limits


@pytest.mark.parametrize("code", list(Code))
def test_every_code_says_what_it_means_everywhere(code: Code) -> None:
    info = CODES[code]
    assert code.value == code.name.lower()
    assert 400 <= info.http < 600
    assert info.exit in {1, 2, 3, 4}
    assert info.next_step.endswith(".")
    assert len(info.next_step) < 100


def test_the_table_holds_the_codes_in_order_and_nothing_else() -> None:
    assert list(CODES) == list(Code)


def test_exit_statuses_follow_the_interface() -> None:
    by_exit: dict[int, set[Code]] = {1: set(), 2: set(), 3: set(), 4: set()}
    for code, info in CODES.items():
        by_exit[info.exit].add(code)
    assert by_exit[4] == {Code.NO_CANDIDATE}
    assert {Code.NOT_AUTHORITY, Code.GRID_NOT_EMPTY, Code.DENIED} <= by_exit[3]
    assert {Code.EXPIRED, Code.FROM_FUTURE, Code.OVER_BUDGET} <= POLICY <= by_exit[3]
    assert {Code.PORT_IN_USE, Code.USAGE, Code.UNSAFE_BINDING} <= by_exit[2]


def test_what_may_succeed_elsewhere_is_a_server_error_or_too_many() -> None:
    for code, info in CODES.items():
        if info.retry:
            assert info.http in {429, 502, 503, 504}, code


def test_every_error_has_a_code_of_the_list() -> None:
    classes = [
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, AigridError)
    ]
    assert len(classes) > 6
    for error_class in classes:
        error = error_class("what happened")
        assert error.code in CODES
        assert error.info == CODES[error.code]
        assert str(error) == error.message == "what happened"
        assert error_class("x", Code.BUSY).code is Code.BUSY
    assert VerificationError("x", Code.EXPIRED).code is Code.EXPIRED
    assert RemoteError("x", peer="12D3").peer == "12D3"


def test_every_limit_is_positive_explained_and_ends_in_its_unit() -> None:
    rows = limits.table()
    assert [name for name, _, _ in rows] == [field.name for field in fields(Limits)]
    assert len({name for name, _, _ in rows}) == len(rows)
    for name, value, meaning in rows:
        assert float(value) > 0, name
        assert len(meaning) > 5, name
    with pytest.raises(AttributeError):
        LIMITS.offers_max = 1  # type: ignore[misc]


def test_limits_fit_each_other() -> None:
    assert LIMITS.record_max_bytes <= LIMITS.gossip_max_bytes
    assert LIMITS.gossip_max_bytes <= LIMITS.frame_max_bytes <= LIMITS.request_max_bytes
    assert LIMITS.join_max_bytes < LIMITS.record_max_bytes
    assert LIMITS.membership_default_seconds <= LIMITS.membership_ttl_seconds
    assert LIMITS.invitation_default_seconds <= LIMITS.invitation_ttl_seconds
    assert LIMITS.ping_interval_seconds < LIMITS.ping_timeout_seconds
    assert LIMITS.pre_auth_per_ip_max < LIMITS.pre_auth_max
    for rule in KINDS.values():
        assert rule.ttl_seconds > LIMITS.clock_skew_seconds
