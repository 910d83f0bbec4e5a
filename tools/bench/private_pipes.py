"""A child's orders and answers, out of reach of the model that runs in it."""

from __future__ import annotations

import os
import sys
from typing import IO


def private_pipes() -> tuple[IO[str], IO[str]]:
    """Standard input and output of this process for its own use, as (orders, answers).

    Whoever else reads or writes them, as models do that print, ask or parse arguments, finds nothing to read, writes to standard
    error, and has no arguments: as in a worker. To be called before a model's code is imported.
    """
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.argv = [""]
    return orders, answers
