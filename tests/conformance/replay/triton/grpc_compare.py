"""How a call over gRPC ended, beside the record: code and details, and each message up to what may differ.

A record may name more that differs in it (`tolerate`): any-text, class-values, request-info.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections.abc import Collection, Iterator
from typing import Any

from google.protobuf.json_format import ParseDict

from .grpc_calls import INFERENCE, Outcome, Record, as_document, classes, expand

#: By method: places, and whether their values are of the same type or anything at all.
TOLERANCES: dict[str, list[tuple[str, str]]] = {
    "ServerMetadata": [(r"^\.(name|version|extensions)$", "type")],
    "ModelStatistics": [
        (r"\.(last_inference|inference_count|execution_count|count|ns|batch_size)$", "any"),
        (r"\.(batch_stats|response_stats|memory_usage)$", "any"),
    ],
    "TraceSetting": [(r"\.settings\.trace_file\.value", "any"), (r"\.settings\.(service\.name|log_frequency)$", "any")],
    "LogSettings": [(r"\.settings\.(log_file|log_verbose_level|log_format)\.", "any")],
    "ModelConfig": [
        (r"\.config\.optimization$", "any"),
        (r"\.config\.(version_policy|default_model_filename|instance_group\[\d+\]\.name)$", "any"),
    ],
}
#: Texts made by the client's own library: only the code counts.
CLIENT_TEXTS = ("Deadline Exceeded", "Locally cancelled by application!")
SEQUENCE = {"sequence_id", "sequence_start", "sequence_end"}
#: What the model `reqinfo` says of a request, and not of the place and the version of the server.
REQUEST_INFO = ("request_id", "correlation_id", "requested", "flags", "timeout", "input", "input_dtype", "model_name")


def neutral(text: str) -> str:
    """An error text without the place of the model repository, and without addresses in memory."""
    text = re.sub(r"[^\s\"'()]*?/([^/\s]+/\d+(?:/model\.py)?)\b", r"/models/\1", text)
    return re.sub(r"0x[0-9a-f]{6,}", "0x", text)


class Messages:
    """Two messages as JSON, compared under the tolerances of a method."""

    def __init__(self, method: str) -> None:
        self._rules = [(re.compile(place), how) for place, how in TOLERANCES.get(method, [])]

    def _rule(self, where: str) -> str | None:
        return next((how for place, how in self._rules if place.search(where)), None)

    def differences(self, wanted: Any, got: Any, where: str = "") -> Iterator[str]:
        how = self._rule(where) if where else None
        if how == "any":
            return
        numbers = all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in (wanted, got))
        if type(wanted) is not type(got) and not numbers:
            yield f"{where or 'message'} is {got!r} instead of {wanted!r}"
        elif how == "type":
            if wanted and not got:
                yield f"{where} is empty"
        elif isinstance(wanted, dict):
            yield from self._objects(wanted, got, where)
        elif isinstance(wanted, list):
            if len(wanted) != len(got):
                yield f"{where} has {len(got)} elements instead of {len(wanted)}"
            for index, (one, other) in enumerate(zip(wanted, got, strict=False)):
                yield from self.differences(one, other, f"{where}[{index}]")
        elif not self._same(wanted, got, where):
            yield f"{where} is {got!r} instead of {wanted!r}"

    def _objects(self, wanted: Record, got: Record, where: str) -> Iterator[str]:
        for name in wanted.keys() | got.keys():
            place = f"{where}.{name}"
            if self._rule(place) == "any":
                continue
            if name in wanted and name in got:
                yield from self.differences(wanted[name], got[name], place)
            elif name in wanted:
                yield f"{place} is missing, expected {wanted[name]!r}"
            else:
                yield f"{place} is {got[name]!r}, not in the recording"

    def _same(self, wanted: Any, got: Any, where: str) -> bool:
        if isinstance(wanted, float) or isinstance(got, float):
            return math.isclose(wanted, got, rel_tol=1e-5, abs_tol=1e-6) or (math.isnan(wanted) and math.isnan(got))
        if isinstance(wanted, str) and where.endswith("error_message"):
            return neutral(wanted) == neutral(got)
        return bool(wanted == got)


def _strings_of(raw: bytes) -> list[bytes]:
    found = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


def _comparable(message: Record, named: Collection[str]) -> Record:
    """The message without what depends on the run: order of outputs, empty parameters of sequences, and what is named."""
    if "infer_response" in message:
        return message | {"infer_response": _comparable(message["infer_response"], named)}
    if message.get("parameters") and set(message["parameters"]) <= SEQUENCE:
        message = {name: value for name, value in message.items() if name != "parameters"}
    raw = message.get("raw_output_contents")
    if raw is None:
        return message
    outputs, contents = message["outputs"], [_content(base64.b64decode(one), named) for one in raw]
    if len(outputs) == len(contents):
        order = sorted(range(len(outputs)), key=lambda index: str(outputs[index].get("name", "")))
        outputs, contents = [outputs[index] for index in order], [contents[index] for index in order]
    return message | {"outputs": outputs, "raw_output_contents": contents}


def _content(raw: bytes, named: Collection[str]) -> Any:
    if "class-values" in named:  # value:index, or value:index:label
        rows = [text.decode().split(":") for text in _strings_of(raw)]
        return [[round(float(row[0]), 3), *row[1:]] for row in rows]
    if "request-info" in named:
        info = json.loads(_strings_of(raw)[0])
        return {name: info.get(name) for name in REQUEST_INFO} | {"parameters": json.loads(info.get("parameters") or "{}")}
    return raw.hex()


def _index(wanted: Record, got: Record) -> Iterator[str]:
    """Ready models by name and version; others may be listed too, but a recorded one that was not ready is not READY."""
    rows, found = wanted.get("models", []), got.get("models", [])
    ready, there = (
        {(row["name"], row.get("version")) for row in side if row.get("state") == "READY"} for side in (rows, found)
    )
    yield from (f"{name} version {version} is not READY" for name, version in sorted(ready - there, key=str))
    others = {row["name"] for row in rows} - {name for name, _ in ready}
    yield from (f"{name} is READY" for name in sorted(others & {name for name, _ in there}))
    if rows and len(ready) == len(rows) and len(there) != len(found):
        yield "models that are not READY are listed"


def _statistics(wanted: Record, got: Record, messages: Messages) -> Iterator[str]:
    """Every recorded model and version has an entry with the same parts; the numbers vary."""
    entries, found = (
        {(entry.get("name"), entry.get("version")): entry for entry in side.get("model_stats", [])} for side in (wanted, got)
    )
    for key, entry in entries.items():
        if key in found:
            yield from messages.differences(entry, found[key])
        else:
            yield f"no statistics of {key}"
    if len(entries) < 3 and len(found) != len(entries):
        yield f"{len(found)} entries instead of {len(entries)}"


def outcome_differences(record: Record, outcome: Outcome) -> Iterator[str]:
    """What is different in how a call ended."""
    error, named = record.get("error", {"code": "OK", "details": ""}), record.get("tolerate", ())
    if outcome.code != error["code"]:
        yield f"code {outcome.code} {outcome.details!r} instead of {error['code']} {error['details']!r}"
        return
    ours = error["details"] not in CLIENT_TEXTS and "any-text" not in named
    if ours and neutral(outcome.details) != neutral(error["details"]):
        yield f"details {outcome.details!r} instead of {error['details']!r}"
    if "response" not in record:
        return
    method = record["method"]
    recorded = record["response"] if isinstance(record["response"], list) else [record["response"]]
    _, kind = classes(record.get("service", INFERENCE), method)
    known = [as_document(ParseDict(expand(one), kind(), ignore_unknown_fields=True)) for one in recorded]
    wanted, got = ([_comparable(one, named) for one in side] for side in (known, outcome.replies))
    if len(wanted) != len(got):
        yield f"{len(got)} messages instead of {len(wanted)}: {json.dumps(got)[:200]}"
    if method == "ModelStreamInfer" and len(record["request"]) > 1:  # replies of different requests may be interleaved
        for side in (wanted, got):
            side.sort(key=lambda reply: str(reply.get("infer_response", {}).get("id", "")))
    messages = Messages(method)
    for one, other in zip(wanted, got, strict=False):
        if method == "RepositoryIndex":
            yield from _index(one, other)
        elif method == "ModelStatistics":
            yield from _statistics(one, other, messages)
        else:
            yield from messages.differences(one, other)
