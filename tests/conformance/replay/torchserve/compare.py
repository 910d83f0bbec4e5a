"""An answer beside the recorded one. Status, headers and body are to be the same, up to what `compare` of a record says.

volatile          JSON paths whose values are compared by type only, beside VOLATILE
status_any_of     also these statuses;  any_outcome: also an answer where there was none
body              json, text, prometheus or any; default what was recorded
elapsed_ms        bounds of how long the answer takes
ignore_headers, any_length, multiset, per_request, prom_samples_optional
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .documents import Documents, metric_differences
from .wire import Message

UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
VOLATILE = [r"\.workers\[\d+\]\.(id|startTime|memoryUsage|pid|gpuUsage)$", r"\.headers\.(Host|host)$"]
#: What an answer has exactly where the recorded one has it; other headers may come in addition.
EXACT_HEADERS = ("content-type", "connection", "transfer-encoding", "x-request-id")


def differences(record: Message, found: Message) -> list[str]:
    """What came of a step, beside the record: every difference in a sentence."""
    if "error" in found:
        return [found["error"]]
    rules = record.get("compare", {})
    if "response" in found:
        return list(_answers(record["response"], found["response"], rules))
    if "responses" in found:
        return _series(record["responses"], found["responses"], rules)
    if "content" in found:
        return list(_files(record["content"], found["content"], rules))
    return []


def _series(wanted: list[Message], got: list[Message], rules: Message) -> list[str]:
    if rules.get("multiset"):
        wanted, got = (
            sorted(side, key=lambda answer: (str(answer.get("status")), answer.get("body_text") or ""))
            for side in (wanted, got)
        )
    told = [f"{len(got)} responses, wanted {len(wanted)}"] if len(wanted) != len(got) else []
    for index, (one, other) in enumerate(zip(wanted, got, strict=False)):
        own = rules | rules.get("per_request", {}).get(str(index), {})
        told += [f"[{index}] {text}" for text in _answers(one, other, own)]
    return told


def _files(wanted: Message, got: Message, rules: Message) -> Iterator[str]:
    sides = [{name: value for name, value in side.items() if name not in ("text", "first_line")} for side in (wanted, got)]
    named = rules.get("properties", ["model_snapshot"])
    for side in sides:
        if "properties" in side:
            side["properties"] = {name: value for name, value in side["properties"].items() if name in named}
    yield from Documents([re.compile(path) for path in rules.get("volatile", [])]).differences(sides[0], sides[1])


def _answers(wanted: Message, got: Message, rules: Message) -> Iterator[str]:
    status = got.get("status")
    if wanted.get("status") is None:
        yield from _none(wanted, status, rules)
        return
    if status not in (rules.get("status_any_of") or [wanted["status"]]):
        reasons = [got.get("error"), "timeout" if got.get("timed_out") else None]
        why = next((f" ({reason})" for reason in reasons if reason), "")
        yield f"status {status}{why}, wanted {wanted['status']} | body: {got.get('body_text')!r:.160}"
        return
    if status is None:
        return
    yield from _headers(wanted, got, {name.lower() for name in rules.get("ignore_headers", [])})
    for name, neutral in (("interim", []), ("server_closed", wanted.get("server_closed"))):
        if (both := (wanted.get(name, neutral), got.get(name, neutral)))[0] != both[1]:
            yield f"{name} {both[1]}, wanted {both[0]}"
    yield from _bodies(wanted, got, rules)
    low, high = rules.get("elapsed_ms", (0, float("inf")))
    if not low <= got.get("elapsed_ms", 0) <= high:
        yield f"took {got['elapsed_ms']:.0f} ms, wanted {low}..{high}"


def _none(wanted: Message, status: int | None, rules: Message) -> Iterator[str]:
    """There was no answer: a connection that ended, or one on which nothing came."""
    if not rules.get("any_outcome"):
        if status is not None:
            yield f"got status {status}, wanted no response ({'timeout' if wanted.get('timed_out') else 'connection closed'})"
    elif "status_any_of" in rules and status not in rules["status_any_of"]:
        yield f"status {status}, wanted one of {rules['status_any_of']}"


def _headers(wanted: Message, got: Message, ignored: set[str]) -> Iterator[str]:
    theirs, ours = _by_name(wanted), _by_name(got)
    for name, values in theirs.items():
        if name in ignored:
            continue
        found = ours.get(name)
        if found is None:
            yield f"header {name} is missing (wanted {values!r})"
        elif name == "x-request-id":
            if not UUID.match(found[0]):
                yield f"header {name}: {found[0]!r} is no UUID"
        elif name == "content-length":  # the body was read by it
            if not found[0].isdigit():
                yield f"header {name}: {found[0]!r}"
        elif found != values:
            yield f"header {name}: {found!r}, wanted {values!r}"
    unwanted = [name for name in EXACT_HEADERS if name in ours and name not in theirs and name not in ignored]
    yield from (f"header {name}: {ours[name]!r}, wanted none" for name in unwanted)


def _by_name(answer: Message) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in answer.get("headers", []):
        found.setdefault(name.lower(), []).append(value)
    return found


def _bodies(wanted: Message, got: Message, rules: Message) -> Iterator[str]:
    mode = rules.get("body", "auto")
    if mode == "auto":
        mode = "json" if "body_json" in wanted else "text"
    if mode == "any":
        return
    if mode == "json":
        yield from _json(wanted, got, rules)
    elif mode == "prometheus":
        texts = wanted.get("body_text", ""), got.get("body_text", "")
        yield from metric_differences(*texts, samples=not rules.get("prom_samples_optional"))
    elif (both := [answer.get("body_text", answer.get("body_b64")) for answer in (wanted, got)])[0] != both[1]:
        yield f"body {both[1]!r:.200}, wanted {both[0]!r:.200}"
    if wanted.get("chunks") is not None and wanted["chunks"] != got.get("chunks"):
        yield f"chunks {got.get('chunks')!r}, wanted {wanted['chunks']!r}"


def _json(wanted: Message, got: Message, rules: Message) -> Iterator[str]:
    if "body_json" not in got:
        yield f"body is no JSON: {got.get('body_text') or got.get('body_b64')!r:.160}"
        return
    tolerances: dict[str, Any] = {"absolute": rules.get("atol", 1e-4), "relative": rules.get("rtol", 2e-3)}
    volatile = [re.compile(path) for path in (*VOLATILE, *rules.get("volatile", []))]
    documents = Documents(volatile, bool(rules.get("any_length")), **tolerances)
    yield from documents.differences(wanted["body_json"], got["body_json"])
