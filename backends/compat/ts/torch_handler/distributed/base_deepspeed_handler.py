"""`BaseDeepSpeedHandler`: the device of a handler that gives its model to DeepSpeed."""

from __future__ import annotations

import os
from abc import ABC
from typing import Any

from ...context import Context
from ..base_handler import BaseHandler

__all__ = ["BaseDeepSpeedHandler", "BaseHandler", "Context"]


class BaseDeepSpeedHandler(BaseHandler, ABC):
    """Subclasses load the model in `initialize` and pass it to `ts.handler_utils.distributed.deepspeed.get_ds_engine`."""

    def initialize(self, context: Any) -> None:
        """`device` is the number of this process' GPU: that of torchrun, else the one that the server gave."""
        gpu = context.system_properties.get("gpu_id")
        self.device = int(os.environ.get("LOCAL_RANK", gpu if gpu is not None else 0))
