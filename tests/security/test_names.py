"""Holes 3, 10, 11, 16: no name and no path of a client's leads anywhere, by whichever dialect and protocol it comes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitney.server.grpc import schema
from jitney.tests.security.conftest import Everything

TRITON = "inference.GRPCInferenceService"
NAMES = (
    "..",
    ".",
    "../m",
    "../../etc",
    "m/../../m",
    "/etc",
    "/m",
    "a\0b",
    "a b",
    " ",
    ' ".."',
    "..\\m",
    "~root",
    "m\n",
    "-",
    "\u202em",
    "x" * 500,
)
PATHS = ("../model.py", "/etc/passwd", "1/../../model.py", "", "1//..//x", ".", "1/" * 5000, "..", "1\0/model.py")
CONFIG = json.dumps(
    {
        "backend": "python",
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
    }
)


def seen(folder: Path) -> dict[str, str]:
    """Every file of the repository, the store and what is beside them, but for logs, with its content's digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if (path.is_file() and place.parts[0] in ("models", "store")) or path.is_symlink():
            found[str(place)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(autouse=True)
def nothing_is_written(server: Everything) -> Iterator[None]:
    before = seen(server.folder)
    temporary = sorted(path.name for path in (server.folder / "tmp").iterdir())
    yield
    assert seen(server.folder) == before
    assert sorted(path.name for path in (server.folder / "tmp").iterdir()) == temporary


def quoted(name: str) -> str:
    return "".join(f"%{byte:02x}" for byte in name.encode())


def triton(server: Everything, called: str, **fields: Any) -> tuple[str, str]:
    method = schema.triton().methods[TRITON][called]
    return server.call("triton", method, method.request(**fields))


@pytest.mark.parametrize("name", NAMES)
def test_names_over_http(server: Everything, name: str) -> None:
    """Raw bytes where a request line can hold them, and percent-encoded."""
    for form in {
        quoted(name),
        name.replace(" ", "%20").replace("\n", "%0a").replace("\0", "%00") if name.isascii() else quoted(name),
    }:
        for path in (
            "/v2/models/{}/infer",
            "/v2/models/m/versions/{}/infer",
            "/predictions/{}",
            "/predictions/echo/{}",
            "/models/{}/invoke",
            "/{}/predict",
            "/v1/models/{}:predict",
            "/explanations/{}",
            "/v2/repository/models/{}/load",
            "/v2/models/{}/generate",
        ):
            answer = server.site.ask("inference", "POST", path.format(form), b"{}")
            assert 400 <= answer.status < 500 and answer.body, (path, form, answer)
        for method, path in (
            ("PUT", "/models/{}?min_worker=1"),
            ("DELETE", "/models/{}"),
            ("PUT", "/models/echo/{}/set-default"),
        ):
            answer = server.site.ask("management", method, path.format(form))
            assert 400 <= answer.status < 500 and answer.body, (path, form, answer)


@pytest.mark.parametrize("name", NAMES)
def test_names_over_grpc(server: Everything, name: str) -> None:
    for method, fields in (
        ("ModelInfer", {"model_name": name}),
        ("ModelInfer", {"model_name": "m", "model_version": name}),
        ("ModelConfig", {"name": name}),
        ("ModelReady", {"name": "m", "version": name}),
        ("RepositoryModelLoad", {"model_name": name}),
        ("RepositoryModelLoad", {"model_name": "m", "repository_name": name}),
    ):
        status, details = triton(server, method, **fields)
        allowed = ("INTERNAL",) if "failed to load" in details else ()  # Triton's code for that
        assert status in ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAVAILABLE", *allowed), (
            method,
            status,
            details,
        )
    services = schema.torchserve().methods
    predict = services["org.pytorch.serve.grpc.inference.InferenceAPIsService"]["Predictions"]
    status, details = server.call("inference", predict, predict.request(model_name=name))
    assert status in ("NOT_FOUND", "INVALID_ARGUMENT", "INTERNAL") and "not found" in details.lower(), (status, details)
    manage = services["org.pytorch.serve.grpc.management.ManagementAPIsService"]
    for called, fields in (
        ("RegisterModel", {"url": name}),
        ("RegisterModel", {"url": "echo.mar", "model_name": name}),
        ("DescribeModel", {"model_name": name}),
        ("UnregisterModel", {"model_name": name}),
        ("ScaleWorker", {"model_name": name}),
        ("SetDefault", {"model_name": "echo", "model_version": name}),
    ):
        status, details = server.call("management", manage[called], manage[called].request(**fields))
        assert status in ("NOT_FOUND", "INVALID_ARGUMENT", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INTERNAL"), (
            called,
            name,
            status,
        )
        assert "unforeseen" not in details and "internal error" not in details, (called, name, details)


@pytest.mark.parametrize("path", PATHS)
def test_files_of_a_load_stay_in_their_folder_over_both(server: Everything, path: str) -> None:
    content = base64.b64encode(b"evil").decode()
    body = json.dumps({"parameters": {"config": CONFIG, f"file:{path}": content}}).encode()
    answer = server.site.ask("inference", "POST", "/v2/repository/models/m/load", body)
    assert 400 <= answer.status < 500, answer
    method = schema.triton().methods[TRITON]["RepositoryModelLoad"]
    message = method.request(model_name="m")
    message.parameters["config"].string_param = CONFIG
    message.parameters[f"file:{path}"].bytes_param = b"evil"
    status, details = server.call("triton", method, message)
    assert status == "INVALID_ARGUMENT" and details, (status, details)


@pytest.mark.parametrize(
    "url",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "file:///etc/passwd",
        "file://../store/echo.mar",
        "http://127.0.0.1:1/x.mar",
        "http://169.254.169.254/latest/meta-data/x.mar",
        "http://[::1]:1/x.mar",
        "http://localhost:1/x.mar",
        "ftp://x/y.mar",
        "/etc/passwd",
        "http://0x7f000001/x.mar",
        "http://2130706433/x.mar",
        "http://127.0.0.1.nip.io@127.0.0.1/x.mar",
        "s3://b/x.mar",
        "store/../../x.mar",
    ],
)
def test_a_refused_registration_leaves_the_store_as_it_was(server: Everything, url: str) -> None:
    """Over HTTP, over gRPC; `nothing_is_written` compares every byte."""
    answer = server.site.ask("management", "POST", f"/models?url={quoted(url)}")
    assert answer.status >= 400 and b"message" in answer.body
    manage = schema.torchserve().methods["org.pytorch.serve.grpc.management.ManagementAPIsService"]["RegisterModel"]
    status, details = server.call("management", manage, manage.request(url=url))
    assert status not in ("OK", "UNKNOWN") and details
    assert server.site.predict("echo", b"abc").body == b"abc"


def test_no_setting_over_the_api_is_a_path(server: Everything, tmp_path: Path) -> None:
    target = str(tmp_path / "written")
    for path, document in (
        ("/v2/logging", {"log_file": target}),
        ("/v2/trace/setting", {"trace_file": target}),
        ("/v2/models/m/trace/setting", {"trace_file": target}),
    ):
        assert server.site.ask("inference", "POST", path, json.dumps(document).encode()).status >= 400
    for method, name in (("LogSettings", "log_file"), ("TraceSetting", "trace_file")):
        found = schema.triton().methods[TRITON][method]
        message = found.request()
        if method == "LogSettings":
            message.settings[name].string_param = target
        else:
            message.settings[name].value.append(target)
        assert server.call("triton", found, message)[0] in ("UNIMPLEMENTED", "INVALID_ARGUMENT")
    assert server.site.predict("echo", b"abc").body == b"abc"
    assert list(tmp_path.iterdir()) == []
