"""Fixtures and rules shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Tests of real processes whose outcome also depends on when the machine gives them a core: what they time or interleave can
#: be upset by other programs. One that fails is tried again, twice at most; each failure is reported.
TIMED = (
    "conformance/",
    "server/cli/test_main.py",
    "server/frontends/",
    "server/http/",
    "server/lifecycle/test_management.py",
    "server/lifecycle/test_model_control.py",
    "server/serving/test_ensemble.py",
    "server/serving/test_sequence_deployment.py",
    "server/serving/test_worker_deployment.py",
    "server/test_kills.py",
    "server/test_main_job.py",
    "server/test_readiness.py",
    "server/test_reloads.py",
    "server/workers/test_pool",
    "tools/",
)


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
        if item.path.relative_to(here).as_posix().startswith(TIMED):
            item.add_marker(pytest.mark.flaky(reruns=2))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _cuda_missing()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
