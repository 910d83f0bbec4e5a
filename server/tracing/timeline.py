"""When what happened to a request in a model, under Triton's names."""

from __future__ import annotations

from .record import Execution


def stamps(execution: Execution) -> list[tuple[str, int]]:
    """Triton's timestamps of a request in a model, as far as it came.

    The worker tells how long it took, not when: what is left between the batch's start and its answer is the way there and
    back, of which half is taken to lie before.
    """
    found = [("REQUEST_START", execution.arrived), ("QUEUE_START", execution.arrived)]
    if execution.computed:
        begins = compute_start(execution)
        received = begins + execution.compute_input
        found += [
            ("COMPUTE_START", begins),
            ("COMPUTE_INPUT_END", received),
            ("COMPUTE_OUTPUT_START", received + execution.compute_infer),
            ("COMPUTE_END", begins + execution.computed),
        ]
    if execution.answered:
        found += [("INFER_RESPONSE_COMPLETE", execution.answered), ("REQUEST_END", execution.answered)]
    return found


def compute_start(execution: Execution) -> int:
    """When the worker began with it, see `stamps`."""
    return execution.dispatched + max(0, execution.answered - execution.dispatched - execution.computed) // 2
