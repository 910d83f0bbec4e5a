"""The gRPC exchanges recorded from a real Triton, against a real server process.

A case that fails must stand in `DEVIATIONS` with the reason; one that stands there and passes must be taken out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.tests.conformance.replay.triton.grpc_records import replay_grpc
from jitney.tests.conformance.test_triton_replay import EXPLICIT, small_repository
from jitney.tests.fakes.recordings import recordings
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KITS = recordings("triton")
#: Cases of the recordings that go otherwise here, on purpose.
DEVIATIONS = {
    "grpc__client_stream_sequence_string": "a sequence id that the model's CORRID input cannot hold is refused by name",
    "grpc__load_unknown": "the reason stands behind Triton's words",
    "grpc__client_load_files_no_config": "the reason stands behind Triton's words",
    "grpc__unload_needed_by_ensemble": "the error names the step that is gone",
}


@pytest.fixture(scope="module", params=KITS)
def kit(request: pytest.FixtureRequest) -> Path:
    """The folder of Triton's recordings: those of the repository, then all of them where they are."""
    return KITS[request.param]


def replayed(kit: Path, port: int, group: str | None = None) -> dict[str, list[str]]:
    """Replays the usual records, or those of a group; what is different, by the names of those that fail."""
    found = dict(replay_grpc(kit / "grpc" / "golden", f"127.0.0.1:{port}", group))
    assert found
    return {name: told for name, told in found.items() if told}


def test_every_deviation_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    assert [name for name in DEVIATIONS if f"`{name}`" not in page] == []


def test_replay(kit: Path) -> None:
    port = free_port()
    flags = (*EXPLICIT, "--load-model=*", "--cache-config=local,size=1048576", f"--grpc-port={port}")
    with serving(kit / "model_repository", flags=flags, grpc=True):
        failed = replayed(kit, port)
    assert {name: reason for name, reason in failed.items() if name not in DEVIATIONS} == {}
    assert set(DEVIATIONS) - set(failed) == set(), "these deviations do not deviate any more"


def test_replay_of_restricted_calls_and_forwarded_metadata(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    repository = small_repository(kit, tmp_path / "models", "broken_init", "identity_fp32", "reqinfo")
    port = free_port()
    flags = [*EXPLICIT, "--load-model=identity_fp32", "--load-model=reqinfo", f"--grpc-port={port}"]
    flags += ["--grpc-header-forward-pattern=x-fwd-.*"]
    flags += ["--grpc-restricted-protocol=model-repository,statistics:admin-key=secret"]
    with serving(repository, flags=flags, grpc=True):
        assert replayed(kit, port, "grpc_flags") == {}
