"""A jitney that ends with the process that started it, and says why it could not start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jitney.deploy.ray.status import get_json, is_ready
from jitney.deploy.server_process import ServerEnded, ServerProcess, free_ports
from jitney.tests.fakes.metrics import STARTER
from jitney.tools.bench.served import wait_until

HOST = "127.0.0.1"


def flags(repository: Path, ports: list[int]) -> list[str]:
    names = ("--http-port", "--management-port", "--metrics-port")
    given = [part for name, port in zip(names, ports, strict=True) for part in (name, str(port))]
    return ["--model-repository", str(repository), "--allow-grpc", "false", *given]


def test_it_starts_tells_and_drains(capsys: pytest.CaptureFixture[str]) -> None:
    ports = free_ports(HOST, 3)
    server = ServerProcess(flags(STARTER, ports), os.environ)
    try:
        server.wait_started(60)
        assert is_ready(f"http://{HOST}:{ports[0]}/v2/health/ready")
        assert get_json(f"http://{HOST}:{ports[1]}/status.json")["server"]["ready"]
    finally:
        server.stop(20)
    assert server.ended
    assert not is_ready(f"http://{HOST}:{ports[0]}/v2/health/ready")
    with pytest.raises(ServerEnded, match=r"(?s)jitney has ended, exit code 0.*SIGTERM"):
        server.check()
    assert "Model server started." in capsys.readouterr().out


def test_a_server_that_wants_a_token_tells_of_itself_to_who_has_it() -> None:
    ports = free_ports(HOST, 3)
    server = ServerProcess(flags(STARTER, ports), {**os.environ, "JITNEY_TOKEN": "very-secret"})
    try:
        server.wait_started(60)
        assert is_ready(f"http://{HOST}:{ports[0]}/v2/health/ready")
        assert get_json(f"http://{HOST}:{ports[1]}/status.json", "very-secret")["models"]
        with pytest.raises(OSError, match="40"):
            get_json(f"http://{HOST}:{ports[1]}/status.json")
    finally:
        server.stop(20)


def test_a_start_that_fails_says_what_the_server_said(tmp_path: Path) -> None:
    server = ServerProcess(flags(tmp_path / "nowhere", free_ports(HOST, 3)), os.environ)
    with pytest.raises(ServerEnded, match="nowhere"):
        server.wait_started(60)
    server.stop(0)


def test_it_ends_with_its_parent() -> None:
    code = (
        "import os, sys, time; from jitney.deploy.server_process import ServerProcess as S; s = S(sys.argv[1:], os.environ);"
    )
    code += "s.wait_started(60); print('pid', s.pid, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, *flags(STARTER, free_ports(HOST, 3))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = next(int(line.split()[1]) for line in parent.stdout if line.startswith("pid "))
        child = psutil.Process(pid)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10, "the server's end")
