"""Reading `parameters` of a model's configuration: strings that mean switches, numbers or choices.

Keys that nobody asks for are not looked at: Triton hands parameters to backends unread, and users keep their own in there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..core.errors import LoadFailed

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig

_TRUE = frozenset({"true", "1", "on", "yes"})
_FALSE = frozenset({"false", "0", "off", "no", ""})


class CannotLoad(LoadFailed, ValueError):
    """The model's files, configuration or parameters are refused; the text is for the operator as it is."""


def flag(parameters: Mapping[str, str], key: str, default: bool = False) -> bool:
    """The switch `key`; CannotLoad (in Triton's words) where its value is neither true nor false."""
    switched = optional_flag(parameters, key)
    return default if switched is None else switched


def optional_flag(parameters: Mapping[str, str], key: str) -> bool | None:
    """The switch `key`, None where it is absent and the library's own default should stay."""
    if key not in parameters:
        return None
    value = parameters[key].strip().lower()
    if value not in _TRUE | _FALSE:
        raise CannotLoad(f"failed to convert {key} '{parameters[key]}' to boolean value; expected true or false")
    return value in _TRUE


def integer(parameters: Mapping[str, str], keys: str | Sequence[str], default: int, minimum: int = 0) -> int:
    """The first of `keys` that is present, as an integer of at least `minimum`."""
    for key in [keys] if isinstance(keys, str) else keys:
        if key not in parameters:
            continue
        try:
            value = int(parameters[key])
        except ValueError:
            raise CannotLoad(f"failed to convert {key} '{parameters[key]}' to integral number") from None
        if value < minimum:
            raise CannotLoad(f"parameter {key} must be at least {minimum}, got {value}")
        return value
    return default


def choice(parameters: Mapping[str, str], key: str, accepted: Sequence[str], default: str) -> str:
    """The value of `key`, which must be one of `accepted` (case-insensitive)."""
    value = parameters.get(key, default).strip().lower()
    if value not in accepted:
        raise CannotLoad(f"parameter {key} must be one of {', '.join(accepted)}, got '{parameters[key]}'")
    return value


def powers_of_two(largest: int) -> tuple[int, ...]:
    """1, 2, 4, … and `largest` itself."""
    return (*(1 << power for power in range(largest.bit_length()) if 1 << power < largest), largest)


def padded_sizes(model: ModelConfig, on_gpu: bool = False) -> tuple[int, ...]:
    """The batch sizes that the model is to see, ascending; () = any.

    From the parameter `batch_sizes`: numbers separated by commas, "powers_of_two" or "any". CUDA graphs, which exist for certain
    sizes only, make it powers of two on a GPU where it is not given.
    """
    parameters, largest = model.parameters, model.max_batch_size
    default = "powers_of_two" if flag(parameters, "cuda_graphs") and on_gpu else "any"
    text = parameters.get("batch_sizes", default).strip().lower()
    if text == "any" or not model.batches:
        return ()
    if text == "powers_of_two":
        return powers_of_two(largest)
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise CannotLoad(
            f"parameter batch_sizes must be numbers separated by commas, powers_of_two or any, got '{parameters['batch_sizes']}'"
        ) from None
    if sizes[0] < 1 or sizes[-1] > largest:
        raise CannotLoad(f"parameter batch_sizes: the sizes must be between 1 and max_batch_size {largest}, got '{text}'")
    return (*sizes, *([largest] if sizes[-1] < largest else []))
