"""A server whose every file system but the temporary folder is read-only, as in a container with a read-only root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from jitney.server.process import sandbox
from jitney.tests.fakes.plane import doubling
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess

START = """
import sys
from jitney.server.process import sandbox
sandbox.restrict()
from jitney.server.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
BODY = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'


@pytest.mark.skipif(bool(sandbox.problem("files")), reason=sandbox.problem("files"))
def test_a_read_only_root_is_enough(tmp_path: Path) -> None:
    doubling(tmp_path / "models", "m")
    for name in ("tmp", "work"):
        (tmp_path / name).mkdir()
    ports = [free_port() for _ in range(3)]
    flags = [f"--{name}-port={port}" for name, port in zip(("http", "management", "metrics"), ports, strict=True)]
    with subprocess.Popen(
        [sys.executable, "-c", START, "serve", "--model-repository", str(tmp_path / "models"), "--allow-grpc=false", *flags],
        cwd=tmp_path / "work", env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        server = ServedProcess(process, f"http://127.0.0.1:{ports[0]}", "", "")
        reader = threading.Thread(target=server.read_output, args=(False,))
        reader.start()
        try:
            server.wait_started(60)
            request = urllib.request.Request(f"{server.inference}/v2/models/m/infer", BODY)
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
                assert json.load(reply)["outputs"][0]["data"] == [2.0, 4.0]
        finally:
            assert server.stop(30) == 0, server.lines
            reader.join()
    assert not any(word in line for line in server.lines for word in ("Permission denied", "Traceback", "Read-only"))
    assert list((tmp_path / "work").iterdir()) == [] and list((tmp_path / "tmp").iterdir()) == []
