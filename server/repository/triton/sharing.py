"""Models that share worker processes: the parameter `worker_group` of a `config.pbtxt`.

It is jitney's own; its value names the group. Triton keeps all models in one process; here a model has a process of its own
unless it asks for company.
"""

from __future__ import annotations

import logging

from ....core.errors import InvalidConfig
from ....core.model_config import ModelConfig
from ....core.worker_group import GROUP, grouped
from .pbtxt import Source

log = logging.getLogger(__name__)


def sharing(config: ModelConfig, source: Source) -> ModelConfig:
    """The configuration with its group. InvalidConfig where it has one and must not."""
    group = config.parameters.get(GROUP)
    if group is None:
        return config
    if config.backend == "ensemble":
        log.warning("ensemble '%s': parameter %s has no effect, set it for the models of its steps", config.name, GROUP)
        return config
    try:
        return grouped(config, group)
    except InvalidConfig as error:
        raise source.error(str(error), "parameters", f'"{GROUP}"') from None
