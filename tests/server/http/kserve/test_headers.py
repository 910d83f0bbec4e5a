"""Headers that models see as parameters, and the version that a reply names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import falcon
import falcon.testing
import pytest

from jitney.core.call import Call
from jitney.core.request import Request
from jitney.tests.fakes.dataplane import FakeDataPlane
from jitney.tests.fakes.kserve_app import kserve_app
from jitney.tests.server.http.kserve.messages import entry, post

BODY = {"inputs": [entry("INPUT0", [1, 1], "FP32", data=[1])], "parameters": {"own": 1}}


def client_of(dataplane: FakeDataPlane, forward: str = "") -> falcon.testing.TestClient:
    return falcon.testing.TestClient(kserve_app(dataplane, 1 << 20, forward))


def test_headers_that_match_are_parameters(dataplane: FakeDataPlane) -> None:
    client = client_of(dataplane, "x-fwd-.*|tenant")
    headers = {"X-Fwd-A": "1", "my-Tenant-id": "t", "Other": "no"}
    assert post(client, "identity", BODY, headers).status_code == 200
    assert dataplane.calls[-1].request.parameters == {"own": 1, "X-Fwd-A": "1", "My-Tenant-Id": "t"}
    reply = client.simulate_post("/v2/models/textgen/generate", json={"text_input": "a"}, headers=headers)
    assert reply.json["text_output"] == "a|My-Tenant-Id=t,X-Fwd-A=1"


def test_without_a_pattern_no_header_is_forwarded(dataplane: FakeDataPlane) -> None:
    assert post(client_of(dataplane), "identity", BODY, {"X-Fwd-A": "1"}).status_code == 200
    assert dataplane.calls[-1].request.parameters == {"own": 1}


@pytest.mark.parametrize("model", ["infer", "generate"])
def test_headers_cannot_pass_for_the_servers_own_parameters(dataplane: FakeDataPlane, model: str) -> None:
    client = client_of(dataplane, ".*")
    environ = {"jitney.headers": [("triton_flags", "3")]}
    reply = client.simulate_post(
        "/v2/models/textgen/generate" if model == "generate" else "/v2/models/identity/infer",
        json={"text_input": "a"} if model == "generate" else BODY,
        extras=environ,
    )
    assert reply.status_code == 400
    assert "reserved" in reply.json["error"]


class Reloading(FakeDataPlane):
    """A model whose version is replaced between a request's look at it and its arrival in the queue."""

    def infer(self, model: str, version: str | None, request: Request, **options: Any) -> Call:
        call = super().infer(model, version, request, **options)
        call.config = replace(self.served[model]["1"].config, version="2")
        return call


def test_a_reply_names_the_version_that_took_the_request(dataplane: FakeDataPlane) -> None:
    plane = Reloading(dataplane.served)
    client = client_of(plane)
    assert post(client, "identity", BODY).json["model_version"] == "2"
    reply = client.simulate_post("/v2/models/textgen/generate", json={"text_input": "a"})
    assert reply.json["model_version"] == "2"
