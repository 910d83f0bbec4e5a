"""Infer requests in the wire's form."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import numpy as np


def entry(name: str, shape: list[int], datatype: str, **values: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, **values}


def binary(*inputs: tuple[dict[str, Any], bytes], **document: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request whose tensors follow its JSON."""
    entries = [{**spec, "parameters": {"binary_data_size": len(data)}} for spec, data in inputs]
    head = json.dumps({"inputs": entries, **document}).encode()
    return head + b"".join(data for _, data in inputs), {"Inference-Header-Content-Length": str(len(head))}


def post(
    client: falcon.testing.TestClient, model: str, body: Any, headers: dict[str, str] | None = None
) -> falcon.testing.Result:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.simulate_post(f"/v2/models/{model}/infer", body=raw, headers=headers or {})


def floats(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


def split(reply: falcon.testing.Result) -> tuple[dict[str, Any], bytes]:
    """JSON part and binary part of a reply."""
    size = int(reply.headers["inference-header-content-length"])
    return json.loads(reply.content[:size]), reply.content[size:]
