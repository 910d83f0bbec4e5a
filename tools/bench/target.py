"""A running server as a benchmark sees it: the model's configuration, requests for it, and what its counters gained."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from ...core.model_config import Batching, TensorSpec
from ...core.tensor import Tensor

TIMEOUT_SECONDS = 30.0


class TargetError(RuntimeError):
    """The server cannot be asked, or does not serve the model; the text says which."""


@dataclass(frozen=True)
class Model:
    """The model as the server describes it. `max_rows` 0: it has no batch axis. `batching` None: it does not say (archives)."""

    name: str
    max_rows: int
    batching: Batching | None
    workers: int
    inputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Counters:
    """Sums since some moment. Times in nanoseconds; `batches`: rows -> (executions, nanoseconds of them all)."""

    requests: int = 0
    total: int = 0
    queue: int = 0
    compute: int = 0
    batches: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)

    def since(self, before: Counters) -> Counters:
        batches = {}
        for rows, (count, ns) in self.batches.items():
            old_count, old_ns = before.batches.get(rows, (0, 0))
            if count > old_count:
                batches[rows] = (count - old_count, ns - old_ns)
        reasons = {name: count - before.reasons.get(name, 0) for name, count in self.reasons.items()}
        return Counters(
            self.requests - before.requests,
            self.total - before.total,
            self.queue - before.queue,
            self.compute - before.compute,
            batches,
            {name: count for name, count in reasons.items() if count},
        )


class Target:
    """One model of the server at `url`. `metrics` is the base URL of its metrics port."""

    def __init__(self, url: str, model: str, metrics: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise TargetError(f"expected an address like http://127.0.0.1:8080, got '{url}'")
        self.url, self.name = url.rstrip("/"), model
        self._path = f"/v2/models/{quote(model, safe='')}"
        self._metrics = (metrics or f"http://{parts.hostname}:8082").rstrip("/")

    @property
    def infer_url(self) -> str:
        return f"{self.url}{self._path}/infer"

    @property
    def predictions_url(self) -> str:
        return f"{self.url}/predictions/{quote(self.name, safe='')}"

    def describe(self) -> Model:
        """TargetError where the model is not there, not ready, or an ensemble."""
        try:
            _get(f"{self.url}{self._path}/ready")
        except TargetError as error:
            raise TargetError(f"model '{self.name}' is not ready: {self._why_not() or error}") from None
        config = json.loads(_get(f"{self.url}{self._path}/config"))
        if config.get("platform") == "ensemble":
            steps = ", ".join(dict.fromkeys(step["model_name"] for step in config["ensemble_scheduling"]["step"]))
            raise TargetError(
                f"model '{self.name}' is an ensemble, which has no batches of its own: measure its steps, {steps}"
            )
        return parse_model(self.name, config)

    def _why_not(self) -> str:
        """What the server's index says of a model that is not ready; "" where it says nothing."""
        try:
            index = json.loads(_get(f"{self.url}/v2/repository/index", b"{}"))
        except (TargetError, ValueError):
            return ""
        entries = [entry for entry in index if entry.get("name") == self.name]
        if not entries:
            return f"the server has {', '.join(sorted({entry['name'] for entry in index})) or 'no models'}"
        return next((entry["reason"] for entry in entries if entry.get("reason")), "")

    def counters(self) -> Counters:
        """The model's counters now; all its versions together."""
        entries = json.loads(_get(f"{self.url}{self._path}/stats"))["model_stats"]
        batches: dict[int, tuple[int, int]] = {}
        sums = dict.fromkeys(("success", "queue", "compute_input", "compute_infer", "compute_output"), 0)
        requests = 0
        for entry in entries:
            requests += entry["inference_stats"]["success"]["count"]
            for name in sums:
                sums[name] += entry["inference_stats"][name]["ns"]
            for batch in entry["batch_stats"]:
                count, ns = batches.get(batch["batch_size"], (0, 0))
                spent = sum(batch[name]["ns"] for name in ("compute_input", "compute_infer", "compute_output"))
                batches[batch["batch_size"]] = (count + batch["compute_infer"]["count"], ns + spent)
        compute = sums["compute_input"] + sums["compute_infer"] + sums["compute_output"]
        return Counters(requests, sums["success"], sums["queue"], compute, batches, self.reasons())

    def reasons(self) -> dict[str, int]:
        """Batches by the reason why they left the queue."""
        query = "?name%5B%5D=jitney_batches_total"
        return parse_reasons(_get(f"{self._metrics}/metrics{query}").decode(), self.name)


#: What the server tells of a model that came without a configuration.
_BARE = {"name", "platform", "backend", "input", "output", "max_batch_size"}


def parse_model(name: str, document: Mapping[str, Any]) -> Model:
    """From Triton's ModelConfig as JSON. Only delay and preferred sizes are read of the batching: all requests are alike."""
    groups = document.get("instance_group", ())
    workers = sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", ()))) for group in groups)
    inputs = tuple(
        TensorSpec(
            spec["name"],
            spec["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES"),
            tuple(int(size) for size in spec["dims"]),
            optional=bool(spec.get("optional")),
        )
        for spec in document.get("input", ())
    )
    most = int(document.get("max_batch_size", 0))
    return Model(name, most, _batching(document, most), max(1, workers), inputs)


def _batching(document: Mapping[str, Any], most: int) -> Batching | None:
    if set(document) <= _BARE:
        return None
    scheduler = document.get("dynamic_batching")
    if scheduler is None:
        return Batching()
    preferred = tuple(int(size) for size in scheduler.get("preferred_batch_size", ()))
    return Batching(
        enabled=True,
        max_queue_delay_us=int(scheduler.get("max_queue_delay_microseconds", 0)),
        preferred_batch_size=() if preferred == (most,) else preferred,  # which says nothing
    )


def parse_reasons(text: str, model: str) -> dict[str, int]:
    """`jitney_batches_total{model="M",version="1",reason="full"} 12.0`, summed over the versions."""
    found: dict[str, int] = {}
    for labels, value in re.findall(r"^jitney_batches_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))
        if pairs.get("model") == model and "reason" in pairs:
            found[pairs["reason"]] = found.get(pairs["reason"], 0) + int(float(value))
    return found


def infer_request(tensors: Sequence[Tensor]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a KServe request in which all tensors are binary, and the answer's too."""
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {"binary_data_size": len(tensor.data)},
        }
        for tensor in tensors
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return head + b"".join(bytes(tensor.data) for tensor in tensors), headers


def _get(url: str, body: bytes | None = None) -> bytes:
    """What the server answers; with a `body` it is posted. TargetError with what it said where that is no 200."""
    try:
        with urllib.request.urlopen(url, body, timeout=TIMEOUT_SECONDS) as response:
            content: bytes = response.read()
            return content
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace").strip()
        raise TargetError(f"GET {url} answered {error.code}{f': {said}' if said else ''}") from None
    except (OSError, ValueError) as error:
        raise TargetError(f"cannot GET {url}: {getattr(error, 'reason', error)}") from None
