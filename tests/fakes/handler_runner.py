"""Drives a real HandlerBackend in a process of its own: handlers change sys.path, the working directory and Pillow's limits.

run(directory, entry, batches) -> Outcome      in tests
python -m jitney.tests.fakes.handler_runner    what it starts; a job as JSON on stdin, the outcome as JSON on the last line
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Outcome:
    """`batches[b]` lists the responses of batch b in the order in which they came; `error` is load's exception."""

    batches: list[list[dict[str, Any]]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    output: str = ""

    def bodies(self, batch: int = 0) -> list[Any]:
        """Final bodies in the order of the requests: JSON where they are, else bytes; for errors their message."""
        final = sorted((r for r in self.batches[batch] if r["final"]), key=lambda r: r["index"])
        return [r["error"]["message"] if r["error"] else _parsed(r["body"]) for r in final]


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


def body(data: bytes | str, content_type: str = "", name: str = "body", **headers: str) -> dict[str, Any]:
    """A request with one part."""
    raw = data.encode() if isinstance(data, str) else data
    return {"parts": [[name, base64.b64encode(raw).decode(), content_type]], "headers": headers}


def json_body(value: Any, **headers: str) -> dict[str, Any]:
    return body(json.dumps(value), "application/json", **headers)


def unpack(archive: Path, directory: Path) -> tuple[Path, str, dict[str, Any]]:
    """A .mar's folder, handler and manifest."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(directory)
    manifest = json.loads((directory / "MAR-INF/MANIFEST.json").read_text())
    return directory, manifest["model"]["handler"], manifest


def run(
    directory: Path, entry: str, batches: list[list[dict[str, Any]]], environment: dict[str, str] | None = None, **spec: Any
) -> Outcome:
    """Loads the handler and executes the batches. `spec` are fields of HandlerSpec (manifest, yaml, envelope, …)."""
    job = {"directory": str(directory), "entry": entry, "batches": batches, "spec": spec}
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )
    if done.returncode != 0:
        raise RuntimeError(f"the runner ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    *output, last = done.stdout.splitlines()
    found = json.loads(last)
    for batch in found["batches"]:
        for response in batch:
            response["body"] = base64.b64decode(response["body"])
    return Outcome(**found, output="\n".join(output) + done.stderr)


def _main() -> None:
    import logging
    from pathlib import Path

    from jitney.backends.factory import create
    from jitney.core.model_config import HandlerSpec, ModelConfig
    from jitney.core.request import Instance, Part, Request

    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    job = json.load(sys.stdin)
    found: dict[str, Any] = {"batches": [], "metrics": [], "error": ""}

    class Host:
        def emit(self, kind: str, payload: dict[str, Any], held: bool = False) -> None:
            found["metrics"].append({"kind": kind, **payload})

        def lose(self, error: Exception) -> None:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    config = ModelConfig(
        "handled",
        "1.0",
        "handler",
        version_directory=job["directory"],
        max_batch_size=8,
        handler=HandlerSpec(job["entry"], **job["spec"]),
    )
    backend = create(config)
    backend.host = Host()  # type: ignore[assignment]
    try:
        backend.load(config, Instance("handled_0"))
    except Exception as error:  # noqa: BLE001 - what load raises is what is tested
        found["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(found))
        return
    assert Path.cwd() == Path(job["directory"]).resolve()
    for batch in job["batches"]:
        requests = [
            Request(
                id=f"id-{index}",
                parts=[Part(name, memoryview(base64.b64decode(data)), kind) for name, data, kind in request["parts"]],
                headers=request["headers"],
            )
            for index, request in enumerate(batch)
        ]
        found["batches"].append(_execute(backend, requests))
    backend.unload()
    print(json.dumps(found))


def _execute(backend: Any, requests: list[Any]) -> list[dict[str, Any]]:
    import dataclasses
    import threading

    responses: list[dict[str, Any]] = []
    over = threading.Event()

    def respond(index: int, response: Any) -> None:
        responses.append(
            {
                "index": index,
                "body": base64.b64encode(response.body or b"").decode(),
                "status": response.status,
                "reason": response.reason,
                "headers": dict(response.headers),
                "final": response.final,
                "error": dataclasses.asdict(response.error) if response.error else None,
            }
        )

        if sum(response["final"] for response in responses) == len(requests):
            over.set()

    backend.execute(requests, respond)
    over.wait(30)  # asynchronous handlers answer when they please
    return responses


if __name__ == "__main__":
    _main()
