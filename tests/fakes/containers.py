"""podman and buildah with a store of their own, and containers on the network of a namespace that has nothing but loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from jitney.tools.bench.served import ServedProcess, wait_until

LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))
"""

#: What a terminal is told before the line that shows progress gives way to another.
ERASED = "\x1b[K"
#: `vfs` works on any file system, but copies the whole image for each container.
DRIVER = os.environ.get("STORAGE_DRIVER", "overlay")


class Engine:
    """podman and buildah with a store of their own, and a network namespace for containers and clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ["--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", DRIVER]
        self.holder = subprocess.Popen(["unshare", "-n", "sleep", "900"])
        wait_until(lambda: Path(f"/proc/{self.holder.pid}/comm").read_text() == "sleep\n", 10, "the namespace")
        self.inside = ["nsenter", "-t", str(self.holder.pid), "-n"]
        self.call(*self.inside, sys.executable, "-c", LOOPBACK_UP)

    def call(self, *command: str, **options: object) -> str:
        env = {**os.environ, "TMPDIR": str(self.folder)}
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=500, env=env)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def podman(self, *arguments: str) -> str:
        return self.call(*self.inside, "podman", *self.store, "--runtime", "runc", *arguments)

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        """`podman run …` in the foreground, as it was typed; its output is a pipe."""
        limits = ["--network", "host", "--ulimit", "nofile=8192:8192", "--ulimit", "nproc=8192:8192"]
        command = [*self.inside, "podman", *self.store, "--runtime", "runc", "run", *limits, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def curl(self, *arguments: str) -> str:
        return self.call(*self.inside, "curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", *arguments)

    def close(self) -> None:
        subprocess.run([*self.inside, "podman", *self.store, "rm", "--all", "--force"], check=False, capture_output=True)
        self.holder.kill()
        self.holder.wait()
        for name in ("store", "run", "context"):  # gigabytes, which pytest would keep for three runs
            shutil.rmtree(self.folder / name, ignore_errors=True)


class Container:
    """A container in the foreground, started."""

    def __init__(self, engine: Engine, *arguments: str) -> None:
        self.engine = engine
        process = engine.run("--name", "mar", *arguments)
        self.server = ServedProcess(process, "", "", "")
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        """A container's terminal ends lines with CR and LF, and shows progress on its last line."""
        assert self.server.process.stdout is not None
        for line in self.server.process.stdout:
            self.server.lines.append(line.rpartition(ERASED)[2].strip())

    def __enter__(self) -> Container:
        try:
            wait_until(lambda: self._started or self.server.process.poll() is not None, 60, "the start")
            assert self._started
        except (AssertionError, TimeoutError) as error:
            self.__exit__()  # its name is the next container's
            raise AssertionError("\n".join(["the container did not start:", *self.server.lines])) from error
        return self

    @property
    def _started(self) -> bool:
        return "Model server started." in self.server.lines

    def __exit__(self, *_: object) -> None:
        subprocess.run(
            [*self.engine.inside, "podman", *self.engine.store, "rm", "--force", "--time", "1", "mar"],
            check=False,
            capture_output=True,
        )
        self.server.process.wait(30)
        self.reader.join()
        if self.server.process.stdout is not None:
            self.server.process.stdout.close()
