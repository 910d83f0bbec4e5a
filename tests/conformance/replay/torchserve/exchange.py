"""A recorded request, sent again, and its answer in the form of the recordings."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .wire import READ_TIMEOUT, Message, TimedOut, Wire

#: Longer bodies are recorded by length and hash, very long JSON by its shape.
LONG_TEXT, LONG_JSON = 60_000, 500_000


@dataclass
class Run:
    """What a session's requests refer to.

    urls         of the APIs: inference, management, metrics
    recordings   the folder in which `inputs` lies
    workdir, model_store   of the server;  archives: where archives can be downloaded
    saved        tokens of earlier steps
    """

    urls: dict[str, str]
    recordings: Path
    workdir: Path
    model_store: Path
    archives: str
    saved: dict[str, str] = field(default_factory=dict)
    failed_waits: int = 0

    def address(self, port: str) -> tuple[str, int]:
        parts = urllib.parse.urlsplit(self.urls[port])
        return str(parts.hostname), parts.port or 80

    def tokens(self) -> dict[str, str]:
        path = self.workdir / "key_file.json"
        if not path.exists():
            return {}
        keys = json.loads(path.read_text())
        return {name: keys[spelled]["key"] for name, spelled in (("inference",) * 2, ("management",) * 2, ("api", "API"))}

    def _places(self) -> dict[str, str]:
        return {
            "{{mar_http}}": self.archives,
            "{{model_store}}": str(self.model_store),
            "{{workdir}}": str(self.workdir),
        }

    def expand(self, text: str) -> str:
        """Puts this run's places and keys where the recordings have placeholders."""
        if "{{" not in text:
            return text
        values = self._places() | {f"{{{{{name}}}}}": value for name, value in self.saved.items()}
        if "{{key:" in text:
            values |= {f"{{{{key:{name}}}}}": value for name, value in self.tokens().items()}
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        return text

    def collapse(self, text: str) -> str:
        """The reverse, for what was received."""
        for placeholder, value in self._places().items():
            text = text.replace(value, placeholder)
        return text

    def input(self, name: str) -> bytes:
        """A file of the recordings. A picture's base64 text is made from the picture."""
        path = self.recordings / name
        if path.suffix == ".b64" and not path.exists():
            return base64.b64encode(path.with_suffix(".jpg").read_bytes())
        return path.read_bytes()


def body_bytes(body: Message | None, run: Run) -> tuple[bytes | None, list[list[str]]]:
    """Bytes and extra headers of a recorded request body."""
    if body is None:
        return None, []
    if "text" in body:
        return run.expand(body["text"]).encode(), []
    if "json" in body:
        return run.expand(json.dumps(body["json"])).encode(), []
    if "b64" in body:
        return base64.b64decode(body["b64"]), []
    if "fill" in body:
        return (body["fill"] * body["length"]).encode(), []
    if "file" in body:
        return run.input(body["file"]), []
    boundary = body["multipart"]["boundary"]
    data = b""
    for part in body["multipart"]["parts"]:
        lines = "".join(f"{name}: {value}\r\n" for name, value in part["headers"])
        content, _ = body_bytes(part["body"], run)
        data += f"--{boundary}\r\n{lines}\r\n".encode() + (content or b"") + b"\r\n"
    return data + f"--{boundary}--\r\n".encode(), [["Content-Type", f"multipart/form-data; boundary={boundary}"]]


def build(request: Message, run: Run) -> tuple[bytes, bytes]:
    """Head and body of a request, as they are sent."""
    host, port = run.address(request["port"])
    data, extra = body_bytes(request.get("body"), run)
    headers = [[name, run.expand(value)] for name, value in request.get("headers", [])]
    names = {name.lower() for name, _ in headers}
    if "host" not in names and not request.get("no_host"):
        headers.insert(0, ["Host", f"{host}:{port}"])
    headers += [[name, value] for name, value in extra if name.lower() not in names]
    chunk = request.get("chunked")
    if chunk:
        headers.append(["Transfer-Encoding", "chunked"])
    elif data is not None and "content-length" not in names:
        headers.append(["Content-Length", str(len(data))])
    head = f"{request['method']} {run.expand(request['path'])} {request.get('version', 'HTTP/1.1')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    if chunk and data is not None:
        pieces = [data[start : start + chunk] for start in range(0, len(data), chunk)]
        data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return head.encode(), data or b""


def finish(answer: Message, run: Run) -> Message:
    """Turns an answer that was read into its recorded form."""
    raw: bytes | None = answer.pop("raw", None)
    if raw is None:
        return answer
    try:
        text = run.collapse(raw.decode())
    except UnicodeDecodeError:
        return answer | {"body_b64": base64.b64encode(raw).decode()}
    if text.strip():
        with contextlib.suppress(ValueError):
            answer["body_json"] = json.loads(text)
    if len(text) <= LONG_TEXT:
        answer["body_text"] = text
        return answer
    answer["body_length"] = len(raw)
    if "body_json" not in answer:
        answer |= {"body_sha256": hashlib.sha256(raw).hexdigest(), "body_text": text[:2000] + "..."}
    elif len(text) > LONG_JSON:
        answer["body_shape"] = shape_of(answer.pop("body_json"))
    return answer


def shape_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shape_of(item) for name, item in value.items()}
    if isinstance(value, list):
        return ["list", len(value), shape_of(value[0]) if value else None]
    return type(value).__name__


def exchange(request: Message, run: Run, wire: Wire | None = None, probe_close: bool = True) -> Message:
    """Sends a request, on a connection of its own or this one, and reads its answer."""
    began, opened = time.monotonic(), None
    try:
        head, data = build(request, run)
        if wire is None:
            wire = opened = Wire(run.address(request["port"]), request.get("timeout", READ_TIMEOUT))
        if any(name.lower() == "expect" for name, _ in request.get("headers", [])):
            answer = _expectant(request, wire, head, data)
        else:
            wire.send(head + data)
            answer = wire.read_response(request["method"])
        answer["elapsed_ms"] = _since(began)
        if probe_close and answer.get("status") is not None:
            answer["server_closed"] = wire.closed_by_server()
    except TimedOut:
        answer = {"status": None, "timed_out": True, "elapsed_ms": _since(began)}
    except OSError as error:
        answer = {"status": None, "error": type(error).__name__, "elapsed_ms": _since(began)}
    finally:
        if opened is not None:
            opened.close()
    return finish(answer, run)


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)


def _expectant(request: Message, wire: Wire, head: bytes, data: bytes) -> Message:
    """As curl does it: the body follows after "100 Continue", or after one second."""
    wire.send(head)
    wire.socket.settimeout(1.0)
    first: Message | None = {"status": 0}
    with contextlib.suppress(TimedOut):
        first = wire.read_head()
    wire.socket.settimeout(request.get("timeout", READ_TIMEOUT))
    if first is None:
        return {"status": None, "closed_without_response": True}
    if first["status"] not in (0, 100):  # a final answer, before the body was sent
        length = {name.lower(): value for name, value in first["headers"]}.get("content-length", "0")
        return first | {"raw": wire.exactly(int(length)), "before_body": True}
    wire.send(data)
    answer = wire.read_response(request["method"])
    if first["status"] == 100:
        answer["interim"] = [100, *answer.get("interim", [])]
    return answer
