"""Replies, and what they say: JSON as Triton writes it, error texts, tensors, statistics, samples of metrics."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

Sample = tuple[str, set[str], float]


class Reply(NamedTuple):
    """A reply of HTTP; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def load_json(data: bytes | str) -> Any:
    """JSON of bytes or text, with NaN and Infinity; None where it is none."""
    try:
        return json.loads(data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data)
    except (ValueError, RecursionError):
        return None


def error_text(reply: Reply) -> str | None:
    """The text of {"error": text}, also as an event of a stream; None if the body is something else."""
    document = load_json(re.sub(rb"^data:", b"", reply.body))
    text = document.get("error") if isinstance(document, dict) else None
    return text if isinstance(text, str) and text else None


def tensors(reply: Reply) -> tuple[Any, dict[str, bytes]]:
    """The JSON part of an inference reply, and its raw bytes by output."""
    told = reply.headers.get("inference-header-content-length")
    size = len(reply.body) if told is None else int(told) if told.isdigit() else 0
    document, raw = load_json(reply.body[:size]), reply.body[size:]
    binary: dict[str, bytes] = {}
    if isinstance(document, dict) and isinstance(document.get("outputs"), list) and raw:
        for output in document["outputs"]:
            count = output.get("parameters", {}).get("binary_data_size", 0)
            binary[str(output.get("name"))], raw = raw[:count], raw[count:]
    if raw:
        binary["(rest)"] = raw
    return document, binary


def models_of(reply: Reply) -> dict[tuple[str, str], dict[str, Any]]:
    """The entries of a statistics reply by name and version."""
    document = load_json(reply.body)
    found = document.get("model_stats") if isinstance(document, dict) else None
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return {(str(entry.get("name")), str(entry.get("version"))): entry for entry in entries}


def samples_of(reply: Reply) -> tuple[dict[str, str], list[Sample]]:
    """The types of the families in Prometheus' text, and its samples: family, labels, value."""
    text = reply.body.decode("utf-8", "replace")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)", text, re.MULTILINE))
    found = re.findall(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)", text, re.MULTILINE)
    return types, [(family, set(re.findall(r'\w+="[^"]*"', labels)), float(value)) for family, labels, value in found]
