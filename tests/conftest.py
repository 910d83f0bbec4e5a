"""Fixtures and rules shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Where the machine's clock decides, which other programs can upset, and what it decides there. A test of these that fails is
#: tried again, twice at most; each failure is reported.
TIMED = {
    "conformance/": "which requests of a burst share a batch; answers within the limits of a recorded session",
    "server/frontends/test_endings.py": "answers under load while processes are killed and replaced",
    "server/frontends/test_front_ends.py": "how connections spread over processes that accept from one socket",
    "server/grpc/test_load.py": "deadlines and cancellations that race with answers",
    "server/http/engine/": "connections that are closed after fractions of a second",
    "server/http/kserve/test_tritonclient.py": "timeouts of the client against the model's sleep",
    "server/http/kserve/test_client_methods.py": "timeouts of the client against the model's sleep",
    "server/http/test_hostile_server.py": "clients that send slowly, against limits of a second",
    "server/grpc/test_draining.py": "clients that send at the moment at which they are told to go",
    "server/grpc/test_pressure.py": "when grpcio frees what ended calls held, which it does not always do (docs/limits.md)",
    "server/lifecycle/test_management.py": "loads that are given up after a second",
    "server/serving/test_on_demand.py": "models that go after a tenth of a second without a request",
    "server/serving/test_sequence_deployment.py": "which requests share a batch while a worker sleeps for milliseconds",
    "server/serving/test_worker_deployment.py": "which requests share a batch while a worker sleeps for milliseconds",
    "server/test_kills.py": "answers under load while workers are killed",
    "server/test_main_job.py": "latencies under load",
    "server/test_reloads.py": "answers under load while models are replaced",
    "server/workers/test_pool": "limits of tenths of a second on loading and answering",
    "server/workers/test_shared_process.py": "limits of tenths of a second on loading and answering",
    "tools/bench/": "measured times, compared with theory",
    "tools/dev/": "measured times, compared with theory",
    "tools/tune/": "measured times, compared with one another",
}


def _cuda_missing() -> str | None:
    """The reason why gpu-marked tests cannot run here, or None."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else "no CUDA device on this machine"


@pytest.fixture(scope="session")
def served_metrics() -> str:
    """/metrics of a server that has answered one request."""
    from jitney.tests.fakes.metrics import scraped

    return scraped()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(tuple(TIMED)):
            item.add_marker(pytest.mark.flaky(reruns=2))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _cuda_missing()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
