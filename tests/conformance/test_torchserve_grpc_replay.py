"""The gRPC exchanges recorded from a real TorchServe, against a real server process for each session.

A case that fails must stand in `DEVIATIONS` with the reason; one that stands there and passes must be taken out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.tests.fakes.recordings import recordings
from jitney.tools.bench.served import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
#: How the kit's program starts the server: it puts the options of each session into the braces.
SERVER = f"{sys.executable} -m jitney.server.cli --start --foreground {{config_flag}} --model-store {{model_store}} {{args}}"

NO_SEQUENCES = "sequence batching of archives is not offered"
#: Cases of the recordings that go otherwise here, on purpose.
DEVIATIONS = {
    "grpc_main.stream2_no_sequence": NO_SEQUENCES,
    "grpc_main.stream2_start_without_id": NO_SEQUENCES,
    "grpc_main.unary_sequence_model": NO_SEQUENCES,
    "grpc_v2.v2_infer_raw": "raw tensors reach the handler instead of being ignored",
    "grpc_limits.body_too_big": "a message over the limit is RESOURCE_EXHAUSTED, as gRPC has it, and no reset stream",
}


@pytest.fixture(scope="module")
def kit() -> Path:
    """The folder of all of TorchServe's recordings."""
    found = recordings("torchserve").get("whole")
    if found is None:
        pytest.skip("the whole kit of recordings is not beside the project, and JITNEY_CONFORMANCE does not name it")
    return found


def consecutive_ports() -> int:
    """A port with four more behind it: the kit counts on from one."""
    for _ in range(100):
        first = free_port()
        if first < 65_000 and all(_is_free(first + more) for more in range(1, 5)):
            return first
    raise RuntimeError("no five ports in a row are free")


def _is_free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_every_deviation_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    assert [name for name in DEVIATIONS if f"`{name}`" not in page] == []


def test_torchserve_answered_the_same(kit: Path, tmp_path: Path) -> None:
    first = consecutive_ports()
    ports = {name: f"http://127.0.0.1:{first + at}" for at, name in enumerate(("inference", "management", "metrics"))}
    command = [sys.executable, str(kit / "grpc" / "replay_grpc.py"), "--http-kit", str(kit)]
    command += ["--golden", str(kit / "grpc" / "golden" / "dev"), "--model-store", str(kit / "mars")]
    command += [part for name, url in ports.items() for part in (f"--{name}", url)]
    command += ["--mar-http-port", str(free_port()), "--workroot", str(tmp_path), "--start-cmd", SERVER]
    variables = {**os.environ, "JITNEY_ALLOW_PRIVATE_URLS": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=280, check=False)
    passed = set(re.findall(r"^ok (\S+)$", done.stdout, re.M))
    failed = dict(re.findall(r"^FAIL (\S+): (.*)$", done.stdout, re.M))
    assert f"{len(passed)} passed, {len(failed)} failed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert {name: text for name, text in failed.items() if name not in DEVIATIONS} == {}
    assert DEVIATIONS.keys() & passed == set(), "these go as on TorchServe now: take them out of DEVIATIONS"
    assert len(passed) >= 95
