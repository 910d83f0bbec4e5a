"""A jitney server as its own process, for the demo, the benchmark and tests: started, waited for, stopped, never left behind."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .ports import free_port

STARTED = "Model server started."
#: Servers on this machine are asked without the proxy that the environment may name.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerFailed(RuntimeError):
    """The server ended, or did not start in time; the text holds what it printed."""


@dataclass
class ServedProcess:
    """A running server process. `lines` is what it has printed so far; addresses are base URLs."""

    process: subprocess.Popen[str]
    inference: str
    management: str
    metrics: str
    lines: list[str] = field(default_factory=list)
    _started: threading.Event = field(default_factory=threading.Event)

    def wait_started(self, timeout: float) -> None:
        """Returns when the server says that it started; raises ServerFailed with its output otherwise."""
        if not self._started.wait(timeout) or STARTED not in self.lines:
            state = (
                "did not start in time" if self.process.poll() is None else f"ended with status {self.process.returncode}"
            )
            raise ServerFailed(f"the server {state}; it printed:\n" + "\n".join(self.lines[-30:]))

    def read_output(self, echo: bool) -> None:
        """Runs on a thread of its own until the process closes its output."""
        stream = self.process.stdout
        if stream is None:
            raise ValueError("the server was started without a pipe for its output")
        for line in stream:
            self.lines.append(line.rstrip("\n"))
            if echo:
                print("  " + self.lines[-1], flush=True)
            if self.lines[-1] == STARTED:
                self._started.set()
        self._started.set()

    def get_json(self, path: str, base: str | None = None) -> Any:
        """The JSON that `GET path` answers, whatever its status."""
        try:
            with _DIRECT.open((base or self.inference) + path, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def stop(self, timeout: float = 60.0) -> int:
        """Asks the server to drain and end; its exit status. Kills it only if it does not end in time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def taken(port: int) -> bool:
    """Whether something listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def serving(
    repository: Path,
    *,
    ports: tuple[int, int, int] | None = None,
    flags: Sequence[str] = (),
    properties: str = "",
    timeout: float = 180.0,
    echo: bool = False,
    grpc: bool = False,
    folder: Path | None = None,
    torchserve: bool = False,
) -> Iterator[ServedProcess]:
    """`jitney serve` on a repository, ready to answer; stopped at the end. `properties` are lines of config.properties; `grpc`:
    whether it may serve that too, where the flags or properties say how; `torchserve`: `jitney --start` on a model store."""
    inference, management, metrics = (
        f"http://127.0.0.1:{port}" for port in ports or (free_port(), free_port(), free_port())
    )
    properties += "" if grpc else "\nallow_grpc=false\n"
    addresses = f"inference_address={inference}\nmanagement_address={management}\nmetrics_address={metrics}\n"
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(_temporary()))
        config = folder / "config.properties"
        config.write_text(addresses + properties)
        command = ["serve", "--model-repository", str(repository), "--config", str(config)]
        if torchserve:
            command = ["--start", "--foreground", "--model-store", str(repository), "--ts-config", str(config)]
        process = subprocess.Popen(
            [sys.executable, "-m", "jitney.server.cli", *command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        server = ServedProcess(process, inference, management, metrics)
        reader = threading.Thread(target=server.read_output, args=(echo,), name="server-output")
        reader.start()
        try:
            server.wait_started(timeout)
            yield server
        finally:
            server.stop()
            reader.join()
            if process.stdout is not None:
                process.stdout.close()


def _temporary() -> Any:
    import tempfile

    return tempfile.TemporaryDirectory(prefix="jitney-")


def wait_until(condition: Any, timeout: float, what: str) -> None:
    """Polls `condition` until it is true; raises TimeoutError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(0.02)
