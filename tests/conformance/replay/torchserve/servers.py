"""The server of a session, and a download server for archives."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jitney.tools.bench.ports import free_port

from .wire import Message

PORTS = ("inference", "management", "metrics")


@contextlib.contextmanager
def download_server(folder: Path) -> Iterator[str]:
    """Serves a folder's archives under any path; `remote_X.mar` is X.mar. Its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = Path(urllib.parse.urlsplit(self.path).path).name.removeprefix("remote_")
            if not (path := folder / name).is_file():
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            if self.command == "GET":
                with path.open("rb") as archive:
                    shutil.copyfileobj(archive, self.wfile)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def configuration(session: Message, urls: Mapping[str, str]) -> str | None:
    """The session's config.properties; None where it starts without one."""
    text: str | None = session["launch"]["config"]
    if text is None:
        return None
    for port in PORTS:
        text = text.replace(f"{{{{{port}_address}}}}", urls[port])
    for api in ("grpc_inference", "grpc_management"):
        number = urllib.parse.urlsplit(urls[api]).port if api in urls else free_port()
        text = text.replace(f"{{{{{api}_port}}}}", str(number))
    return text


class SessionServer:
    """The server under test, started in a directory of its own as the session says.

    command   what starts a server in the foreground; TorchServe's flags are appended
    """

    def __init__(
        self, command: Sequence[str], session: Message, urls: Mapping[str, str], archives: Path, folder: Path,
        environment: Mapping[str, str],
    ) -> None:  # fmt: skip
        launch = session["launch"]
        self.workdir = folder / session["name"]
        self.model_store = self.workdir / "model_store"
        temporary = self.workdir / "tmp"
        for path in (temporary, self.model_store):
            path.mkdir(parents=True, exist_ok=True)
        for path in archives.glob("*.mar"):
            if (launch.get("mars") is None or path.name in launch["mars"]) and not (self.model_store / path.name).exists():
                (self.model_store / path.name).symlink_to(path.resolve())
        line = [*command, "--model-store", str(self.model_store), *launch.get("args", [])]
        if (text := configuration(session, urls)) is not None:
            config = self.workdir / "session-config.properties"
            config.write_text(text)
            line += ["--ts-config", str(config)]
        self._places = [(str(url.hostname), url.port) for url in map(urllib.parse.urlsplit, urls.values())]
        self._log = self.workdir / f"server-{session['name']}.log"
        variables = {**os.environ, **environment, "TEMP": str(temporary), "TMPDIR": str(temporary)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                line, cwd=self.workdir, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self) -> SessionServer:
        try:
            self._wait_until(listening=True, seconds=120)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until(self, listening: bool, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for place in self._places:
            while _listens(place) != listening:
                if time.monotonic() > deadline or (listening and self._process.poll() is not None):
                    raise AssertionError(
                        f"the server did not {'start' if listening else 'end'}: {self._log.read_text()[-3000:]}"
                    )
                time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, as an operator stops it; SIGKILL where that is not enough."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._wait_until(listening=False, seconds=15)


def _listens(place: tuple[str, int | None]) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((place[0], place[1] or 80), timeout=1).close()
        return True
    return False


def wait_for_port(address: str, seconds: float = 60) -> None:
    """Until something listens at host and port."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while not _listens((host, int(port))):
        assert time.monotonic() < deadline, f"nothing listens on {address}"
        time.sleep(0.1)
