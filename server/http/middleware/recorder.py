"""`Recorder`: what every answer of a listener gets and leaves behind: CORS headers, a count, a line in the access log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from ...process.log_format import about
from ...process.written_together import plain
from ...tracing.sampling import Tracing
from .cors import Cors

if TYPE_CHECKING:
    from ...metrics.request_counters import RequestMetrics
    from ...settings.settings import Settings

access_log = logging.getLogger("jitney.access")


class Recorder:
    """Thread-safe.

    cors     which pages of other sites may read the answer
    metrics  where it is counted
    tracing  whether it is traced
    """

    def __init__(self, settings: Settings, metrics: RequestMetrics, tracing: Tracing | None = None) -> None:
        self.cors, self.metrics, self.tracing = Cors(settings), metrics, tracing or Tracing()

    def answered(self, status: int) -> None:
        """Counts an answer with this HTTP status."""
        self.metrics.responded(status)

    def log(
        self, peer: str, line: str, status: int, began: float, request_id: str = "", traceparent: str | None = None
    ) -> None:
        """Writes an answer's line into the access log; `line` is the request's, `began` in monotonic seconds."""
        took = time.monotonic() - began
        if (file := plain(access_log)) is not None:
            file.add((f'/{peer} "{line}" {status} {int(took * 1000)}',))
            return
        method, path, protocol = [*line.split(" ", 2), "", ""][:3]
        fields = {"client": peer, "method": method, "path": path, "protocol": protocol, "status": status}
        told = about(request_id, traceparent, **fields, ms=round(took * 1000, 3))
        access_log.info('/%s "%s" %s %d', peer, line, status, int(took * 1000), extra=told)

    @property
    def logs(self) -> bool:
        """Whether the access log is written."""
        return access_log.isEnabledFor(logging.INFO)
