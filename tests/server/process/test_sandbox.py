"""What a worker is kept from where that is asked for, and that models go on working there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from jitney.server.process import sandbox
from jitney.server.process.sandbox import VARIABLE, WorkerLimits
from jitney.tests.fakes.serving import write_model
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import serving
from jitney.tools.first_steps import PICTURE, STARTER

needs_landlock = pytest.mark.skipif(bool(sandbox.problem("files")), reason=sandbox.problem("files"))
needs_tcp_rules = pytest.mark.skipif(bool(sandbox.problem("network")), reason=sandbox.problem("network"))


def run(limits: WorkerLimits, code: str, folder: Path) -> str:
    """What a process prints that is under the limits; it fails where the code raises."""
    script = f"from jitney.server.process import sandbox\nsandbox.enter()\n{textwrap.dedent(code)}"
    environment = {**os.environ, "TMPDIR": str(folder), VARIABLE: json.dumps(vars(limits))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_limits_nothing_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "left over")
    sandbox.announce(WorkerLimits())
    assert VARIABLE not in os.environ
    sandbox.enter()


def test_what_is_announced_is_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    sandbox.announce(WorkerLimits(memory=1 << 30, files=100))
    limits = WorkerLimits(**json.loads(os.environ[VARIABLE]))
    found = run(
        limits,
        "import resource\nprint(resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_NOFILE))",
        tmp_path,
    )
    assert found == f"({1 << 30}, {1 << 30}) (100, 100)"


def test_memory_beyond_the_limit_is_a_memory_error(tmp_path: Path) -> None:
    code = """
        bytearray(100 << 20)
        try:
            bytearray(600 << 20)
        except MemoryError:
            print("no more")
    """
    assert run(WorkerLimits(memory=400 << 20), code, tmp_path) == "no more"


@needs_landlock
@pytest.mark.parametrize("mode", ["files", pytest.param("network", marks=needs_tcp_rules)])
def test_files_are_written_in_the_temporary_folder_only(tmp_path: Path, mode: str) -> None:
    temporary, other = tmp_path / "tmp", tmp_path / "other"
    temporary.mkdir()
    other.mkdir()
    (other / "kept").write_text("kept")
    code = f"""
        import os, subprocess, tempfile
        from pathlib import Path
        other = Path({str(other)!r})
        with tempfile.TemporaryFile() as file:
            file.write(b"1")
        (Path(tempfile.gettempdir()) / "made").write_text("1")
        Path("/dev/null").write_text("1")
        assert (other / "kept").read_text() == "kept"
        refused = 0
        kept = other / "kept"
        for deed in (
            lambda: (other / "new").write_text("1"), lambda: kept.write_text("1"), kept.unlink, lambda: (other / "sub").mkdir(),
            lambda: kept.rename(other / "moved"), lambda: os.symlink("/", other / "link"), lambda: os.truncate(kept, 0),
        ):
            try:
                deed()
            except PermissionError:
                refused += 1
        child = subprocess.run(["sh", "-c", "echo 1 > " + str(other / "new")], capture_output=True)
        print(refused, child.returncode != 0)
    """
    assert run(WorkerLimits(sandbox=mode), code, temporary) == "7 True"
    assert [(path.name, path.read_text()) for path in other.iterdir()] == [("kept", "kept")]


@needs_tcp_rules
def test_without_the_network_nothing_connects(tmp_path: Path) -> None:
    code = f"""
        import socket
        refused = 0
        there = ("127.0.0.1", {free_port()})
        for deed in (lambda: socket.create_connection(there), lambda: socket.create_server(there)):
            try:
                deed()
            except PermissionError:
                refused += 1
        left, right = socket.socketpair()
        left.send(b"1")
        print(refused, right.recv(1))
    """
    assert run(WorkerLimits(sandbox="network"), code, tmp_path) == "2 b'1'"


def test_a_system_without_it_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_version", lambda: 0)
    assert "has no Landlock" in sandbox.problem("files")
    assert sandbox.problem("off") == ""
    monkeypatch.setattr(sandbox, "_version", lambda: 3)
    assert sandbox.problem("files") == "" and "nothing of TCP" in sandbox.problem("network")


MODEL = """
import os, tempfile
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        with tempfile.TemporaryFile() as file:
            file.write(b"1")
        try:
            open(os.path.join(os.path.dirname(__file__), "written"), "w").close()
            told = "written"
        except PermissionError:
            told = "refused"
        told = np.array([told.encode(), str("SECRET" in str(os.environ)).encode(), os.environ.get("MINE", "").encode()], object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", told)]) for _ in requests]
"""
CONFIG = """backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ] output [ { name: "y" data_type: TYPE_STRING dims: [ 3 ] } ]
"""
BODY = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'


@needs_landlock
def test_a_model_in_a_sandbox_changes_no_file_and_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a limit on memory too."""
    write_model(tmp_path / "models", "m", CONFIG, MODEL)
    for name in ("JITNEY_TOKEN", "JITNEY_KEYSTORE_PASS", "TS_KEYSTORE_PASS"):
        monkeypatch.setenv(name, "SECRET-of-the-server")
    monkeypatch.setenv("MINE", "mine")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    properties = "worker_sandbox=files\nworker_max_memory=2000000000\nworker_max_files=300\n"
    with serving(tmp_path / "models", properties=properties) as server:
        request = urllib.request.Request(
            f"{server.inference}/v2/models/m/infer", BODY, {"Authorization": "Bearer SECRET-of-the-server"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
            assert json.load(reply)["outputs"][0]["data"] == ["refused", "False", "mine"]
    assert not (tmp_path / "models" / "m" / "1" / "written").exists()


@needs_tcp_rules
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_torch_and_onnx_run_in_a_sandbox_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    tensors = 'input [ { name: "x__0" data_type: TYPE_FP32 dims: [ 1 ] } ] '
    tensors += tensors.replace("input", "output").replace("x__0", "y__0")
    folder = tmp_path / "models" / "script"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'platform: "pytorch_libtorch" max_batch_size: 4 {tensors}')
    torch.jit.script(torch.nn.ReLU()).save(str(folder / "1" / "model.pt"))
    shutil.copytree(STARTER / "digits", tmp_path / "models" / "digits")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with serving(tmp_path / "models", properties="worker_sandbox=network\n") as server:
        body = b'{"inputs":[{"name":"x__0","shape":[1,1],"datatype":"FP32","data":[-1]}]}'
        assert post(f"{server.inference}/v2/models/script/infer", body)["outputs"][0]["data"] == [0.0]
        assert next(iter(post(f"{server.inference}/predictions/digits", PICTURE.read_bytes()))) == "7"


def post(url: str, body: bytes) -> Any:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(urllib.request.Request(url, body)) as reply:
        return json.load(reply)


def test_an_unknown_sandbox_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text("worker_sandbox=total\n")
    done = subprocess.run(
        [sys.executable, "-m", "jitney.server.cli", "serve", "--model-repository", ".", "--config", "config.properties"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "expected one of off, files, network" in done.stderr + done.stdout
