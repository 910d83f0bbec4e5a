"""Starting and stopping a server from a program, as TorchServe's `ts.launcher` does it.

    start(model_store="store", models="all", disable_token=True, enable_model_api=True)
    register_model("digits", "digits.mar")
    stop()

The server is a process of its own, found again by the pid files of `jitney --start`. `start` ends the one that runs; with a
`snapshot_file`, the one at the inference address that this names. `register_model` speaks to its management API.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from .torchserve import STOP_SECONDS

__all__ = ["Answer", "NotStarted", "register_model", "register_model_with_params", "start", "stop"]

STARTED = "Model server started."
MANAGEMENT = "http://127.0.0.1:8081"
COMMAND = (sys.executable, "-m", "jitney.server.cli")


class NotStarted(RuntimeError):
    """The server ended, or was not ready in time; the text holds what it printed."""


@dataclass(frozen=True)
class Answer:
    """What the management API answered, with the names of `requests.Response`."""

    status_code: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status_code < 400

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.content)


def start(
    model_store: str | None = None,
    snapshot_file: str | None = None,
    no_config_snapshots: bool = False,
    plugin_folder: str | None = None,
    disable_token: bool = False,
    models: str | Sequence[str] | None = None,
    enable_model_api: bool = False,
    *,
    timeout: float = 300.0,
) -> queue.Queue[str | None]:
    """Starts a server, ending the one in its place, and returns when it has started: a queue of the lines that it prints, with
    None behind the last one.

    `snapshot_file` is its config.properties or a snapshot. NotStarted after `timeout` seconds, or where it ended.
    """
    stop(config=snapshot_file)
    command = [*COMMAND, "--start"]
    options = {"--model-store": model_store, "--ts-config": snapshot_file, "--plugins-path": plugin_folder}
    for option, value in options.items():
        command += [option, value] if value else []
    if models:
        command += ["--models", *([models] if isinstance(models, str) else models)]
    switches = {
        "--no-config-snapshots": no_config_snapshots,
        "--disable-token-auth": disable_token,
        "--enable-model-api": enable_model_api,
    }
    command += [switch for switch, wanted in switches.items() if wanted]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    )
    output = _Output(process)
    if not output.settled.wait(timeout):
        stop(config=snapshot_file)
    if not output.started:
        raise NotStarted("the server did not start; it printed:\n" + "".join(line for line in output.lines.queue if line))
    return output.lines


class _Output:
    """What the server prints, read on a thread until the detached process, which inherits the pipe, ends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.started = False
        self.settled = threading.Event()  # started, or ended before
        threading.Thread(target=self._read, args=(process,), name="server-output", daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        stdout: IO[str] | None = process.stdout
        if stdout is not None:
            with stdout:
                for line in stdout:
                    self._take(line)
        process.wait()
        self.lines.put(None)
        self.settled.set()

    def _take(self, line: str) -> None:
        self.lines.put(line)
        if STARTED in line and not self.settled.is_set():
            self.started = True
            self.settled.set()


def stop(wait: bool = True, *, config: str | None = None) -> None:
    """Ends the server that runs, if one does; with `wait` it returns when the process is gone.

    `config` is a config.properties: then it is the server at the inference address that this names. Without it, of several
    servers none is ended.
    """
    command = [*COMMAND, "--stop", *(["--foreground"] if wait else []), *(["--ts-config", config] if config else [])]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=STOP_SECONDS + 30)


def register_model(model_name: str, url: str, *, management: str = MANAGEMENT) -> Answer:
    """Registers a model with one worker and waits for it."""
    params = {"model_name": model_name, "url": url, "initial_workers": "1", "synchronous": "true"}
    return register_model_with_params(params, management=management)


def register_model_with_params(
    params: Mapping[str, Any] | Sequence[tuple[str, Any]], *, management: str = MANAGEMENT
) -> Answer:
    """`POST /models` with these parameters; the answer, whatever its status. OSError where no server answers."""
    pairs = params.items() if isinstance(params, Mapping) else params
    query = urllib.parse.urlencode([(name, value) for name, value in pairs if value is not None])
    request = urllib.request.Request(f"{management}/models?{query}", method="POST", data=b"")
    request.add_header("Content-Type", "application/octet-stream")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=600) as reply:
            return Answer(reply.status, reply.read(), dict(reply.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(), dict(error.headers))
