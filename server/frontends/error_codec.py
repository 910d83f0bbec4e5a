"""Errors on their way from one process to the other: as the name of a class of `errors`, arguments and attributes. Pure."""

from __future__ import annotations

from typing import Any

from ...core import errors
from ...core.errors import JitneyError
from .messages import FrontError

_CLASSES: dict[str, type[JitneyError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, JitneyError)
}


def error_to_wire(error: JitneyError) -> FrontError:
    """A class that `errors` does not have travels as the nearest that it has."""
    kind = next(kind for kind in type(error).__mro__ if _CLASSES.get(kind.__name__) is kind)
    attributes = {name: value for name, value in vars(error).items() if _is_plain(value)}
    return FrontError(kind.__name__, [value if _is_plain(value) else str(value) for value in error.args], attributes)


def error_from_wire(wire: FrontError) -> JitneyError:
    """ValueError for a class that there is not."""
    if wire.kind not in _CLASSES:
        raise ValueError(f"there is no error '{wire.kind}'")
    kind = _CLASSES[wire.kind]
    error = kind.__new__(kind, *wire.arguments)
    error.args = tuple(wire.arguments)
    vars(error).update(wire.attributes)
    return error


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
