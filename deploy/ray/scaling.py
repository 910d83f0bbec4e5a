"""How many replicas: so that each has requests for one full batch, half of what a saturated one has (docs/scale.md, signals)."""

from __future__ import annotations

import math
from typing import Any

#: What `Replica.record_autoscaling_stats` tells.
ONGOING, ROOM = "jitney_ongoing_requests", "jitney_batch_room"


def wanted(ongoing: float, room: float, target: float) -> int:
    """Replicas for `ongoing` requests of `target` each; where that is 0, of the `room` rows of the batches that each fills."""
    return math.ceil(ongoing / (target or room))


class OngoingRequests:
    """Ray Serve's policy: it applies delays, factors and bounds to what this answers."""

    def __init__(self, target: float = 0.0) -> None:
        self._target = target

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        told = context.aggregated_metrics or {}
        ongoing, rooms = told.get(ONGOING) or {}, told.get(ROOM) or {}
        if not ongoing:  # no replica has told anything yet
            return context.target_num_replicas, {}
        return wanted(sum(ongoing.values()), max(rooms.values(), default=1.0), self._target), {}
