"""How far a candidate's answers are from the plain model's, which computes in the precision of its weights. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Answers = Mapping[str, npt.NDArray[Any]]
"""Outputs by name over the whole sample: [rows, …] where all rows have one shape, else all numbers in a row."""


@dataclass(frozen=True)
class Accuracy:
    """`relative`: the largest difference of any number of any output, in parts of that output's largest number; inf where shapes
    differ. `absolute`: the largest difference. `agreeing` of `rows`: how often the largest score is the same one's, over all
    outputs that look like scores of classes; 0 of 0 where none does.
    """

    relative: float = 0.0
    absolute: float = 0.0
    agreeing: int = 0
    rows: int = 0

    @property
    def top1(self) -> str:
        return f"{self.agreeing}/{self.rows}" if self.rows else "–"

    def __str__(self) -> str:
        said = f"differ by at most {self.absolute:.1e} ({self.relative:.1e} of the largest output)"
        return f"{said}; top-1 is the same for {self.agreeing} of {self.rows} rows" if self.rows else said


NOWHERE_NEAR = Accuracy(float("inf"), float("inf"))


def compared(answers: Answers, plain: Answers) -> Accuracy:
    """The answers of a candidate against those of the plain model to the same requests."""
    relative = absolute = 0.0
    agreeing = rows = 0
    for name, expected in plain.items():
        got = answers.get(name)
        if got is None or got.shape != expected.shape or not np.array_equal(np.isfinite(got), np.isfinite(expected)):
            return NOWHERE_NEAR
        apart, scale = _apart(got.astype(np.float64), expected.astype(np.float64))
        relative, absolute = max(relative, apart / scale), max(absolute, apart)
        if are_scores(expected):
            rows += len(expected)
            agreeing += int((got.argmax(1) == expected.argmax(1)).sum())
    return Accuracy(relative, absolute, agreeing, rows)


def are_scores(output: npt.NDArray[Any]) -> bool:
    """Whether an output looks like a classifier's: for each row one number for each of several classes."""
    return output.dtype.kind == "f" and output.ndim == 2 and output.shape[1] > 1


def _apart(got: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The largest difference, and the largest number that was expected (1 where that is 0)."""
    there = np.isfinite(expected)
    if not there.any():
        return 0.0, 1.0
    return float(np.abs(got[there] - expected[there]).max()), float(np.abs(expected[there]).max()) or 1.0
