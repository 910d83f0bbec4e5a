"""A reply beside the recorded one: every difference that matters, in words.

What matters: the status; the media type of a 200 with a body; whether there is an Inference-Header-Content-Length; the
Content-Encoding; JSON values (numbers within 1e-5, integers exactly); tensors byte for byte. An error needs {"error": <text>},
whatever the text. The manifest's `check` of a case says how the body of a 200 is read.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

from .reply import Reply, error_text, load_json, models_of, samples_of, tensors

CONFIG_DEFAULTS: tuple[Any, ...] = (False, 0, "", [], {}, None, "PRIORITY_DEFAULT", "FORMAT_NONE", "TYPE_INVALID")
#: Numbers of statistics that differ from run to run.
COUNTS = (
    "last_inference",
    "inference_count",
    "execution_count",
    "count",
    "ns",
    "batch_size",
    "response_stats",
    "memory_usage",
)
Differences = Iterator[str]


def kind(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    names: dict[type, str] = {bool: "boolean", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def same_value(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, str):
        return same_text(wanted, got)
    if kind(wanted) != "number" or (isinstance(wanted, int) and isinstance(got, int)):
        return bool(wanted == got)
    return math.isclose(wanted, got, rel_tol=1e-5, abs_tol=1e-6) or (math.isnan(wanted) and math.isnan(got))


def same_text(wanted: str, got: str) -> bool:
    """Equal; in classification results, `value:index` or `value:index:label`, the value may differ a little."""
    if wanted == got:
        return True
    one, other = wanted.split(":"), got.split(":")
    if len(one) < 2 or one[1:] != other[1:] or not all(re.fullmatch(r"-?\d+\.\d{6}", side[0]) for side in (one, other)):
        return False
    return abs(float(one[0]) - float(other[0])) < 5e-6


def is_default(value: Any) -> bool:
    """Whether a value of a model's configuration says no more than its absence."""
    return value in CONFIG_DEFAULTS or (isinstance(value, dict) and all(map(is_default, value.values())))


def documents(wanted: Any, got: Any, where: str = "", config: bool = False, volatile: Collection[str] = ()) -> Differences:
    """Compares two values. config: what has its default may be missing, and what the recording lacks may be there.
    volatile: keys whose values only have to be of the same type."""
    if kind(wanted) != kind(got):
        yield f"{where or 'body'} is {kind(got)} instead of {kind(wanted)}"
    elif re.sub(r".*[.\]]", "", where) in volatile:
        if wanted and not got and kind(wanted) in ("string", "array"):
            yield f"{where} is empty"
    elif isinstance(wanted, dict):
        for name, value in wanted.items():
            if name in got:
                yield from documents(value, got[name], f"{where}.{name}", config, volatile)
            elif not (config and (is_default(value) or name == "optimization")):
                yield f"{where}.{name} is missing"
        yield from (f"{where}.{name} is not in the recording" for name in got.keys() - wanted.keys() if not config)
    elif isinstance(wanted, list):
        if len(wanted) != len(got):
            yield f"{where} has {len(got)} elements instead of {len(wanted)}"
        for index, (one, other) in enumerate(zip(wanted, got, strict=False)):
            yield from documents(one, other, f"{where}[{index}]", config, volatile)
    elif not same_value(wanted, got):
        yield f"{where} is {got!r} instead of {wanted!r}"[:200]


def _json(wanted: Reply, got: Reply) -> Differences:
    (one, raw), (other, other_raw) = tensors(wanted), tensors(got)
    sides = (one, other)
    if all(isinstance(side, dict) and isinstance(side.get("outputs"), list) for side in sides):
        for side in sides:  # empty or sequence parameters say nothing; outputs are found by their names
            if set(side.get("parameters", {})) <= {"sequence_id", "sequence_start", "sequence_end"}:
                side.pop("parameters", None)
            side["outputs"].sort(key=lambda output: str(output.get("name")))
    yield from documents(one, other)
    for name in raw.keys() | other_raw.keys():
        left, right = raw.get(name, b""), other_raw.get(name, b"")
        if left != right:
            yield f"binary data of {name} is {right[:32]!r} instead of {left[:32]!r}"


def _server(wanted: Reply, got: Reply) -> Differences:
    yield from documents(load_json(wanted.body), load_json(got.body), volatile=("name", "version", "extensions"))


def _config(wanted: Reply, got: Reply) -> Differences:
    yield from documents(load_json(wanted.body), load_json(got.body), config=True)


def _events(wanted: Reply, got: Reply) -> Differences:
    one, other = (re.findall(r"^data: ?(.*)$", side.body.decode("utf-8", "replace"), re.MULTILINE) for side in (wanted, got))
    if len(one) != len(other):
        yield f"{len(other)} events instead of {len(one)}"
    for left, right in zip(one, other, strict=False):
        yield from documents(load_json(left), load_json(right), "event")


def _index(wanted: Reply, got: Reply) -> Differences:
    """Ready models by name and version. Other models may be listed too; one that was not ready need not be listed and may have
    any state but READY."""
    listed, found = load_json(wanted.body), load_json(got.body)
    if not isinstance(found, list) or not all(isinstance(entry, dict) and entry.get("name") for entry in found):
        yield "not an array of objects with a name"
        return
    ready, there = (
        {(entry["name"], entry.get("version")) for entry in rows if entry.get("state") == "READY"}
        for rows in (listed, found)
    )
    yield from (f"{name} version {version} is not READY" for name, version in sorted(ready - there))
    others = {entry["name"] for entry in listed} - {name for name, _ in ready}
    yield from (f"{name} is READY" for name in sorted(others & {name for name, _ in there}))
    if len(ready) == len(listed) and len(there) != len(found):
        yield "models that are not READY are listed"


def _statistics(wanted: Reply, got: Reply) -> Differences:
    """Every recorded model has an entry of the same structure; the numbers vary."""
    recorded, found = models_of(wanted), models_of(got)
    for key, entry in recorded.items():
        other = found.get(key)
        if other is None:
            yield f"no statistics of {key}"
            continue
        sizes = [side.get("batch_stats") or [] for side in (entry, other)]
        count = min(1, *map(len, sizes))  # the structure of one batch size is enough
        sides = [side | {"batch_stats": rows[:count]} for side, rows in zip((entry, other), sizes, strict=True)]
        yield from documents(sides[0], sides[1], volatile=COUNTS)
    if not recorded or (len(recorded) < 3 and len(found) != len(recorded)):
        yield f"{len(found)} entries instead of {len(recorded)}"


def _metrics(wanted: Reply, got: Reply) -> Differences:
    """The families of inference, and their samples of one model."""
    (types, samples), (other_types, others) = samples_of(wanted), samples_of(got)
    for family, type_ in types.items():
        if family.startswith("nv_inference") and other_types.get(family) != type_:
            yield f"metric {family} is {other_types.get(family)} instead of {type_}"
    for family, labels, _ in samples:
        known = any(family == name and labels <= found for name, found, _ in others)
        if family.startswith("nv_inference") and 'model="identity_fp32"' in labels and not known:
            yield f"no sample {family} with {sorted(labels)}"


def _request_info(wanted: Reply, got: Reply) -> Differences:
    """The model `reqinfo` answers with a JSON text of what it was given and what the interface offers."""
    (one, _), (other, _) = tensors(wanted), tensors(got)
    try:
        texts: list[dict[str, Any]] = [json.loads(side["outputs"][0]["data"].pop()) for side in (one, other)]
        for text in texts:
            text["parameters"], text["config"] = json.loads(text["parameters"]), json.loads(text["args"].pop("model_config"))
            text["args"]["model_repository"] = ""
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        yield f"no readable INFO: {type(error).__name__} {error}"
        return
    yield from documents(texts[0].pop("config"), texts[1].pop("config"), "model_config", config=True)
    for field in ("public", "pb_utils", "priority", "model_name", "model_dir"):  # they name places and Triton's inside
        for text in texts:
            text.pop(field, None)
    yield from documents(one, other)
    yield from documents(texts[0], texts[1], "INFO", volatile=("model_instance_name", "model_instance_device_id"))


CHECKS: dict[str, Callable[[Reply, Reply], Differences]] = {
    "json": _json,
    "server": _server,
    "config": _config,
    "index": _index,
    "stats": _statistics,
    "metrics": _metrics,
    "reqinfo": _request_info,
    "events": _events,
}


UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


def _plain(reply: Reply) -> Reply:
    """The reply with its body decompressed; ValueError where it cannot be."""
    coding = reply.headers.get("content-encoding", "identity")
    unpack = UNPACK.get(coding, bytes)
    try:
        return reply._replace(body=unpack(reply.body))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"body is not {coding}: {error}") from None


def replies(wanted: Reply, got: Reply, check: str = "json") -> Differences:
    """Differences of a reply from the recorded one."""
    try:
        wanted, got = _plain(wanted), _plain(got)
    except ValueError as error:
        yield str(error)
        return
    if got.status != wanted.status:
        yield f"status {got.status} instead of {wanted.status}: {got.body[:120].decode('utf-8', 'replace')}"
        return
    one, other = (side.headers.get("content-type", "").split(";")[0].strip().lower() for side in (wanted, got))
    if wanted.status == 200 and wanted.body and one != other:
        yield f"Content-Type {other!r} instead of {one!r}"
    coding, length = "content-encoding", "inference-header-content-length"
    if wanted.headers.get(coding) != got.headers.get(coding):
        yield f"{coding} {got.headers.get(coding)} instead of {wanted.headers.get(coding)}"
    if (length in wanted.headers) != (length in got.headers):
        yield f"{length} {got.headers.get(length)} instead of {wanted.headers.get(length)}"
    if wanted.status == 200 and wanted.body:
        yield from CHECKS[check](wanted, got)
    elif wanted.status == 200 and got.body:
        yield f"body {got.body[:60]!r} instead of none"
    elif wanted.body and error_text(got) is None:
        yield f'no {{"error": text}} but {got.body[:80]!r}'
