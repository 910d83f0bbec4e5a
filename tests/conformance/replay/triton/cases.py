"""The recorded cases: which there are, and what is different when one is replayed.

`manifest.json` beside the recordings says for each case:

    group     what it is about;  opt_in: it needs a server of its own configuration, and runs only when its group is named
    stateful  it changes the server's state, and puts it back: it runs last
    skip      why it is never replayed
    accept    classes of statuses that a good server may answer with, where the recorded reply is one not to copy: 4xx and 5xx
              with {"error": text}, 2xx with JSON that is no error
    setup, teardown   requests before and after; a load or unload is waited for; `shm` makes a file in /dev/shm; `background`
              sends the request so many times, `gap_s` apart, without waiting for replies
    delta     [request, rows]: the counters must grow by one execution, one request and so many rows
    check     how the body of a 200 is read;  shm_result: what must then lie in shared memory
    retry_s   how long it is asked again
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from .compare import replies
from .exchange import FAILURES, SHARED_MEMORY, Message, body_of, exchange, exchange_raw, floats_of, split_raw, take_step
from .reply import Reply, error_text, load_json, models_of, samples_of

Counters = tuple[float, float, float]


def replay(golden: Path, servers: Mapping[str, str], group: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """(case, what is different) of all cases that a server of the usual configuration is asked, or of a group.

    servers   host and port by "http" and "metrics"
    """
    cases: dict[str, Message] = json.loads((golden / "manifest.json").read_text())["cases"]
    for name, case in sorted(cases.items(), key=lambda item: bool(item[1].get("stateful"))):  # otherwise as listed
        wanted = "opt_in" not in case if group is None else case["group"] == group
        if wanted and "skip" not in case:
            yield name, _judge(servers, case, json.loads((golden / f"{name}.json").read_text()))


def _judge(servers: Mapping[str, str], case: Message, recorded: Message) -> list[str]:
    """What is different in one case, with its setup and teardown."""
    threads: list[threading.Thread] = []
    server = servers["http"]
    try:
        for step in case.get("setup", ()):
            take_step(server, step, threads)
        deadline = time.monotonic() + case.get("retry_s", 0)
        while True:
            told, found = _attempt(servers, case, recorded)
            if not told or _accepted(case, found, recorded.get("request")):
                return []
            if time.monotonic() >= deadline:
                return told
            time.sleep(0.2)
    except Exception as error:  # noqa: BLE001 - nothing that a server sends may end the replay
        return [f"{type(error).__name__}: {error}"]
    finally:
        for thread in threads:
            thread.join()
        for step in case.get("teardown", ()):
            with contextlib.suppress(*FAILURES, RuntimeError):
                take_step(server, step, threads)
        for step in case.get("setup", ()):
            if "shm" in step:
                (SHARED_MEMORY / step["shm"]).unlink()


def _attempt(servers: Mapping[str, str], case: Message, recorded: Message) -> tuple[list[str], list[Reply]]:
    """Sends the case's request once: what is different, and the replies."""
    if "raw_request" in recorded:
        return _attempt_raw(servers["http"], recorded)
    request, response = recorded["request"], recorded["response"]
    target, none = servers[request["port"]], response["status"] == "no reply"
    try:
        reply = exchange(target, request, case.get("timeout_s", 30))
    except TimeoutError:
        return [] if none else ["no reply"], []
    if none:
        return [f"status {reply.status}, recorded was no reply"], [reply]
    headers = {name.lower(): value for name, value in response["headers"]}
    wanted = Reply(response["status"], headers, body_of(response) or b"")
    told = list(replies(wanted, reply, case.get("check", "json")))
    if "delta" in case:
        told += _growth(servers["http"], target, request, case)
    if "shm_result" in case and not told:
        result = case["shm_result"]
        if not (SHARED_MEMORY / result["shm"]).read_bytes()[result["offset"] :].startswith(floats_of(result)):
            told.append("the output is not in the shared memory")
    return told, [reply]


def _attempt_raw(server: str, recorded: Message) -> tuple[list[str], list[Reply]]:
    """All replies on one connection, and whether the server then closed it."""
    data, closed = exchange_raw(server, body_of(recorded["raw_request"]) or b"")
    found, wanted = split_raw(data), split_raw(body_of(recorded["raw_response"]) or b"")
    told = [f"{len(found)} replies instead of {len(wanted)}"] if len(found) != len(wanted) else []
    for one, other in zip(wanted, found, strict=False):
        told += replies(one, other)
    if closed != recorded["server_closed_connection"]:
        told.append("connection closed by the server" if closed else "connection not closed by the server")
    return told, found


def _accepted(case: Message, found: list[Reply], request: Message | None) -> bool:
    """Whether the replies are ones that the manifest accepts in place of the recorded one."""

    def fine(reply: Reply) -> bool:
        if f"{reply.status // 100}xx" not in case.get("accept", ()):
            return False
        if request is None or request["method"] == "HEAD" or request["port"] == "metrics":
            return True
        failed = error_text(reply) is not None
        return failed if reply.status >= 300 else bool(load_json(reply.body)) and not failed

    return bool(found) and all(map(fine, found))


def _counters(reply: Reply) -> Counters | None:
    """Rows, executions and requests of the model in a statistics reply, of identity_fp32 in a metrics reply."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        for entry in models_of(reply).values():
            return entry["inference_count"], entry["execution_count"], entry["inference_stats"]["success"]["count"]
        samples = [sample for sample in samples_of(reply)[1] if 'model="identity_fp32"' in sample[1]]
        names = ("count", "exec_count", "request_success")
        rows, executions, requests = (
            sum(value for family, _, value in samples if family == f"nv_inference_{name}") for name in names
        )
        return rows, executions, requests
    return None


def _growth(server: str, target: str, request: Message, case: Message) -> list[str]:
    """Whether the counters shown by `request` grow as they should with one more inference."""
    step, rows = case["delta"]
    before = _counters(exchange(target, request))
    exchange(server, step)
    wanted, grown = [rows, 1, 1], list[float]()
    for _ in range(20):
        after = _counters(exchange(target, request))
        grown = [y - x for x, y in zip(before, after, strict=True)] if before and after else []
        if grown == wanted:
            return []
        time.sleep(0.1)
    return [f"rows, executions, requests grew by {grown} instead of {wanted}"]
