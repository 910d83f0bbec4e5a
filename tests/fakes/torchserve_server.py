"""A real server, started as `torchserve` is: a process of its own in a folder of its own, over a store of small archives."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import Any

from jitney.server.settings.addresses import Address, parse_address
from jitney.tests.fakes.raw_http import Answer, ask
from jitney.tools.archive import ModelArchiverConfig, generate_model_archive
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess

#: Answers each request with its body in capitals, and with the archive's version where `version` is asked.
CAPITALS = """
def handle(data, context):
    if data is None:
        return None
    answers = []
    for row in data:
        body = row.get("body") or row.get("data") or b""
        text = body if isinstance(body, str) else bytes(body).decode()
        answers.append(context.manifest["model"]["modelVersion"] if text == "version" else text.upper())
    return answers
"""
COMMAND = [sys.executable, "-m", "jitney.server.cli"]


def archive(store: Path, name: str, source: str = CAPITALS, version: str = "1.0", **options: Any) -> Path:
    """Packs a handler's source into `store/FILE.mar`; `entry` is the handler's function, "" for a module with a class."""
    store.mkdir(exist_ok=True)
    code = store.parent / f"{name}_handler.py"
    code.write_text(source)
    file = options.pop("file", name)
    entry = options.pop("entry", "handle")
    handler, packed = f"{code}:{entry}" if entry else str(code), store.parent / "packed"
    made = generate_model_archive(ModelArchiverConfig(name, version, handler, export_path=str(packed), **options))
    return made.rename(store / f"{file}.mar")


@dataclass
class Site:
    """A running server: `folder` is its working directory, `server` its process and what it printed."""

    folder: Path
    server: ServedProcess
    addresses: Mapping[str, Address]

    def ask(self, port: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.addresses[port], method, path, body, named, timeout=60)

    def predict(self, model: str, body: bytes = b"", **headers: str) -> Answer:
        return self.ask("inference", "POST", f"/predictions/{model}", body, **headers)

    def manage(self, method: str, path: str) -> tuple[int, Any]:
        answer = self.ask("management", method, path)
        return answer.status, json.loads(answer.body)

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name).read_text()


def properties(**more: str) -> tuple[str, dict[str, Address]]:
    """Lines of config.properties with three free ports of loopback, and the addresses."""
    addresses = {port: Address("http", "127.0.0.1", free_port()) for port in ("inference", "management", "metrics")}
    lines = {"allow_grpc": "false"} | {f"{port}_address": str(address) for port, address in addresses.items()} | more
    return "".join(f"{key}={value}\n" for key, value in lines.items()), addresses


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The process's environment: a temporary folder of its own keeps pid files and unpacked archives apart."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", **more}


@contextlib.contextmanager
def running(
    folder: Path,
    arguments: Sequence[str] = ("--ncs",),
    *,
    env: Mapping[str, str] | None = None,
    addresses: Mapping[str, Address] | None = None,
    **settings: str,
) -> Iterator[Site]:
    """`jitney --start --foreground` over `folder/store`; ends it, and checks that it ended well.

    With `addresses`, those of an earlier run, no config.properties is named: the server finds its last snapshot.
    """
    command = [*COMMAND, "--start", "--foreground", "--model-store", str(folder / "store")]
    if addresses is None:
        text, made = properties(**settings)
        addresses = made | {k.removesuffix("_address"): parse_address(v) for k, v in settings.items() if "_address" in k}
        config = folder / "settings.properties"
        config.write_text(text)
        command += ["--ts-config", str(config)]
    process = Popen(
        [*command, *arguments], cwd=folder, env=environment(folder, **(env or {})), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
        text=True,
    )  # fmt: skip
    inference, management, metrics = (str(addresses[port]) for port in ("inference", "management", "metrics"))
    server = ServedProcess(process, inference, management, metrics)
    reader = threading.Thread(target=server.read_output, args=(False,))
    reader.start()
    try:
        server.wait_started(60)
        yield Site(folder, server, addresses)
        assert server.stop(30) == 0, server.lines
    finally:
        server.stop(5)
        reader.join()
        if process.stdout is not None:
            process.stdout.close()
