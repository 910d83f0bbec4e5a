"""KServe v1's list of models and readiness on the port that predicts."""

import json
from typing import Any

import pytest

from jitney.server.settings.addresses import parse_address
from jitney.server.workers.status import WorkerStatus
from jitney.server.workers.worker_state import WorkerState
from jitney.tests.fakes.torchserve import echo
from jitney.tools.bench.ports import free_port


def asked(site: Any, path: str) -> tuple[int, Any]:
    answer = site.ask("inference", "GET", path)
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize("slash", ["", "/"])
def test_models_and_their_readiness(site: Any, slash: str) -> None:
    site.plane.add("another", echo)
    assert asked(site, f"/v1/models{slash}") == (200, {"models": ["another", "echo"]})
    assert asked(site, f"/v1/models/echo{slash}") == (200, {"name": "echo", "ready": True})


@pytest.mark.parametrize(
    ("state", "error", "ready"),
    [
        (None, "", False),
        (WorkerState.STARTING, "", True),  # its requests wait until it is loaded
        (WorkerState.STARTING, "no such module", False),
        (WorkerState.BACKOFF, "no such module", False),
        (WorkerState.FAILED, "no such module", False),
    ],
)
def test_an_archive_without_a_loaded_worker(site: Any, state: WorkerState | None, error: str, ready: bool) -> None:
    site.plane.loading.add("echo")
    worker = WorkerStatus(9000, "echo-0", 1, state or WorkerState.READY, 0.0, 0, None, 0, error)
    site.plane.served["echo"]["1.0"].workers = [worker] * (state is not None)
    status, document = asked(site, "/v1/models/echo")
    assert (status, document.get("ready")) == ((200, True) if ready else (503, None))
    assert ready or document["error"] == "Model with name echo is not ready."
    assert asked(site, "/v1/models") == (200, {"models": ["echo"]})


def test_a_model_that_there_is_not(site: Any) -> None:
    status, document = asked(site, "/v1/models/nosuch")
    assert (status, document["type"], document["error"]) == (404, "ModelNotFoundException", "Model not found: nosuch")


def test_a_verb_that_there_is_not(site: Any) -> None:
    answer = site.ask("inference", "POST", "/v1/models/echo:classify")
    assert (answer.status, json.loads(answer.body)["type"]) == (404, "ResourceNotFoundException")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/echo"])
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_other_methods_are_told_which_one_to_take(site: Any, path: str, method: str) -> None:
    refused = site.ask("inference", method, path)
    assert (refused.status, refused.header("allow")) == (405, "GET")


def test_on_one_port_for_both_torchserve_s_own_readiness_stays(open_site: Any) -> None:
    shared = parse_address(f"http://127.0.0.1:{free_port()}")
    site = open_site(inference_address=shared, management_address=shared)
    site.plane.loading.add("echo")
    assert asked(site, "/v1/models/echo") == (200, {"name": "echo", "ready": False})
    assert asked(site, "/v1/models") == (200, {"models": ["echo"]})
    assert site.ask("inference", "POST", "/v1/models/echo:predict", b"x").body == b"x"
