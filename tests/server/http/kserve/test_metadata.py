"""Health, metadata, configuration, statistics."""

from __future__ import annotations

import falcon.testing
import pytest

import jitney
from jitney.tests.fakes.dataplane import FakeDataPlane
from jitney.tests.server.http.kserve.messages import entry, post

Client = falcon.testing.TestClient


def test_health_is_an_empty_body(client: Client, dataplane: FakeDataPlane) -> None:
    for path in ("health/live", "health/ready", "models/identity/ready", "models/versions/versions/3/ready"):
        reply = client.simulate_get(f"/v2/{path}")
        assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, b"", "text/plain")
    dataplane.failures["broken"] = "cannot start"
    reply = client.simulate_get("/v2/health/ready")
    assert (reply.status_code, reply.content) == (400, b"")


@pytest.mark.parametrize("path", ["nope/ready", "versions/versions/2/ready"])
def test_a_model_that_is_not_ready_is_400(client: Client, path: str) -> None:
    reply = client.simulate_get(f"/v2/models/{path}")
    assert (reply.status_code, reply.json) == (400, {"error": "Model version not ready"})


def test_the_server_says_who_it_is_and_what_it_offers(client: Client) -> None:
    document = client.simulate_get("/v2").json
    assert list(document) == ["name", "version", "extensions"]
    assert (document["name"], document["version"]) == ("triton", jitney.__version__)
    assert {"classification", "binary_tensor_data", "statistics"} <= set(document["extensions"])
    assert "cuda_shared_memory" not in document["extensions"]


def test_a_models_metadata_shows_the_batch_axis_and_the_versions(client: Client) -> None:
    assert client.simulate_get("/v2/models/identity").text == (
        '{"name":"identity","versions":["1"],"platform":"python","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[-1,-1]}],'
        '"outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[-1,-1]}]}'
    )
    assert client.simulate_get("/v2/models/versions").json["versions"] == ["1", "3"]
    named = client.simulate_get("/v2/models/versions/versions/1").json
    assert (named["versions"], named["inputs"][0]["shape"]) == (["1"], [1])


def test_the_configuration_is_the_repositorys_document(client: Client) -> None:
    assert client.simulate_get("/v2/models/identity/config").json == {"name": "identity"}
    assert client.simulate_get("/v2/models/nope/config").json == {"error": "Request for unknown model: 'nope' is not found"}


def test_statistics_have_tritons_structure_and_grow(client: Client) -> None:
    for rows in (1, 3):
        post(client, "identity", {"inputs": [entry("INPUT0", [rows, 1], "FP32", data=[1] * rows)]})
    post(client, "scores", {"inputs": [entry("X", [1, 4], "FP32", data=[-1, 0, 0, 0])]})
    (document,) = client.simulate_get("/v2/models/identity/stats").json["model_stats"]
    assert list(document) == [
        "name", "version", "last_inference", "inference_count", "execution_count", "inference_stats", "response_stats",
        "batch_stats", "memory_usage",
    ]  # fmt: skip
    assert (document["inference_count"], document["execution_count"]) == (4, 2)
    assert document["inference_stats"]["success"]["count"] == 2
    assert list(document["inference_stats"]) == [
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    ]  # fmt: skip
    assert [batch["batch_size"] for batch in document["batch_stats"]] == [1, 3]
    every = client.simulate_get("/v2/models/stats").json["model_stats"]
    assert {(entry["name"], entry["version"]) for entry in every} >= {("versions", "1"), ("versions", "3"), ("scores", "1")}


def test_statistics_of_what_is_not_there(client: Client) -> None:
    unknown = client.simulate_get("/v2/models/nope/stats")
    assert (unknown.status_code, unknown.json) == (400, {"error": "requested model 'nope' is not available"})
    version = client.simulate_get("/v2/models/versions/versions/2/stats")
    assert version.json == {"error": "requested model version is not available for model 'versions'"}
