"""Tables and series: rows of named columns, or windows of a series of numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec import UNSET

from aigrid.engines.tasks.base import (
    Array,
    Setup,
    TaskCall,
    check_count,
    classes,
    finite,
    invalid,
    ranked,
    unsupported,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import Feature

Cell = float | int | bool | str | None
FLOAT_MAX: Final = float(np.finfo(np.float32).max)
RUN_VALUES: Final = 1 << 20  # of one run: bounds memory
ROWS = "an array of objects with one number or text per column"


class _Table:
    """Rows to one tensor: what the tasks on tables share."""

    def __init__(self, setup: Setup) -> None:
        if setup.mapping.table is UNSET:
            raise unsupported(f"{setup.name} needs a mapping of a table")
        self.table = setup.mapping.table
        self.output = setup.output
        self.runner = setup.runner
        self.tensor = setup.input_name(self.table.tensor)
        self.result = setup.output_name()
        self._positions = [
            {text: float(n) for n, text in enumerate(feature.categories)}
            for feature in self.table.features
        ]

    def rows(self, call: TaskCall) -> Array:
        """float32 [rows, features] of a request."""
        rows = call.input(list[dict[str, Cell]], ROWS)
        check_count(len(rows), "rows")
        if not self.table.features:
            raise unsupported("the mapping names no columns")
        made = [
            [self._cell(row, n, feature, positions) for feature, positions in self._columns()]
            for n, row in enumerate(rows)
        ]
        return np.asarray(made, np.float32)

    def run(self, rows: Array, call: TaskCall) -> Array:
        """What the model says of the rows, one entry for each.

        A model that was exported for one row at a time gets one at a time.
        """
        return np.concatenate([found for _, found in self.parts(rows, call)])

    def parts(self, rows: Array, call: TaskCall) -> Iterator[tuple[Array, Array]]:
        """The same in several runs: rows, and what the model says of them."""
        declared = tuple(self.runner.inputs[self.tensor])
        most = 1 if declared[:1] == (1,) else max(1, RUN_VALUES // max(1, rows.shape[1]))
        for at in range(0, len(rows), most):
            part = rows[at : at + most]
            yield part, self._run(part, declared, call)

    def _run(self, rows: Array, declared: Sequence[int | None], call: TaskCall) -> Array:
        given = np.ascontiguousarray(shaped(rows, declared))
        found = call.run(self.runner, {self.tensor: given})[self.result]
        if not found.shape or found.shape[0] != len(rows):
            raise unsupported(f"the model gives {list(found.shape)} for {len(rows)} rows")
        return found

    def _columns(self) -> Iterator[tuple[Feature, Mapping[str, float]]]:
        return zip(self.table.features, self._positions, strict=True)

    def _cell(
        self, row: Mapping[str, Cell], n: int, feature: Feature, positions: Mapping[str, float]
    ) -> float:
        if unknown := row.keys() - {f.name for f in self.table.features}:
            raise invalid(f"row {n} has a column {min(unknown)!r} that the model does not know")
        if feature.name not in row:
            raise invalid(f"row {n} lacks the column {feature.name!r}")
        value = row[feature.name]
        if value is None:
            return math.nan
        if positions:
            if value not in positions:
                known = ", ".join(list(feature.categories)[:8])
                raise invalid(f"row {n}: {feature.name!r} is one of {known}, not {value!r}")
            return positions[str(value)]
        if isinstance(value, str):
            raise invalid(f"row {n}: {feature.name!r} is a number")
        if not -FLOAT_MAX <= value <= FLOAT_MAX:
            raise invalid(f"row {n}: {feature.name!r} is larger than a number of 32 bits")
        return float(value)


def shaped(rows: Array, declared: Sequence[int | None]) -> Array:
    """Rows as a model declares them, which may have an axis for channels, of which there is one."""
    match tuple(declared[1:]):
        case (1, _):
            return rows[:, None, :]
        case (_, 1):
            return rows[:, :, None]
    return rows


class TableClassification(_Table):
    """The label of each row, with its score."""

    parameters = frozenset[str]()

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._labels = setup.labels()

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        found = self.run(self.rows(call), call)
        scores = classes(found.reshape(len(found), -1), self._labels, self.output.activation)
        return [ranked(row, self._labels, 1)[0] for row in scores]


class TableRegression(_Table):
    """A number for each row."""

    parameters = frozenset[str]()

    def __call__(self, call: TaskCall) -> list[float]:
        found = finite(self.run(self.rows(call), call))
        if found.size != found.shape[0]:
            raise unsupported(f"the model gives {list(found.shape)}, not one number for each row")
        return [float(value) for value in found.ravel()]


class Anomalies(_Table):
    """How unusual each row of a table, or each window of a series, is.

    Input is an array of rows as above, or where the mapping has a window an array of numbers. The
    answer has one `{"index", "score", "anomaly"}` for each row or window; `index` is the row, or
    the position at which the window begins. Of a model that puts out what it was given, as far as
    it has learned to (an autoencoder), the score is the mean squared difference.
    """

    parameters = frozenset({"threshold"})

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        rows = self._windows(call) if self.table.window else self.rows(call)
        scores = np.concatenate([unusual(*part) for part in self.parts(rows, call)])
        limit = call.number("threshold", float(self.output.threshold), low=-1e9, high=1e9)
        greater = self.output.greater_is_anomalous
        return [
            {"index": n, "score": float(s), "anomaly": bool(s > limit if greater else s < limit)}
            for n, s in enumerate(scores)
        ]

    def _windows(self, call: TaskCall) -> Array:
        """A view: a long series has more windows than there is memory for."""
        series = call.input(list[float], "an array of numbers")
        size = self.table.window
        if not size <= len(series) <= LIMITS.task_items_max * 64:
            raise invalid(f"the series has between {size} and {LIMITS.task_items_max * 64} values")
        if max(map(abs, series)) > FLOAT_MAX:
            raise invalid("the series has a value that is larger than a number of 32 bits")
        values = np.asarray(series, np.float32)
        return np.lib.stride_tricks.sliding_window_view(values, size)


def unusual(rows: Array, found: Array) -> Array:
    """A score for each row, of what a model put out for it.

    Raises:
        EngineError: `unsupported_model` where that is neither a number each nor the rows anew.
    """
    found = finite(found).reshape(len(rows), -1).astype(np.float64)
    if found.shape[1] == 1:
        return found[:, 0]
    if found.shape == rows.shape:
        squared: Array = np.square(found - rows).mean(axis=1)
        return squared
    raise unsupported(f"the model gives {found.shape[1]} numbers for each row, not one")
