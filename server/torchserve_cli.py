"""`torchserve`'s own flags: `--start` detaches a server, `--stop` ends it, `--version` tells. Texts are torchserve's.

The pid of the server lies in `.model_server.pid` in the temporary folder, as torchserve's does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from .. import __version__
from . import threads

#: The TorchServe release whose behaviour the compatible routes follow.
TORCHSERVE_VERSION = "0.12.0"
#: Set for the detached process, which is the same command once more.
ATTACHED = "_JITNEY_ATTACHED"
STOP_SECONDS = 60


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="torchserve", description="Start and stop the model server, with torchserve's flags."
    )
    action = made.add_mutually_exclusive_group()
    action.add_argument("-v", "--version", action="store_true", help="print the version and end")
    action.add_argument("--start", action="store_true", help="start the server (the default)")
    action.add_argument("--stop", action="store_true", help="stop the server")
    add = made.add_argument
    add("--ts-config", metavar="FILE", help="config.properties")
    add("--model-store", metavar="DIR", help="folder of model archives")
    add("--workflow-store", metavar="DIR", help="accepted; workflows are not served")
    add("--models", nargs="+", metavar="NAME=FILE", help="archives to load at start: all, a.mar, name=a.mar, name=URL")
    add("--log-config", metavar="FILE", help="logging configuration (Python's JSON or YAML form)")
    add("--cpp-log-config", metavar="FILE", help="accepted; there is no C++ backend")
    add("--foreground", action="store_true", help="do not detach")
    add("--no-config-snapshots", "--ncs", action="store_true", help="neither write nor restore snapshots")
    add("--plugins-path", "--ppath", metavar="JARS", help="accepted; Java plug-ins cannot be loaded")
    add("--disable-token-auth", "--dt", action="store_true", help="no token authorization")
    add("--enable-model-api", action="store_true", help="allow registering and unregistering over the API")
    return made


def pid_file() -> Path:
    return Path(tempfile.gettempdir()) / ".model_server.pid"


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(list(arguments))
    if options.version:
        print(f"TorchServe Version is {TORCHSERVE_VERSION} (jitney {__version__})")
        return 0
    return _stop(options.foreground) if options.stop else _start(options, list(arguments))


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    """What `Settings.load` takes: everything given but the verbs."""
    given = {name: value for name, value in vars(options).items() if value not in (None, False)}
    for verb in ("start", "stop", "version", "foreground"):
        given.pop(verb, None)
    return given


def _start(options: argparse.Namespace, arguments: list[str]) -> int:
    from .settings import Settings, access_problems, start_problems

    attached = os.environ.pop(ATTACHED, "")
    if not attached and (running := _running()) is not None:
        print("TorchServe is already running, please use torchserve --stop to stop TorchServe.", file=sys.stderr)
        print(f"Its process is {running.pid}, by {pid_file()}.", file=sys.stderr)
        return 1
    settings = Settings.load(_flags(options), os.environ)
    problems = start_problems(settings) + access_problems(settings)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    if options.foreground or attached:
        with threads.one_for_blas():
            from .main import run
        if not attached:
            pid_file().write_text(str(os.getpid()))
        try:
            return run(settings, torchserve=True)
        finally:
            _forget(os.getpid())
    return _detach(arguments)


def _detach(arguments: list[str]) -> int:
    """Starts the same command as a process of its own; its output stays on this terminal, as torchserve's does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jitney.server.cli", *arguments],
        env={**os.environ, ATTACHED: "1"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    pid_file().write_text(str(process.pid))
    return 0


def _running() -> psutil.Process | None:
    """The server that the pid file names, if it still runs; an orphan file is removed."""
    try:
        process = psutil.Process(int(pid_file().read_text()))
        if process.status() != psutil.STATUS_ZOMBIE and "jitney" in " ".join(process.cmdline()):
            return process
    except FileNotFoundError:
        return None
    except (ValueError, psutil.Error):
        pass
    print("Removing orphan pid file.", file=sys.stderr)
    pid_file().unlink(missing_ok=True)
    return None


def _forget(pid: int) -> None:
    """Removes the pid file, unless another server has written it since."""
    try:
        if pid_file().read_text() == str(pid):
            pid_file().unlink(missing_ok=True)
    except FileNotFoundError:
        pass


def _stop(foreground: bool) -> int:
    process = _running()
    if process is None:
        print("TorchServe is not currently running.")
        return 0
    folder = Path(process.cwd())
    process.terminate()
    if foreground:
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            print(f"TorchServe is still answering requests after {STOP_SECONDS} s.", file=sys.stderr)
            return 1
    _forget(process.pid)
    (folder / "key_file.json").unlink(missing_ok=True)
    print("TorchServe has stopped.")
    return 0
