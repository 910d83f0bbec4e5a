"""What a model's workers may take: the parameters `response_timeout`, `startup_timeout`, `max_in_flight` of a `config.pbtxt`.

The first two have TorchServe's names and meaning; Triton has no such limits. Seconds, fractions allowed; 0 = no limit. The third
is how many batches a worker may hold, at least 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ....core.model_config import ModelConfig
from .pbtxt import Source

log = logging.getLogger(__name__)

RESPONSE, STARTUP, IN_FLIGHT = "response_timeout", "startup_timeout", "max_in_flight"
#: Batches that a worker may be told to hold at most.
MOST_IN_FLIGHT = 65536


@dataclass(frozen=True)
class Limits:
    """Seconds that a worker may be silent while it holds a batch, and that it may take to load the model; 0 = no limit."""

    response_s: float = 0.0
    startup_s: float = 0.0


NO_LIMITS = Limits()


def limited(config: ModelConfig, defaults: Limits, source: Source) -> ModelConfig:
    """The configuration with its own limits, or else with `defaults`. InvalidConfig where a value is no such number."""
    if config.backend == "ensemble":
        for name in {RESPONSE, STARTUP, IN_FLIGHT} & config.parameters.keys():
            log.warning("ensemble '%s': parameter %s has no effect, set it for the models of its steps", config.name, name)
        return config
    return replace(
        config,
        response_timeout_s=_seconds(config.parameters, RESPONSE, defaults.response_s, config.name, source),
        startup_timeout_s=_seconds(config.parameters, STARTUP, defaults.startup_s, config.name, source),
        max_in_flight=_batches(config.parameters, config.name, source),
    )


def _batches(parameters: Mapping[str, str], model: str, source: Source) -> int:
    text = parameters.get(IN_FLIGHT)
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_IN_FLIGHT):
        wanted = f"expected a number of batches from 1 to {MOST_IN_FLIGHT}"
        raise source.error(
            f"parameter '{IN_FLIGHT}' of model '{model}' is '{text}': {wanted}", "parameters", f'"{IN_FLIGHT}"'
        )
    return int(text)


def _seconds(parameters: Mapping[str, str], name: str, default: float, model: str, source: Source) -> float:
    text = parameters.get(name)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        wanted = "expected a number of seconds from 0 (no limit), such as 30"
        raise source.error(f"parameter '{name}' of model '{model}' is '{text}': {wanted}", "parameters", f'"{name}"')
    return seconds
