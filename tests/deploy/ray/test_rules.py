"""What may run twice, what a replica tells of itself, and how many replicas that makes."""

from __future__ import annotations

from typing import Any

import pytest

from jitney.deploy.ray.record import from_status
from jitney.deploy.ray.routes import model_of, repeatable
from jitney.deploy.ray.scaling import ONGOING, ROOM, OngoingRequests, wanted


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/m/infer", "m"),
        ("/v2/models/m/versions/3/infer", "m"),
        ("/v1/models/m:predict", "m"),
        ("/v1/models/m:explain", "m"),
        ("/predictions/m", "m"),
        ("/predictions/a%20b/1.0", "a b"),
        ("/models/m/invoke", "m"),
        ("/v2/models/m/generate", None),
        ("/v2/models/m/generate_stream", None),
        ("/v2/models/m", None),
        ("/invocations", None),
    ],
)
def test_the_model_of_a_path(path: str, model: str | None) -> None:
    assert model_of(path) == model


def test_what_may_run_twice() -> None:
    assert repeatable("POST", "/v2/models/m/infer", {"m"})
    assert repeatable("PUT", "/predictions/m", {"m"})
    assert not repeatable("PUT", "/predictions/n", {"m"})
    assert not repeatable("GET", "/predictions/n", {"m"})  # TorchServe infers for GET, too
    assert repeatable("GET", "/v2/models/n", {"m"})
    assert repeatable("GET", "/ping", ())
    assert not repeatable("POST", "/v2/models/m/generate", {"m"})
    assert not repeatable("POST", "/v2/repository/models/m/load", {"m"})
    assert not repeatable("POST", "/invocations", {"m"})


def version(backend: str = "onnxruntime", size: int = 8, workers: int = 1, **more: Any) -> dict[str, Any]:
    batching = {"sequences": more.pop("sequences", False), "max_batch_size": size}
    return {
        "backend": backend,
        "decoupled": False,
        "archive": False,
        "wanted_workers": workers,
        "batching": batching,
        **more,
    }


def test_a_replica_tells_which_models_are_functions_of_their_tensors() -> None:
    models = {
        "onnx": [version(), version(size=16, workers=3)],
        "eager": [version("eager")],
        "handler": [version("handler", archive=True)],
        "python": [version("python")],
        "sequences": [version(sequences=True)],
        "mixed": [version(), version("python")],
        "unloaded": [],
    }
    status: Any = {
        "server": {"ready": True, "stopping": False, "in_flight": 7},
        "models": [{"name": name, "versions": versions} for name, versions in models.items()],
    }
    told = from_status(status, "10.0.0.1", 1, 2)
    assert told.repeatable == ("eager", "onnx")
    assert (told.ongoing, told.room, told.ready) == (7, 48, True)
    assert from_status(status, "10.0.0.1", 1, 2, ["python"]).repeatable == ("eager", "onnx", "python")
    assert from_status(status, "10.0.0.1", 1, 2, ["*"]).repeatable == tuple(sorted(models))
    status["server"]["stopping"] = True
    assert not from_status(status, "10.0.0.1", 1, 2).ready


def test_replicas_have_a_batch_each_unless_something_else_is_wanted() -> None:
    assert [wanted(ongoing, 16, 0) for ongoing in (0, 1, 16, 17, 320)] == [0, 1, 1, 2, 20]
    assert wanted(320, 16, 64) == 5


def test_the_policy_adds_up_and_waits_until_replicas_tell() -> None:
    class Context:
        target_num_replicas = 3
        aggregated_metrics: Any = None

    policy, context = OngoingRequests(), Context()
    assert policy(context) == (3, {})
    context.aggregated_metrics = {ONGOING: {"a": 60.0, "b": 40.0}, ROOM: {"a": 8.0, "b": 8.0}}
    assert policy(context) == (13, {})
