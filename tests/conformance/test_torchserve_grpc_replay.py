"""The gRPC exchanges recorded from a real TorchServe, against a real server process for each session.

A case that fails must stand in `DEVIATIONS` with the reason; one that stands there and passes must be taken out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.tests.conformance.replay.torchserve.grpc_session import GrpcRecordings
from jitney.tests.conformance.test_torchserve_replay import ENVIRONMENT, SERVER
from jitney.tests.fakes.recordings import recordings
from jitney.tools.bench.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KITS = recordings("torchserve")

#: Cases of the recordings that go otherwise here, on purpose.
DEVIATIONS = {
    "grpc_v2.v2_infer_raw": "raw tensors reach the handler instead of being ignored",
    "grpc_limits.body_too_big": "a message over the limit is RESOURCE_EXHAUSTED, as gRPC has it, and no reset stream",
}


@pytest.fixture(scope="module", params=KITS)
def kit(request: pytest.FixtureRequest) -> Path:
    """The folder of TorchServe's recordings: those of the repository, then all of them where they are."""
    return KITS[request.param]


def test_every_deviation_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    assert [name for name in DEVIATIONS if f"`{name}`" not in page] == []


def test_torchserve_answered_the_same(kit: Path, tmp_path: Path) -> None:
    urls = {name: f"http://127.0.0.1:{free_port()}" for name in ("inference", "management", "metrics")}
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("inference", "management")}
    found = dict(GrpcRecordings(kit).replay(SERVER, urls, addresses, tmp_path, ENVIRONMENT))
    failed = {name: told for name, told in found.items() if told}
    assert {name: told for name, told in failed.items() if name not in DEVIATIONS} == {}
    assert set(DEVIATIONS) - set(failed) == set(), "these go as on TorchServe now: take them out of DEVIATIONS"
    assert len(found) >= 100
