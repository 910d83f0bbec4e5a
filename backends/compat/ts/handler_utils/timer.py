"""`@timed`: how long a handler's steps take, as metrics."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def timed(function: Function) -> Function:
    """Emits `ts_handler_<name>` in ms for each call where model-config.yaml says `handler: {profile: true}`."""

    @functools.wraps(function)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        context: Any = getattr(self, "context", None)
        section = (getattr(context, "model_yaml_config", None) or {}).get("handler")
        if not (isinstance(section, dict) and section.get("profile")):
            return function(self, *args, **kwargs)
        start = time.perf_counter()
        result = function(self, *args, **kwargs)
        context.metrics.add_time(f"ts_handler_{function.__name__}", (time.perf_counter() - start) * 1000, None, "ms")
        return result

    return wrapper  # type: ignore[return-value]
