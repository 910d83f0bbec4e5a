"""Codec options from a model's `parameters`: checked when the codec is made, refused by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.errors import InvalidConfig
from ..core.model_config import ModelConfig, TensorSpec


class Options:
    """Reads the parameters of one model. Every method raises `InvalidConfig` naming the parameter and what it may be."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config

    def refuse(self, name: str, expected: str) -> InvalidConfig:
        value = self._config.parameters[name]
        return InvalidConfig(f"model '{self._config.name}': parameter '{name}' is '{value}'; expected {expected}")

    def choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        value = self._config.parameters.get(name, default)
        if value not in choices:
            raise self.refuse(name, " or ".join(choices))
        return value

    def flag(self, name: str, default: bool) -> bool:
        return self.choice(name, "true" if default else "false", ("true", "false")) == "true"

    def number(self, name: str, default: float) -> float:
        return self.numbers(name, (default,), (1,))[0]

    def whole(self, name: str, default: int) -> int:
        """A whole number of at least 1."""
        return self._whole(name, (default,), (1,))[0]

    def size(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """One size, or "height,width"; "0" switches the step off and gives ()."""
        if self._config.parameters.get(name) in ("0", "none"):
            return ()
        return self._whole(name, default, (1, 2))

    def _whole(self, name: str, default: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
        values = self.numbers(name, default, counts)
        if any(value != int(value) or not 1 <= value < 1 << 31 for value in values):
            raise self.refuse(name, "whole numbers from 1 to 2147483647")
        return tuple(int(value) for value in values)

    def numbers(self, name: str, default: Sequence[float], counts: Sequence[int]) -> tuple[float, ...]:
        """A comma list of finite numbers, as many as one of `counts`."""
        text = self._config.parameters.get(name)
        if text is None:
            return tuple(default)
        expected = f"{' or '.join(map(str, counts))} number(s) separated by commas"
        try:
            values = tuple(float(word) for word in text.split(","))
        except ValueError:
            raise self.refuse(name, expected) from None
        if len(values) not in counts or not all(map(math.isfinite, values)):
            raise self.refuse(name, expected)
        return values


def only_input(config: ModelConfig) -> TensorSpec:
    """The single required input; archives declare none and get Triton's name for PyTorch's first, INPUT__0."""
    required = [spec for spec in config.inputs if not spec.optional]
    if not config.inputs:
        return TensorSpec("INPUT__0", "FP32", (-1, -1, -1))
    if len(required) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in required) or "none"
        raise InvalidConfig(f"model '{config.name}': codec '{config.codec}' needs exactly one input, the model has {names}")
    return required[0]
