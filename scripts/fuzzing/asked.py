"""Numbers on the command lines of fuzzers."""

import argparse
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T", int, float)


def between(kind: type[T], least: T, most: T) -> Callable[[str], T]:
    """Reads one between these, for argparse: anything else ends the program with 2 and a sentence.

    NaN is between no two numbers.
    """

    def read(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"give a {what} from {least:g} to {most:g}")
        return value

    return read
