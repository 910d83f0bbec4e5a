"""`torchserve`'s own flags: `--start` detaches a server, `--stop` ends it, `--version` tells. Texts are torchserve's.

Servers are found again by their pid files (`pid_files`): one for each user and port may run, where torchserve has one for the
machine. `--stop` ends the one that runs; where several do, the one whose inference address the configuration names.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from ... import __version__
from ...core.errors import InvalidConfig
from ..process import threads
from . import pid_files
from .pid_files import Running

#: The TorchServe release whose behaviour the compatible routes follow.
TORCHSERVE_VERSION = "0.12.0"
#: Set for the detached process, which is the same command once more.
ATTACHED = "_JITNEY_ATTACHED"
#: A word of TorchServe's own command line (its Java class), by which programs and scripts find the detached server's process.
MARK = "org.pytorch.serve.ModelServer"
STOP_SECONDS = 60
POLL_SECONDS = 0.05


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


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(list(arguments))
    if options.version:
        print(f"TorchServe Version is {TORCHSERVE_VERSION}")  # alone on standard output: scripts take its last word
        print(f"jitney {__version__}", file=sys.stderr)
        return 0
    return _stop(options) if options.stop else _start(options, list(arguments))


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    """What `Settings.load` takes: everything given but the verbs."""
    given = {name: value for name, value in vars(options).items() if value not in (None, False)}
    for verb in ("start", "stop", "version", "foreground"):
        given.pop(verb, None)
    return given


def _start(options: argparse.Namespace, arguments: list[str]) -> int:
    from ..settings.problems import access_problems, start_problems
    from ..settings.settings import Settings

    attached = os.environ.pop(ATTACHED, "")
    settings = Settings.load(_flags(options), os.environ, strict=False)
    address = str(settings.inference_address)
    if not attached and (other := _at(address, pid_files.running())) is not None:
        print("TorchServe is already running, please use torchserve --stop to stop TorchServe.", file=sys.stderr)
        print(
            f"Its process is {other.process.pid}, at {address}; another inference_address is free to take.", file=sys.stderr
        )
        return 1
    problems = _not_there(options) + start_problems(settings) + access_problems(settings)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    if options.foreground or attached:
        with threads.one_for_blas():
            from ..main import run
        if not attached:
            pid_files.write(os.getpid(), address)
        try:
            return run(settings, torchserve=True)
        finally:
            pid_files.forget(os.getpid())
    return _detach(arguments, address)


def _not_there(options: argparse.Namespace) -> list[str]:
    """What torchserve says of files and of the temporary folder that are named and are not there."""
    files = {"--log-config": options.log_config, "--cpp-log-config": options.cpp_log_config}
    missing = [
        f"{flag} file not found: {Path(name).absolute()}"
        for flag, name in files.items()
        if name and not Path(name).is_file()
    ]
    folder = os.environ.get("TEMP", "")
    if folder and not Path(folder).is_dir():
        missing.append(f"Invalid temp directory: {folder}, please check TEMP environment variable.")
    return missing


def _at(address: str, servers: Sequence[Running]) -> Running | None:
    """The server at this inference address; port 0 is any free port, so no server is there."""
    return next((server for server in servers if server.address == address and not address.endswith(":0")), None)


def _detach(arguments: list[str], address: str) -> int:
    """Starts the same command as a process of its own; its output stays on this terminal, as torchserve's does."""
    process = subprocess.Popen(
        [sys.executable, "-X", MARK, "-m", "jitney.server.cli", *arguments],
        env={**os.environ, ATTACHED: "1"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        pid_files.write(process.pid, address)
    except InvalidConfig:
        process.terminate()  # --stop would not find it
        raise
    return 0


def _stop(options: argparse.Namespace) -> int:
    server = _to_stop(options, pid_files.running())
    if server is None:
        return 0
    server.process.terminate()
    if options.foreground and not _ended(server.process, STOP_SECONDS):
        print(f"TorchServe is still answering requests after {STOP_SECONDS} s.", file=sys.stderr)
        return 1
    pid_files.forget(server.process.pid)
    print("TorchServe has stopped.")
    return 0


def _ended(process: psutil.Process, seconds: float) -> bool:
    """Waits for a process to end; one that its parent has not asked about, as in a container without an init, has ended."""
    deadline = time.monotonic() + seconds
    try:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
    except psutil.NoSuchProcess:
        pass
    return True


def _to_stop(options: argparse.Namespace, servers: Sequence[Running]) -> Running | None:
    """The server that is meant: the only one, unless --ts-config names another; of several the one that the configuration
    names. None where none runs, which is said. InvalidConfig where it is not clear which.
    """
    named = bool(options.ts_config or os.environ.get("TS_CONFIG_FILE"))
    if len(servers) == 1 and not named:
        return servers[0]
    address = _configured(options, named) if servers else ""
    found = _at(address, servers)
    others = ", ".join(f"{server.address} (process {server.process.pid})" for server in servers)
    if found is None and len(servers) > 1 and not named:
        raise InvalidConfig(f"several servers run: {others}; --ts-config FILE says which, by its inference_address")
    if found is None:
        print(f"TorchServe is not currently running{f' at {address}, but at {others}' if servers else ''}.")
    return found


def _configured(options: argparse.Namespace, named: bool) -> str:
    """The inference address of the configuration, "" where it cannot be read and was not named."""
    from ..settings.settings import Settings

    try:
        return str(Settings.load(_flags(options), os.environ, strict=False).inference_address)
    except InvalidConfig:
        if named:
            raise
        return ""
