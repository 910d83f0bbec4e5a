"""What tracing costs a request that is not traced: `python -m jitney.tools.dev.trace_cost`.

Times `RoutePlan.end`, the one place of a request's way that asks, and in it the question alone; the best of several rounds, in
nanoseconds. Without workers, sockets or threads, so that nothing else is in the figures.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable, Mapping
from typing import Any, cast

from ...core.call import Call
from ...core.model_config import ModelConfig
from ...core.request import Request, Response
from ...server.http.engine.parser import RequestHead, RequestLine
from ...server.http.middleware.admission import Admission
from ...server.http.middleware.recorder import Recorder
from ...server.http.plan import RoutePlan, WaitingRequest
from ...server.settings.addresses import parse_address
from ...server.settings.settings import Settings
from ...server.tracing.record import TraceRecord
from ...server.tracing.sampling import Rule, Tracing

ROUNDS, TIMES = 15, 20_000
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Idle:
    """`RequestMetrics` that nothing is counted in."""

    silent = True


def flight_of(plan: RoutePlan, headers: Mapping[str, str]) -> WaitingRequest:
    """A request that has its answer."""
    line = RequestLine(b"POST /predictions/m HTTP/1.1")
    found = WaitingRequest(plan, RequestHead(line, list(headers.items()), dict(headers)), b"", "127.0.0.1:1")
    found.call, found.answer, found.status = Call(Request(), ModelConfig("m", "1", "python")), Response(), 200
    return found


def measured(work: Callable[[], object]) -> float:
    """Nanoseconds of one call."""
    return min(timeit.repeat(work, number=TIMES, repeat=ROUNDS)) / TIMES * 1e9


def ended(rules: Mapping[str, Rule], headers: Mapping[str, str]) -> tuple[float, int]:
    """What the end of a request takes, and how many traces were made meanwhile."""
    records: list[TraceRecord] = []
    any_port = parse_address("http://127.0.0.1:0")
    tracing = Tracing(records.append)
    tracing.apply(rules)
    plan = RoutePlan(Recorder(Settings(any_port, any_port, any_port), cast(Any, Idle()), tracing), Admission(1, 1))
    flight = flight_of(plan, headers)
    return measured(lambda: plan.end(flight)), len(records)


def question() -> float:
    """What `end` asks where nothing is traced."""
    plan = cast(Any, type("Plan", (), {}))()
    plan.recorder = cast(Any, type("Recorder", (), {}))()
    plan.recorder.tracing = Tracing()
    asked = "if plan.recorder.tracing.rules: pass"
    empty = min(timeit.repeat("pass", number=TIMES * 10, repeat=ROUNDS))
    return (min(timeit.repeat(asked, number=TIMES * 10, repeat=ROUNDS, globals={"plan": plan})) - empty) / TIMES / 10 * 1e9


def figures() -> dict[str, float]:
    """Nanoseconds that tracing adds to a request, by case."""
    asked = question()
    off, _ = ended({}, {})
    rate, made = ended({"": Rule(1 << 30, follows=False)}, {})
    follows, more = ended({"": Rule(0, follows=True)}, {})
    unsampled, most = ended({"": Rule(0, follows=True)}, {"traceparent": PARENT})
    if made or more or most:
        raise RuntimeError("requests were traced that should not have been")
    return {
        "tracing is off": asked,
        "another one's turn (rate=…)": rate - off + asked,
        "rate=0, no traceparent": follows - off + asked,
        "a traceparent that says: not sampled": unsampled - off + asked,
    }


if __name__ == "__main__":
    for case, ns in figures().items():
        print(f"{case:40} {ns:6.0f} ns")
