"""A disk that is full, files that must not grow, descriptors that are used up, a clock that jumps."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .faults import Scene, Skipped, fault


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Puts a file system of 256 KiB over a folder, and fills it. Skipped where the user may not."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise Skipped(f"a small file system cannot be mounted: {mounted.stderr.decode().strip()}")
    try:
        filler = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while True:
                os.write(filler, bytes(4096))
        os.close(filler)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def refused_registration(scene: Scene) -> None:
    """Registers an archive where nothing can be written: that is refused, and says why."""
    status, text = scene.site.ask("POST", "/models?url=digest_2.mar&initial_workers=0")
    if status < 400 or not json.loads(text).get("message") or "unforeseen" in text:
        raise AssertionError(f"a registration without room answered {status} {text}")


@fault("no room for temporary files")
def fill_disk(scene: Scene) -> None:
    with full_disk(scene.site.temporary):
        refused_registration(scene)
        scene.rest(1.0)
    scene.onset()


@fault("files that must not grow", short=False)
def limit_files(scene: Scene) -> None:
    """As a quota does: every write to a file fails, in the server's process and in its workers."""
    pids = [scene.site.pid, *scene.site.workers(), *scene.site.front_ends()]
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    try:
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        scene.rest(2.0)
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    scene.onset()


@fault("no file descriptor left")
def use_up_descriptors(scene: Scene) -> None:
    """No process of the server can open anything more for a while."""
    pids = [scene.site.pid, *scene.site.front_ends(), *scene.site.front_ends("grpc.front_end")]
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    try:
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 1, hard))  # noqa: PTH208
        scene.rest(2.0)
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    scene.onset()


#: Python's own clock, set by a file: `sitecustomize` is imported before anything else in each process of the server.
_CLOCK = """
import time
real = time.time

def faked():
    try:
        with open({file!r}) as file:
            return real() + float(file.read() or 0)
    except (OSError, ValueError):
        return real()

time.time = faked
time.time_ns = lambda: int(faked() * 1e9)
"""


@fault("the clock jumps by hours and back", cuts=True, short=False)
def jump(scene: Scene) -> None:
    """The server is started anew for that with a clock that a file sets, and once more without it afterwards.

    That is `time.time` of Python, in all its processes: libfaketime 0.9.10 makes Python 3.11's `time.sleep` fail.
    """
    clock, patches = scene.site.folder / "clock", scene.site.folder / "patches"
    clock.write_text("0")
    patches.mkdir(exist_ok=True)
    (patches / "sitecustomize.py").write_text(_CLOCK.format(file=str(clock)))
    scene.site.preloaded = {"PYTHONPATH": os.pathsep.join(filter(None, [str(patches), os.environ.get("PYTHONPATH", "")]))}
    try:
        _restart(scene)
        for jumped in (7200, -7200, 864_000, -864_000, 0):
            clock.write_text(str(jumped))
            before = scene.site.starts
            scene.rest(0.7)
            scene.site.wait(scene.site.ready, 5, f"readiness after the clock's jump to {jumped} s")
            if scene.site.starts != before:
                raise AssertionError(f"the server did not live through the clock's jump to {jumped} s")
    finally:
        scene.site.preloaded = {}
        _restart(scene)
    scene.onset()


def _restart(scene: Scene) -> None:
    starts = scene.site.starts
    scene.site.kill()
    scene.site.wait(lambda: scene.site.starts > starts and scene.site.ready(), 30, "the restarted server")
