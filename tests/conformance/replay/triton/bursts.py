"""A burst, sent to a server: what each request got and when, and which batches its model's statistics count."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from .burst_cases import BurstCase, BurstRequest

#: A reply may be so many seconds before or after it is due.
EARLY, SLACK, HELD_SLACK = 0.05, 0.6, 1.0


@dataclass
class Answer:
    """What was wrong with it, and when it came."""

    problem: str
    at: float


@dataclass(frozen=True)
class Statistics:
    executions: int
    rows: int
    sizes: Counter[int]


def _call(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    reply = connection.getresponse()
    return reply.status, reply.read()


def _statistics(server: str, model: str) -> Statistics:
    with closing(http.client.HTTPConnection(server, timeout=10)) as connection:
        status, body = _call(connection, "GET", f"/v2/models/{model}/stats")
    assert status == 200, f"statistics of {model}: status {status}"
    (entry,) = json.loads(body)["model_stats"]
    sizes = Counter({batch["batch_size"]: batch["compute_infer"]["count"] for batch in entry["batch_stats"]})
    return Statistics(entry["execution_count"], entry["inference_count"], sizes)


def _data(request: BurstRequest, index: int) -> list[float]:
    """Numbers that no other request sends; the first one says how long the model works."""
    data = [-float(100 * index + place + 1) for place in range(request.rows * request.width)]
    return [float(request.hold), *data[1:]] if request.hold else data


def _body(request: BurstRequest, data: list[float]) -> str:
    inputs = [{"name": "INPUT0", "shape": [request.rows, request.width], "datatype": "FP32", "data": data}]
    if request.extra:
        inputs.append({"name": "INPUT1", "shape": [request.rows, 1], "datatype": "FP32", "data": [0.0] * request.rows})
    body: dict[str, Any] = {"inputs": inputs}
    if request.outputs:
        body["outputs"] = [{"name": name} for name in request.outputs]
    if request.params:
        body["parameters"] = dict(request.params)
    return json.dumps(body)


def _problem(request: BurstRequest, data: list[float], status: int, reply: Any) -> str:
    if status != request.status:
        return f"status {status} instead of {request.status}: {reply}"[:160]
    if status != 200:
        told = isinstance(reply, dict) and reply.get("error")
        return "" if told else f"error reply without a message: {reply}"[:160]
    found = {output["name"]: output["data"] for output in reply["outputs"]}
    if set(found) != set(request.outputs or ("OUTPUT0", "BATCH")):
        return f"outputs {sorted(found)}"
    return "" if found.get("OUTPUT0", data) == data else "OUTPUT0 is not what this request sent"


def _send(server: str, case: BurstCase, index: int, start: float) -> Answer:
    """Sends one of the requests at its time."""
    request = case.requests[index]
    data = _data(request, index)
    body = _body(request, data)
    try:
        with closing(http.client.HTTPConnection(server, timeout=20)) as connection:
            connection.connect()
            time.sleep(max(0.0, start + request.at - time.monotonic()))
            status, text = _call(connection, "POST", f"/v2/models/{case.model}/infer", body)
            now = time.monotonic() - start
        problem = _problem(request, data, status, json.loads(text))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        return Answer(f"{type(error).__name__}: {error}", time.monotonic() - start)
    slack = HELD_SLACK if any(other.hold for other in case.requests) else SLACK
    low, high = request.due if isinstance(request.due, tuple) else (request.due - EARLY, request.due + slack)
    late = "" if low - EARLY <= now <= high else f"reply at {now:.2f} s, due {low:.2f} to {high:.2f}"
    return Answer(problem or late, now)


def send_burst(server: str, case: BurstCase) -> str:
    """Sends a burst to a server (host and port); "" where all is as recorded, else what is not."""
    before = _statistics(server, case.model)
    count = len(case.requests)
    answers: dict[int, Answer] = {}
    start = time.monotonic() + 0.05 + 0.005 * count

    def send(index: int) -> None:
        answers[index] = _send(server, case, index, start)

    threads = [threading.Thread(target=send, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = [f"request {index}: {answers[index].problem}" for index in range(count) if answers[index].problem]
    order = tuple(sorted(range(count), key=lambda index: answers[index].at))
    if case.order and order != case.order:
        problems.append(f"replies in the order {order} instead of {case.order}")
    return "; ".join([*problems, *_batches(server, case, before)])


def _batches(server: str, case: BurstCase, before: Statistics) -> list[str]:
    """What is wrong with the batches; the counters may be written shortly after the reply."""
    rows = sum(request.rows for request in case.requests if request.status == 200)
    told = ""
    for _ in range(20):
        after = _statistics(server, case.model)
        sizes = sorted((after.sizes - before.sizes).elements())
        grown = after.executions - before.executions, after.rows - before.rows
        if case.has_batches(sizes) and grown == (len(sizes), rows):
            return []
        told = f"batches {sizes} instead of {dict(case.batches)}; executions, rows grew by {grown}, rows were {rows}"
        time.sleep(0.1)
    return [told]
