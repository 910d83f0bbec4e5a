"""What a model passes to pb_utils, as plain Python values.

Names and numbers come out of numpy arrays, so they are often `bytes` or numpy scalars; Triton's pybind11 signatures take those
(str or bytes where text is meant, what has `__index__` where an integer is meant). Everything else raises here, in the model:
what left this process would otherwise be refused by the server, which would take this worker for broken.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ._errors import TritonModelException

INT64 = (-(1 << 63), (1 << 63) - 1)
UINT32 = (0, (1 << 32) - 1)
UINT64 = (0, (1 << 64) - 1)

Scalar = str | int | bool
Element = TypeVar("Element")


class WrongArgument(TritonModelException, TypeError):
    """An argument of another type or size than the function takes. Triton raises one of the two for it."""


def text(value: Any, what: str) -> str:
    """A str, or bytes in UTF-8. WrongArgument for anything else."""
    if type(value) is str and value.isascii():
        return value
    try:
        if isinstance(value, bytes | bytearray):
            return value.decode()
        if isinstance(value, str):
            value.encode()  # a lone surrogate can be sent nowhere
            return str.__str__(value)
    except UnicodeError as error:
        raise WrongArgument(f"{what} is not UTF-8 text: {error}") from None
    raise WrongArgument(f"{what} must be a str (or bytes), got {_kind(value)}")


def integer(value: Any, what: str, bounds: tuple[int, int]) -> int:
    """An int or a numpy integer inside `bounds`, both included. WrongArgument for anything else, floats too."""
    try:
        number = operator.index(value)
    except TypeError:
        raise WrongArgument(f"{what} must be an integer, got {_kind(value)}") from None
    if not bounds[0] <= number <= bounds[1]:
        raise WrongArgument(f"{what} must be between {bounds[0]} and {bounds[1]}, got {number}")
    return number


def real(value: Any, what: str) -> float:
    """A number, also a numpy scalar. WrongArgument for anything else, text too."""
    try:
        if not isinstance(value, str | bytes | bytearray):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise WrongArgument(f"{what} must be a number, got {_kind(value)}")


def elements(values: Any, what: str, convert: Callable[[Any, str], Element]) -> list[Element]:
    """Each element of a list, tuple, set or array, converted. WrongArgument for a single value in its place."""
    if type(values) is not list and (
        not isinstance(values, Iterable) or isinstance(values, str | bytes | bytearray | Mapping)
    ):
        raise WrongArgument(f"{what} must be a list, got {_kind(values)}")
    each = f"each of {what}"
    return [convert(value, each) for value in values]


def parameters(values: Any) -> dict[str, Scalar]:
    """The parameters of a request or a response, in Triton's words where they are none (pb_stub.cc, PyParametersToJSON)."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise WrongArgument(f"Expect parameters to be a dict, got {type(values)}")
    return {_key(key): _scalar(value) for key, value in values.items()}


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise WrongArgument(f"Expect parameters keys to have type str, found type {type(key)}")
    return text(key, "a parameter's name")


def _scalar(value: Any) -> Scalar:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return integer(value, "a parameter's value", (INT64[0], UINT64[1]))
    if isinstance(value, str):
        return text(value, "a parameter's value")
    raise WrongArgument(f"Expect parameters values to have type bool/int/str, found type {type(value)}")


def _kind(value: Any) -> str:
    return type(value).__name__
