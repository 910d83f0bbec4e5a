"""What answers in the scheduler for each gRPC service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .control import Control
from .torchserve.control import InferenceControl, ManagementControl
from .triton.control import TritonControl

if TYPE_CHECKING:
    from ..http.app import Services, Shared


def controls(services: Services, shared: Shared) -> dict[str, Control]:
    """The controls by the name that front ends give them."""
    triton = TritonControl(
        services.dataplane, services.control, shared.regions, services.traces, shared.logs, services.settings.server_id
    )
    management = ManagementControl(services.dataplane, services.control, services.settings)
    return {"triton": triton, "inference": InferenceControl(services.dataplane), "management": management}
