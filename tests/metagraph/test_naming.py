"""Which model a name means where several are called by it."""

import random
from typing import Any

import pytest

from aigrid.metagraph.naming import Claim, Standing, Usage, after_use, meant

WORDS = {"authority": 1.0, "ann": 0.1, "bob": 0.1, "eve": 0.1, "stranger": 0.0}


def claims(**publishers: str) -> list[Claim]:
    return [Claim(model, frozenset(said.split())) for model, said in publishers.items()]


def name_means(*found: Claim, trusted: tuple[str, ...] = (), **more: Any) -> tuple[str, ...]:
    standing = Standing("own", trusted, lambda did: WORDS.get(did, 0.0))
    return meant(found, standing, **{"used": None, "first": None, **more})


def test_nobody_else_by_that_name_is_meant_whoever_it_is() -> None:
    assert name_means(*claims(a="stranger")) == ("a",)
    assert name_means() == ()


@pytest.mark.parametrize(
    ("found", "more"),
    [
        (claims(good="own", bad="ann bob authority"), {"trusted": ("ann",)}),
        (
            claims(good="ann", bad="bob eve authority"),
            {"trusted": ("ann",), "used": Usage("bad", "bob", 1)},
        ),
        (claims(good="ann", bad="bob eve"), {"used": Usage("good", "ann", 1)}),
        # A new version of what was used, beside what others call so.
        (claims(good="ann", bad="bob eve"), {"used": Usage("gone", "ann", 1), "first": "bad"}),
        # Whoever describes the model that was used as well, and then another, gains nothing.
        (claims(good="ann eve", bad="eve"), {"used": Usage("good", "eve", 1)}),
        (claims(good="ann bob", bad="eve"), {"first": "bad"}),
        (claims(good="authority", bad="ann bob eve"), {"first": "bad"}),
        (claims(good="ann", bad="stranger s2 s3 s4"), {"first": "bad"}),
        (claims(good="ann", bad="eve"), {"first": "good"}),
    ],
)
def test_a_name_means_the_one_of_greater_standing(found: list[Claim], more: Any) -> None:
    for seed in range(3):
        random.Random(seed).shuffle(found)
        assert name_means(*found, **more) == ("good",)


def test_between_equals_nothing_is_decided() -> None:
    assert name_means(*claims(b="ann", a="eve")) == ("a", "b")
    assert name_means(*claims(b="ann", a="eve", c="stranger"), first="gone") == ("a", "b")


def test_what_was_used_makes_room_only_for_its_publishers_next_or_after_long() -> None:
    before = Usage("a", "ann", 1000)
    for now, kept in (
        (Usage("b", "ann", 2000), True),
        (Usage("a", "eve", 2000), True),
        (Usage("b", "eve", 2000), False),
        (Usage("b", "eve", 12_000), True),
    ):
        assert after_use(before, now, kept_ms=10_000) == (now if kept else before)
    assert after_use(None, before, kept_ms=1) == before
