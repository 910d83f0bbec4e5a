"""Errors that cross from one process to the other are the same errors."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest

from jitney.core import errors
from jitney.core.errors import JitneyError, QueueFull
from jitney.server.frontends.error_codec import error_from_wire, error_to_wire
from jitney.server.frontends.messages import DOWNWARD, UPWARD, CallAnswer, FrontError, encode, pack
from jitney.server.http.kserve.errors import describe
from jitney.server.http.torchserve.errors import Target, problem
from jitney.server.ipc.frame import HEADER

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, JitneyError)]


def made(kind: type[JitneyError]) -> JitneyError:
    """An error with a value for each of its arguments."""
    values: dict[str, Any] = {"int": 7, "bool": True, "int | None": 137, "str | None": "text"}
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return kind("what went wrong")
    return kind(*(values.get(str(parameter.annotation), f"{parameter.name}!") for parameter in parameters))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_class_text_and_attributes_arrive(kind: type[JitneyError]) -> None:
    error = made(kind).within("in ensemble 'E', ")
    [message] = DOWNWARD.decode(pack([encode(CallAnswer(1, error=error_to_wire(error)))])[HEADER.size :])
    assert isinstance(message, CallAnswer) and message.error is not None
    found = error_from_wire(message.error)
    assert type(found) is kind
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))
    assert describe(found, "id") == describe(error, "id")
    assert problem(found, Target("m", "1")) == problem(error, Target("m", "1"))


def test_a_class_that_is_known_on_one_side_only_arrives_as_its_nearest_ancestor() -> None:
    class TooMany(QueueFull):
        pass

    found = error_from_wire(error_to_wire(TooMany("no more")))
    assert type(found) is QueueFull and str(found) == "no more"


def test_what_is_no_error_is_refused() -> None:
    for kind in ("OSError", "", "Region", "annotations"):
        with pytest.raises(ValueError, match="there is no error"):
            error_from_wire(FrontError(kind, [], {}))


def test_no_message_is_read_from_a_frame_of_something_else() -> None:
    with pytest.raises(msgspec.ValidationError):
        UPWARD.decode(pack([encode(CallAnswer(1))])[HEADER.size :])
