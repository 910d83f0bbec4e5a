"""How many front ends there are where nobody says it (`front_ends=auto`).

Decoding pictures is what one process has too few cores for: measured with 16 it reached 610 pictures a second, eight processes
1,426, twelve 1,548 (docs/benchmarks-gpu.md). So where a model that is to be loaded at the start has its pictures decoded in the
server, and there are cores, every fourth core has a front end. Nothing is loaded for that: the configurations and manifests
are looked at as they lie there. A model that comes later does not change the number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...codecs import decodes_in_server
from ...core.errors import JitneyError
from ..process.cores import usable_cores
from ..repository.torchserve.archive import peek
from ..repository.torchserve.fast_path import BUILT_INS
from ..repository.triton.repository import TritonRepository
from ..settings.settings import Settings
from .startup import Planned

log = logging.getLogger(__name__)

#: Cores below which the main process answers by itself: front ends would take them from the workers.
LEAST_CORES = 8
#: One front end for so many cores, and how many there are at most.
CORES_EACH, MOST = 4, 12


def with_front_ends(
    settings: Settings, plan: Sequence[Planned], repository: TritonRepository | None, names: Sequence[str]
) -> Settings:
    """`settings` with a number where they say auto; the log says which and why.

    `plan` and `names`: the archives and the repository's models that are to be loaded.
    """
    if settings.front_ends:
        return settings
    cores = usable_cores()
    model = "" if cores < LEAST_CORES else next(_decoding(settings, plan, repository, names), "")
    count = min(MOST, cores // CORES_EACH) if model else 1
    if model:
        reason = f"the server decodes pictures for model '{model}', and may use {cores} cores"
    elif cores < LEAST_CORES:
        reason = f"there are {cores} cores; more front ends begin with {LEAST_CORES}"
    else:
        reason = "no model that is loaded at the start has its pictures decoded in the server"
    log.info("front_ends=auto: %d, since %s (docs/front-ends.md)", count, reason)
    return replace(settings, front_ends=count)


def _decoding(
    settings: Settings, plan: Sequence[Planned], repository: TritonRepository | None, names: Sequence[str]
) -> Iterator[str]:
    """The models whose pictures the server decodes. What cannot be read is left to the load, which says why."""
    for name in names if repository is not None else ():
        parameters = {} if repository is None else repository.parameters(name)
        if decodes_in_server(parameters.get("codec", ""), parameters):
            yield name
    if not settings.fast_path or settings.model_store is None:
        return
    for item in plan:
        path = Path(settings.model_store, item.registration.url)
        try:
            handler = item.registration.handler or peek(path).handler or settings.default_service_handler
        except (JitneyError, OSError):
            continue
        if (codec := handler.removesuffix(".py")) in BUILT_INS and decodes_in_server(codec, {}):
            yield item.name
