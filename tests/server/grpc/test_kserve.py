"""jitney in Triton's place in KServe: the arguments that a ServingRuntime of protocol grpc-v2 has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tritonclient.grpc as triton

from jitney.tests.fakes.grpc import X, given, repository
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import STARTED


def test_the_arguments_that_kserve_gives_triton(tmp_path: Path) -> None:
    folder, port = repository(tmp_path / "models"), free_port()
    arguments = [f"--model-store={folder}", f"--grpc-port={port}", f"--http-port={free_port()}", "--allow-grpc=true"]
    arguments += ["--allow-http=true", f"--management-port={free_port()}", f"--metrics-port={free_port()}"]
    command = [sys.executable, "-m", "jitney.server.cli", "serve", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    try:
        printed = []
        for line in process.stdout or ():
            printed.append(line.rstrip())
            if printed[-1] == STARTED:
                break
        assert printed[-1] == STARTED, printed
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.is_server_ready()
            assert client.infer("double", [given()]).as_numpy("y").tolist() == (X * 2).tolist()
    finally:
        process.terminate()
        process.communicate(timeout=30)
