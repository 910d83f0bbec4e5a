"""The gRPC exchanges recorded from a real Triton, against a real server process.

A case that fails must stand in `DEVIATIONS` with the reason; one that stands there and passes must be taken out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jitney.tests.conformance.test_triton_replay import EXPLICIT, small_repository
from jitney.tests.fakes.recordings import recordings
from jitney.tools.bench.served import free_port, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Cases of the recordings that go otherwise here, on purpose.
DEVIATIONS = {
    "grpc__client_stream_sequence_string": "a sequence id that the model's CORRID input cannot hold is refused by name",
    "grpc__unload_needed_by_ensemble": "the error names the step that is gone",
}


@pytest.fixture(scope="module")
def kit() -> Path:
    """The folder of all of Triton's recordings."""
    found = recordings("triton").get("whole")
    if found is None:
        pytest.skip("the whole kit of recordings is not beside the project, and JITNEY_CONFORMANCE does not name it")
    return found


def replay(kit: Path, port: int, folder: Path, *arguments: str) -> dict[str, str]:
    """Runs the kit's replay; the reasons of the cases that fail, by name."""
    results = folder / "results.json"
    program = kit / "grpc" / "replay_grpc.py"
    command = [sys.executable, str(program), "--golden", str(kit / "grpc" / "golden"), "--json", str(results)]
    address = ["--grpc", f"127.0.0.1:{port}"]
    subprocess.run([*command, *address, *arguments], cwd=kit, capture_output=True, timeout=250, check=False)
    found: list[dict[str, Any]] = json.loads(results.read_text())
    assert sum(entry["result"] == "passed" for entry in found) > 0
    return {entry["name"]: entry["reason"] for entry in found if entry["result"] == "failed"}


def test_every_deviation_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    assert [name for name in DEVIATIONS if f"`{name}`" not in page] == []


def test_replay(kit: Path, tmp_path: Path) -> None:
    port = free_port()
    flags = (*EXPLICIT, "--load-model=*", "--cache-config=local,size=1048576", f"--grpc-port={port}")
    with serving(kit / "model_repository", flags=flags, grpc=True):
        failed = replay(kit, port, tmp_path, "--stateful")
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
        assert replay(kit, port, tmp_path, "--stateful", "--only", "grpc_flags") == {}
