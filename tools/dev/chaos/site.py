"""The server under test and who starts it again when it has ended or no longer lives, as an orchestrator does."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from ....server.process import exits
from ...bench.ports import free_port
from . import models

#: What the server may use: few, so that its bounds are within reach.
FILES, HELD, LARGEST = 1024, 256 << 20, 32 << 20
#: Longer lines of the server's log are left out.
LINE = 1000
PORTS = ("inference", "management", "metrics")
#: A server that does not answer on its management port within so many seconds, so often in a row, is killed.
FAILURES, PROBE_S = 2, 1.0
PROPERTIES = f"""max_held_bytes={HELD}
max_request_size={LARGEST}
max_response_size={LARGEST}
default_response_timeout={models.ANSWER_S * 2}
default_startup_timeout=10
default_workers_per_model=1
disable_token_authorization=true
enable_model_api=true
load_models=digest_1.mar
unregister_model_timeout=5
"""


class Site:
    """A folder of models and the server process over it. Threads: any."""

    def __init__(self, folder: Path, front_ends: int = 2) -> None:
        self.folder, self.fronts = folder, front_ends
        self.repository, self.store = models.write(folder)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.ports = {name: free_port() for name in (*PORTS, "grpc")}
        lines = [f"{name}_address=http://127.0.0.1:{self.ports[name]}\n" for name in PORTS]
        lines.append(f"front_ends={front_ends}\n")
        lines += [f"grpc_{name}_port={free_port()}\n" for name in ("inference", "management")]
        (folder / "config.properties").write_text("".join(lines) + PROPERTIES)
        self.preloaded: Mapping[str, str] = {}  # more of the environment, from the next start on
        self.endings: list[str] = []  # how its processes ended, as far as nobody was to end them
        self.starts = 0
        self.slowness = 1.0  # how many times longer than on a free machine things may take
        self._wanted = False  # whether the end of the process is nobody's fault
        self._log = (folder / "server.log").open("wb")
        self._stop = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._supervise, name="chaos-supervisor", daemon=True)
        self._thread.start()

    # -- the server and its processes --------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self._process.pid

    def front_ends(self, kind: str = "frontends.child.main") -> list[int]:
        """Process ids of the front ends; those of gRPC with `kind` "grpc.front_end"."""
        return self._children(kind)

    def workers(self, model: str = "") -> list[int]:
        return self._children("server.worker.main", model)

    def _children(self, word: str, model: str = "") -> list[int]:
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                with contextlib.suppress(psutil.Error):
                    line = child.cmdline()
                    named = not model or any(part.startswith((f"{model}-", f"{model}_", model)) for part in line)
                    if any(word in part for part in line) and named:
                        found.append(child.pid)
        return found

    def ask(
        self, method: str, path: str, body: Any = None, port: str = "management", timeout: float = 20.0
    ) -> tuple[int, str]:
        """Status and text of an answer of the server; OSError or HTTPException where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=timeout)
        try:
            connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body).encode())
            reply = connection.getresponse()
            return reply.status, reply.read().decode(errors="replace")
        finally:
            connection.close()

    def wait(self, condition: Any, timeout: float, what: str) -> None:
        """TimeoutError naming `what` where the condition, which may raise OSError, is not true in time."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            time.sleep(0.05)
        raise TimeoutError(f"{what} did not come about within {timeout:g} s")

    def ready(self) -> bool:
        return self.ask("GET", "/v2/health/ready", port="inference", timeout=2)[0] == 200

    # -- its life ----------------------------------------------------------------------------------------------------------

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        command = [sys.executable, "-m", "jitney.server.cli", "serve", "--model-repository", str(self.repository)]
        command += ["--model-store", str(self.store), "--config", str(self.folder / "config.properties")]
        command += ["--model-control-mode=explicit", f"--grpc-port={self.ports['grpc']}"]
        command += [f"--load-model={name}" for name in ("linear", "wide", "mad", "endless")]
        environment = {**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1", **self.preloaded}
        process = subprocess.Popen(
            ["sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh", *command],
            cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._keep_log, args=(process,), name="chaos-log", daemon=True).start()
        return process

    def _keep_log(self, process: subprocess.Popen[bytes]) -> None:
        """Keeps the beginnings of the lines that the server prints: of a model that prints gigabytes the rest is of no use."""
        if process.stdout is None:
            return
        with process.stdout as lines:
            for line in iter(lambda: lines.readline(LINE), b""):
                with contextlib.suppress(ValueError):  # the run is over
                    self._log.write(line if line.endswith(b"\n") or len(line) < LINE else b"")
                    self._log.flush()

    def kill(self) -> None:
        self._wanted = True
        self._process.kill()

    def _supervise(self) -> None:
        failures, asked, lived = 0, time.monotonic(), False
        while not self._stop.wait(0.05):
            if (code := self._process.poll()) is not None:
                if not self._wanted:
                    self.endings.append(f"ended by itself: {exits.describe(code)}")
                self._wanted, self._process = False, self._start()
                failures, asked, lived = 0, time.monotonic(), False
            elif time.monotonic() >= asked:
                lives = self._lives()
                lived = lived or lives  # until then it starts, which takes its time
                failures = failures + 1 if lived and not lives else 0
                asked = time.monotonic() + 0.5
                if failures >= FAILURES:
                    self.endings.append("killed: no answer to the liveness probe")
                    self.kill()
                    self._process.wait()

    def _lives(self) -> bool:
        try:
            return self.ask("GET", "/models?limit=1", timeout=PROBE_S * self.slowness)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def close(self) -> int:
        """Ends the server in good order; its exit status. Kills it where that takes too long."""
        self._stop.set()
        self._thread.join()
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._log.close()
