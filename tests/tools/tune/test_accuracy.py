"""How far answers are apart, and whether they choose the same class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitney.tools.tune.accuracy import Accuracy, are_scores, compared

PLAIN = {"y": np.array([1.0, -4.0])}


@pytest.mark.parametrize(
    ("got", "relative", "absolute"),
    [
        ({"y": [1.0, -4.0]}, 0.0, 0.0),
        ({"y": [1.0, -3.0]}, 0.25, 1.0),
        ({"y": [1.0]}, float("inf"), float("inf")),
        ({}, float("inf"), float("inf")),
        ({"y": [1.0, float("nan")]}, float("inf"), float("inf")),
    ],
)
def test_differences_are_in_numbers_and_in_parts_of_the_largest(
    got: dict[str, list[float]], relative: float, absolute: float
) -> None:
    found = compared({name: np.array(values) for name, values in got.items()}, PLAIN)
    assert (found.relative, found.absolute, found.top1) == (relative, absolute, "–")


def test_each_output_has_a_scale_of_its_own() -> None:
    plain = {"a": np.array([100.0]), "b": np.array([0.5]), "zeros": np.zeros(2), "none": np.full(2, np.nan)}
    got = {"a": np.array([101.0]), "b": np.array([0.4]), "zeros": np.array([0, 0.05]), "none": np.full(2, np.nan)}
    found = compared(got, plain)
    assert found.relative == pytest.approx(0.2)
    assert found.absolute == 1.0


def test_the_best_class_of_each_row_is_compared() -> None:
    plain = {"scores": np.array([[1, 2, 3], [3, 2, 1], [0, 5, 4]], np.float32), "ids": np.array([[7], [8], [9]])}
    got = {"scores": np.array([[1, 2, 3], [3, 2, 1], [0, 4.4, 4.5]], np.float32), "ids": plain["ids"]}
    found = compared(got, plain)
    assert (found.agreeing, found.rows, found.top1) == (2, 3, "2/3")
    assert str(found) == "differ by at most 6.0e-01 (1.2e-01 of the largest output); top-1 is the same for 2 of 3 rows"


def test_whole_numbers_of_any_size_do_not_overflow() -> None:
    found = compared({"y": np.array([0], np.uint8)}, {"y": np.array([255], np.uint8)})
    assert (found.absolute, found.relative) == (255, 1)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (np.zeros((4, 10), np.float32), True),
        (np.zeros((4, 1), np.float32), False),
        (np.zeros((4, 10), np.int64), False),
        (np.zeros((4, 10, 2), np.float32), False),
        (np.zeros(4, np.float32), False),
    ],
)
def test_what_looks_like_scores_of_classes(output: Any, expected: bool) -> None:
    assert are_scores(output) is expected


def test_nothing_is_known_of_what_has_no_numbers() -> None:
    assert compared({}, {}) == Accuracy()
