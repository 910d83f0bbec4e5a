from __future__ import annotations

import numpy as np
import pytest

from jitney.core.errors import InvalidRequest
from jitney.core.request import Part, Request
from jitney.core.tensor import Tensor
from jitney.server.serving.fatal_inputs import KEPT, MOST, REFUSED_S, FatalInputs
from jitney.tests.fakes.clock import Clock


def asking(*values: float, identity: str = "") -> Request:
    return Request(identity, [Tensor.from_numpy("x", np.array(values, np.float32))], headers={"x-id": identity})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fatal(clock: Clock) -> FatalInputs:
    return FatalInputs("m", clock)


def test_an_input_is_refused_once_it_has_ended_too_many_workers_whatever_its_id(fatal: FatalInputs) -> None:
    for n in range(MOST):
        fatal.check(asking(1, 2, identity=f"before{n}"))
        fatal.crashed(asking(1, 2, identity=f"crash{n}"))
    with pytest.raises(
        InvalidRequest, match=f"has ended the worker of model 'm' {MOST} times and is refused for another 600 s"
    ):
        fatal.check(asking(1, 2, identity="after"))


@pytest.mark.parametrize(
    "other",
    [
        asking(1, 3),
        Request(tensors=[Tensor.from_numpy("y", np.array([1, 2], np.float32))]),
        Request(tensors=[Tensor.from_numpy("x", np.array([[1, 2]], np.float32))]),
        Request(tensors=asking(1, 2).tensors, parameters={"p": 1}),
        Request(parts=[Part("x", bytes(np.array([1, 2], np.float32)))]),
    ],
)
def test_another_input_is_not_to_blame(fatal: FatalInputs, other: Request) -> None:
    for _ in range(MOST):
        fatal.crashed(asking(1, 2))
    fatal.check(other)


def test_it_is_forgotten_after_a_time(fatal: FatalInputs, clock: Clock) -> None:
    for _ in range(MOST):
        fatal.crashed(asking(1))
    clock.advance(REFUSED_S - 1)
    with pytest.raises(InvalidRequest, match="for another 1 s"):
        fatal.check(asking(1))
    clock.advance(1)
    fatal.check(asking(1))


def test_only_so_many_are_remembered(fatal: FatalInputs) -> None:
    for _ in range(MOST):
        fatal.crashed(asking(-1))
    for n in range(KEPT):
        fatal.crashed(asking(n))
    fatal.check(asking(-1))
