"""The kinds of records: what is done for each, and what came of it."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .exchange import Run, exchange, finish
from .wire import Message, TimedOut, Wire


def run_step(step: Message, run: Run) -> Message:
    """Does what a record says; answers `response`, `responses`, `content`, `error`, or nothing."""
    return STEPS[step.get("kind", "http")](step, run)


def _http(step: Message, run: Run) -> Message:
    return {"response": exchange(step["request"], run)}


def _raw(step: Message, run: Run) -> Message:
    wire, began = Wire(run.address(step["port"]), step.get("timeout", 5)), time.monotonic()
    try:
        wire.send(step["send"].encode("latin-1"))
        try:
            answer = wire.read_response()
        except TimedOut:
            answer = {"status": None, "timed_out": True}
        answer["elapsed_ms"] = round((time.monotonic() - began) * 1000, 1)
        if answer.get("status") is not None:
            answer["server_closed"] = wire.closed_by_server()
    finally:
        wire.close()
    return {"response": finish(answer, run)}


def _keepalive(step: Message, run: Run) -> Message:
    """Requests on one connection."""
    wire = Wire(run.address(step["requests"][0]["port"]), step.get("timeout", 30))
    answers: list[Message] = []
    try:
        for request in step["requests"]:
            answers.append(exchange(request, run, wire, probe_close=False))
            if answers[-1].get("status") is None:
                break
        else:
            answers[-1]["server_closed"] = wire.closed_by_server()
    finally:
        wire.close()
    return {"responses": answers}


def _concurrent(step: Message, run: Run) -> Message:
    """Requests at `at_ms` after a common start."""
    requests = step["requests"]
    answers: list[Message] = [{} for _ in requests]
    gate = threading.Barrier(len(requests))
    began = time.monotonic()

    def one(index: int) -> None:
        gate.wait()
        time.sleep(max(0.0, requests[index].get("at_ms", 0) / 1000.0 - (time.monotonic() - began)))
        answers[index] = exchange(requests[index], run, probe_close=False)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(requests))]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"responses": answers}


def _wait(step: Message, run: Run) -> Message:
    """Until a model has so many READY workers, and no others."""
    limit = min(step.get("timeout", 90), 10 if run.failed_waits > 1 else 90)
    deadline = time.monotonic() + limit
    path = "/models/" + step["model"] + ("/" + step["version"] if step.get("version") else "")
    request = {"port": "management", "method": "GET", "path": path, "headers": step.get("headers", []), "timeout": 30}
    while time.monotonic() < deadline:
        answer = exchange(request, run, probe_close=False)
        if answer.get("status") == 200 and answer.get("body_json"):
            with contextlib.suppress(KeyError, TypeError, IndexError):
                workers = answer["body_json"][0]["workers"]
                if len(workers) == step["ready"] and all(worker["status"] == "READY" for worker in workers):
                    return {}
        time.sleep(0.25)
    run.failed_waits += 1
    return {"error": f"{path} did not get {step['ready']} READY workers in {limit} s"}


def _poll(step: Message, run: Run) -> Message:
    """Repeats a request until its status, and text, are as wanted; the last answer."""
    deadline = time.monotonic() + step.get("timeout", 60)
    while True:
        answer = exchange(step["request"], run)
        told = step.get("until_text") is None or step["until_text"] in (answer.get("body_text") or "")
        if (answer.get("status") == step["until_status"] and told) or time.monotonic() > deadline:
            return {"response": answer}
        time.sleep(step.get("every", 0.5))


def _sleep(step: Message, run: Run) -> Message:
    time.sleep(step["seconds"])
    return {}


def _save_tokens(step: Message, run: Run) -> Message:
    run.saved |= {f"{step['prefix']}:{name}": key for name, key in run.tokens().items()}
    return {}


def _file(step: Message, run: Run) -> Message:
    """A file of the server's working directory, the newest where there are several, or the list of them."""
    found = sorted(run.workdir.glob(step["glob"]))
    if step.get("listing"):
        return {"content": {"files": [re.sub(r"\d{17}", "<yyyyMMddHHmmssSSS>", path.name) for path in found]}}
    return {"content": _content(found[-1], step["format"], run) if found else {"missing": True}}


def _content(path: Path, form: str, run: Run) -> Message:
    text = path.read_text()
    content: Message = {"mode": oct(path.stat().st_mode & 0o777)}
    if form == "json":
        content["json"] = json.loads(text)
    elif form == "properties":
        properties = {name: run.collapse(value) for name, value in parse_properties(text).items()}
        content["properties"] = properties
        if "model_snapshot" in properties:
            content["properties"] = properties | {"model_snapshot": json.loads(properties["model_snapshot"])}
    return content


def parse_properties(text: str) -> dict[str, str]:
    """What Java's Properties.store writes, as far as it is needed here."""
    found: dict[str, str] = {}
    begun = ""
    for line in text.split("\n"):
        if not begun and (not line.strip() or line.lstrip()[0] in "#!"):
            continue
        whole = begun + line.lstrip()
        if re.search(r"(?<!\\)(\\\\)*\\$", whole):
            begun = whole[:-1]
            continue
        begun = ""
        if parts := re.match(r"((?:\\.|[^=:\s\\])*)\s*[=:]?\s*(.*)$", whole, re.DOTALL):
            found[_unescaped(parts[1])] = _unescaped(parts[2])
    return found


def _unescaped(text: str) -> str:
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda digits: chr(int(digits[1], 16)), text)
    return re.sub(r"\\(.)", lambda letter: {"n": "\n", "t": "\t", "r": "\r"}.get(letter[1], letter[1]), text)


STEPS: dict[str, Callable[[Message, Run], Message]] = {
    "http": _http,
    "raw": _raw,
    "keepalive": _keepalive,
    "concurrent": _concurrent,
    "wait": _wait,
    "poll": _poll,
    "sleep": _sleep,
    "save_tokens": _save_tokens,
    "file": _file,
}
