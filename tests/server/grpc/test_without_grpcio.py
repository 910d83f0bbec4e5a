"""Where grpcio is missing HTTP is served, and a line says how to get gRPC; where it is there, the scheduler does not load it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jitney.server.grpc import listener
from jitney.tests.fakes.grpc import repository
from jitney.tools.bench.ports import free_port

#: Runs `jitney serve` as if a package were not installed, or told that it was loaded.
WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "grpc" else find(name, *more)
from jitney.server.cli.main import main
sys.exit(main())
"""
SCHEDULER = """
import sys
from jitney.server.http import app
from jitney.server import main
from jitney.server.grpc import controls, listener, schema
schema.triton(), schema.torchserve()
assert not {"grpc", "tritonclient", "tritonclient.grpc"} & sys.modules.keys()
print("fine")
"""


def test_the_schedulers_process_does_not_load_grpcio() -> None:
    done = subprocess.run([sys.executable, "-c", SCHEDULER], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_without_the_package_a_line_says_how_to_get_it(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    ports = [f"--{name}-port={free_port()}" for name in ("http", "management", "metrics", "grpc")]
    command = [sys.executable, "-c", WITHOUT, "serve", f"--model-repository={folder}", *ports, "--models=sum"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    try:
        printed = []
        for line in process.stdout or ():
            printed.append(line)
            if line == "Model server started.\n":
                break
        said = "".join(printed)
        assert said.endswith("Model server started.\n"), said
        port = ports[3].partition("=")[2]
        told = f"gRPC is not served (127.0.0.1:{port}), HTTP is: it needs a package more, {listener.INSTALL}"
        assert told in said
        assert "bind to: 127.0.0.1" not in said.replace("API bind to: http", "")
    finally:
        process.terminate()
        process.communicate(timeout=30)
