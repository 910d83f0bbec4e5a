"""What docs/tracing.md says of the cost of tracing."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = "import json; from jitney.tools.dev.trace_cost import figures; print(json.dumps(figures()))"


def test_a_request_that_is_not_traced_pays_less_than_a_microsecond() -> None:
    """In a process of its own: what measures the coverage of tests would be in the figures."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100, check=True)
    found = json.loads(done.stdout)
    assert len(found) > 2
    assert {case: ns for case, ns in found.items() if ns >= 1000} == {}
