"""The calls recorded over gRPC: one file `grpc__NAME.json` for each.

method, service   the call;  request: its messages;  response, error: how it ended
setup, teardown   calls before and after, or shared memory;  after: calls whose replies are compared too
stateful   it changes the server's state, which its teardown undoes: it runs last
group, opt_in   it needs a server with other flags, and runs only when its group is named
concurrent   how many copies of the call are sent together
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .exchange import SHARED_MEMORY, floats_of
from .grpc_calls import GrpcServer, Outcome, Record
from .grpc_compare import outcome_differences


def replay_grpc(golden: Path, address: str, group: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """(record, what is different) of all records that a server of the usual flags is asked, or of a group."""
    records: dict[str, Record] = {path.stem: json.loads(path.read_text()) for path in sorted(golden.glob("grpc__*.json"))}
    with contextlib.closing(GrpcServer(address)) as server:
        for name, record in sorted(records.items(), key=lambda item: _changes_state(item[1])):
            if ("opt_in" not in record) if group is None else record.get("group") == group:
                yield name, _judge(server, record)


def _changes_state(record: Record) -> bool:
    return bool(record.get("stateful", record["method"] == "RepositoryModelLoad" and "error" not in record))


def _quick(server: GrpcServer, step: Record) -> Outcome:
    return server.call({"method": step["method"], "request": [step.get("request", {})], "timeout_s": 60})


def _take_step(server: GrpcServer, step: Record) -> None:
    if "shm" in step:
        (SHARED_MEMORY / step["shm"]).write_bytes(floats_of(step).ljust(step["byte_size"], b"\0"))
        return
    deadline = time.monotonic() + step.get("retry_s", 0)
    while (outcome := _quick(server, step)).code != "OK" and time.monotonic() < deadline:
        time.sleep(0.2)
    if outcome.code != "OK" and not step.get("fails"):
        raise RuntimeError(f"{step['method']} before the case gave {outcome.code} {outcome.details}")


def _judge(server: GrpcServer, record: Record) -> list[str]:
    """What is different in one record, with its setup and teardown."""
    try:
        for step in record.get("setup", ()):
            _take_step(server, step)
        return _attempt(server, record)
    except Exception as error:  # noqa: BLE001 - nothing that a server sends may end the replay
        return [f"{type(error).__name__}: {error}"]
    finally:
        for step in record.get("teardown", ()):
            with contextlib.suppress(RuntimeError, OSError):
                _take_step(server, step)
        for step in record.get("setup", ()):
            if "shm" in step:
                (SHARED_MEMORY / step["shm"]).unlink(missing_ok=True)


def _attempt(server: GrpcServer, record: Record) -> list[str]:
    copies = record.get("concurrent", 1)
    with ThreadPoolExecutor(copies) as pool:
        outcomes = list(pool.map(server.call, [record] * copies))
    told = [text for outcome in outcomes for text in outcome_differences(record, outcome)]
    for step in record.get("after", ()):
        told += [f"afterwards {step['method']}: {text}" for text in _afterwards(server, {"request": [{}], **step})]
    if "shm_result" in record and not told:
        result = record["shm_result"]
        if not (SHARED_MEMORY / result["shm"]).read_bytes()[result["offset"] :].startswith(floats_of(result)):
            told.append("the output is not in the shared memory")
    return told


def _afterwards(server: GrpcServer, step: Record) -> list[str]:
    deadline = time.monotonic() + step.get("retry_s", 0)
    while (told := list(outcome_differences(step, server.call(step)))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return told
