"""Runs the examples of a page as somebody would who follows it, in a folder that looks like a checkout."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from jitney.tests.fakes.pages import PYTHON, ROOT, Block
from jitney.tests.fakes.torchserve_server import environment
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess

#: The ports that pages name; where a test runs them each is another, free one.
PORTS = ("8080", "8081", "8082", "8000", "8001", "8002")
_PORT = re.compile(rf"(?<![\d.])(?:{'|'.join(PORTS)})(?!\d)")
STARTED_SECONDS, RUN_SECONDS = 120.0, 110.0


class ExampleFailed(AssertionError):
    """An example did not do what its page says; the text has what it printed."""


class Runner:
    """The state that the examples of one page share: a folder, ports, the server that runs, what was printed last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.printed = folder, ""
        self._ports = {port: str(free_port()) for port in PORTS}
        self._server: ServedProcess | None = None
        self._stack = contextlib.ExitStack()
        for path in ROOT.iterdir():
            if path.name not in (".git", ".cache", "logs", "models", "model_store"):
                (folder / path.name).symlink_to(path)
        self._environ = environment(
            folder,
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            JITNEY_INFERENCE_ADDRESS=f"http://127.0.0.1:{self._ports['8080']}",
            JITNEY_MANAGEMENT_ADDRESS=f"http://127.0.0.1:{self._ports['8081']}",
            JITNEY_METRICS_ADDRESS=f"http://127.0.0.1:{self._ports['8082']}",
            JITNEY_GRPC_PORT=self._ports["8001"],
            LOG_LOCATION=str(folder / "logs"),
        )

    def close(self) -> None:
        self._stack.close()

    def follow(self, block: Block) -> None:
        """Does what one block asks for. ExampleFailed where that does not go as the page says."""
        text = _PORT.sub(lambda found: self._ports[found[0]], block.text)
        match block.mark:
            case "run":
                self._run(block, text)
            case "serve":
                self._serve(block, text)
            case "answer":
                self._compare(block)
            case "file":
                target = self.folder / block.note
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.text)

    def _command(self, block: Block, text: str) -> list[str]:
        if block.language in PYTHON:
            return [sys.executable, "-c", text]
        if block.language in ("js", "javascript"):
            return [shutil.which("node") or "node", "--input-type=module", "-e", text]
        return ["bash", "-euo", "pipefail", "-c", re.sub(r"^\$ ", "", text, flags=re.MULTILINE)]

    def _run(self, block: Block, text: str) -> None:
        done = subprocess.run(
            self._command(block, text), cwd=self.folder, env=self._environ, stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
        self.printed = done.stdout
        if done.returncode:
            raise ExampleFailed(
                f"{block.place} ended with status {done.returncode}:\n{done.stdout}{done.stderr}{self._lines()}"
            )

    def _serve(self, block: Block, text: str) -> None:
        self._stack.close()
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"exec {text.strip()}"], cwd=self.folder, env=self._environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._server = ServedProcess(process, "", "", "")
        self._stack.enter_context(_ended(self._server))
        self._server.wait_started(STARTED_SECONDS)

    def _lines(self) -> str:
        return "\n" + "\n".join(self._server.lines) if self._server is not None else ""

    def _compare(self, block: Block) -> None:
        """Whether what was printed last has the block's lines in their order. A line of `…` stands for any."""
        printed = self.printed
        for name, port in self._ports.items():
            printed = re.sub(rf"(?<!\d){port}(?!\d)", name, printed)
        at = 0
        for line in block.text.splitlines():
            if line.strip() in ("", "…"):
                continue
            pattern = ".*".join(re.escape(part) for part in re.sub(r"\s+", " ", line.strip()).split("…"))
            found = re.search(rf"^{pattern.replace(chr(92) + ' ', r'[ ]+')}$", _tidy(printed)[at:], re.MULTILINE)
            if found is None:
                raise ExampleFailed(f"{block.place}: {line.strip()!r} is not printed, but\n{printed}{self._lines()}")
            at += found.end()


def _tidy(printed: str) -> str:
    return "\n".join(re.sub(r"\s+", " ", line.strip()) for line in printed.splitlines())


@contextlib.contextmanager
def _ended(server: ServedProcess) -> Iterator[None]:
    """Ends a server and reads what it prints; it has to end well."""
    reader = threading.Thread(target=server.read_output, args=(False,))
    reader.start()
    try:
        yield
    finally:
        ended = server.stop(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        reader.join()
        if server.process.stdout is not None:
            server.process.stdout.close()
    if ended:
        raise ExampleFailed(f"the server ended with status {ended}:\n" + "\n".join(server.lines))
