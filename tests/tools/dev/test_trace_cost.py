"""What docs/tracing.md says of the cost of tracing."""

from __future__ import annotations

from jitney.tools.dev.trace_cost import figures


def test_a_request_that_is_not_traced_pays_less_than_a_microsecond() -> None:
    assert {case: ns for case, ns in figures().items() if ns >= 1000} == {}
