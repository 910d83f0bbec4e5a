"""`@timeit`: prints how long each call of a function takes."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def timeit(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    name = getattr(function, "__name__", repr(function))

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        start, start_cpu = time.perf_counter(), time.process_time()
        result = function(*args, **kwargs)
        seconds, seconds_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        sys.stdout.write(f"func: {name} took {seconds:.4f} s, and {seconds_cpu:.4f} s of CPU time\n")
        return result

    return wrapper
