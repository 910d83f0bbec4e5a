"""A server that is started with a command of its own: by an image's entrypoint, with a manifest's arguments."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jitney.tests.fakes.torchserve_server import environment
from jitney.tools.bench.served import ServedProcess


@contextlib.contextmanager
def command_running(command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> Iterator[list[str]]:
    """What the server prints, from its start on; at the end it is stopped, which has to go well."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment(folder, **(env or {})), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    server = ServedProcess(process, "", "", "")
    reader = threading.Thread(target=server.read_output, args=(False,))
    reader.start()
    try:
        server.wait_started(60)
        yield server.lines
        assert server.stop(30) == 0, server.lines
    finally:
        server.stop(5)
        reader.join()
        if process.stdout is not None:
            process.stdout.close()
