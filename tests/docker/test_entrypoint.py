"""The image's entrypoint: what each command becomes, and a real server behind it that drains on SIGTERM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jitney.tests.fakes.raw_http import ask
from jitney.tests.fakes.torchserve_server import archive, environment, properties
from jitney.tools.bench.served import ServedProcess

DOCKER = Path(__file__).parents[2] / "docker"
#: Stands in for `jitney`: tells what it was started with.
TELLS = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([sys.argv[1:], {{k: v for k, v in os.environ.items() if k.startswith(("JITNEY_", "LOG_", "METRICS_"))}}]))
"""
SLOW = """
import pathlib, time

def handle(data, context):
    if data is None:
        return None
    pathlib.Path({path!r}).touch()
    time.sleep(1.0)
    return ["slept"] * len(data)
"""
PORTS = [
    "--config",
    str(DOCKER / "defaults" / "none.properties"),
    "--http-address",
    "0.0.0.0",
    "--http-port",
    "8000",
    "--grpc-address",
    "0.0.0.0",
    "--grpc-port",
    "8001",
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """PATH as the image has it, with a `jitney` that tells what it was started with."""
    stub = tmp_path / "venv" / "jitney"
    stub.parent.mkdir()
    stub.write_text(TELLS)
    stub.chmod(0o755)
    return f"{stub.parent}:{DOCKER / 'bin'}:/usr/bin:/bin"


def told(tmp_path: Path, path: str, *arguments: str, **env: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment that reach `jitney`."""
    done = subprocess.run(
        [str(DOCKER / "entrypoint.sh"), *arguments],
        cwd=tmp_path, env={"PATH": path, "HOME": str(tmp_path), **env}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    arguments_seen, environment_seen = json.loads(done.stdout)
    return arguments_seen, environment_seen


def defaults(environ: dict[str, str]) -> str:
    return Path(environ["JITNEY_DEFAULTS"]).resolve(strict=True).name


@pytest.mark.parametrize("arguments", [(), ("serve",)])
def test_serve_reads_the_images_config_and_wants_no_tokens(tmp_path: Path, path: str, arguments: tuple[str, ...]) -> None:
    seen, environ = told(tmp_path, path, *arguments)
    assert seen[:4] == ["--start", "--foreground", "--ts-config", "/home/model-server/config.properties"]
    assert defaults(environ) == "open.properties"


def test_torchserve_stays_in_the_foreground_and_has_tokens(tmp_path: Path, path: str) -> None:
    seen, environ = told(tmp_path, path, "torchserve", "--start", "--models", "a.mar", "b.mar")
    assert seen == ["--start", "--models", "a.mar", "b.mar", "--foreground"]
    assert defaults(environ) == "torchserve.properties"


def test_arguments_are_evaluated_as_torchserves_entrypoint_does(tmp_path: Path, path: str) -> None:
    seen, _ = told(tmp_path, path, "torchserve", "--start", "--model-store", "$BASE/store", BASE="/models")
    assert seen == ["--start", "--model-store", "/models/store", "--foreground"]
    assert told(tmp_path, path, "torchserve --start --model-store $BASE", BASE="/x")[0][:3] == [
        "--start",
        "--model-store",
        "/x",
    ]


def test_tritonserver_has_its_own_addresses_which_flags_change(tmp_path: Path, path: str) -> None:
    seen, environ = told(tmp_path, path, "tritonserver", "--model-repository=/models", "--http-port=9", "--x=$HOME")
    assert [part.replace("bin/../", "") for part in seen[:11]] == ["serve", *PORTS]
    assert seen[-3:] == ["--model-repository=/models", "--http-port=9", "--x=$HOME"]
    assert defaults(environ) == "open.properties"


def test_other_commands_run_as_they_are(tmp_path: Path, path: str) -> None:
    seen, environ = told(tmp_path, path, "jitney", "serve", "--model-repository", "/m")
    assert seen == ["serve", "--model-repository", "/m"] and "JITNEY_DEFAULTS" not in environ
    assert told(tmp_path, path, "torch-model-archiver", "--help")[0] == ["archive", "--help"]


def test_the_images_configuration_is_not_for_jitney_serve(tmp_path: Path, path: str) -> None:
    shutil.copy(DOCKER / "config.properties", tmp_path)
    seen, _ = told(tmp_path, path, "jitney", "serve", "--model-repository", "/m")
    assert seen == ["serve", "--config", str(DOCKER / "defaults" / "none.properties"), "--model-repository", "/m"]
    (tmp_path / "config.properties").write_text("job_queue_size=2\n")
    assert told(tmp_path, path, "jitney", "serve", "--model-repository", "/m")[0] == ["serve", "--model-repository", "/m"]


def test_defaults_of_the_users_own_replace_the_images(tmp_path: Path, path: str) -> None:
    for arguments in (("serve",), ("torchserve", "--start"), ("tritonserver",)):
        assert told(tmp_path, path, *arguments, JITNEY_DEFAULTS="/mine")[1]["JITNEY_DEFAULTS"] == "/mine"


def test_a_torchserve_that_is_installed_is_taken(tmp_path: Path, path: str) -> None:
    real = tmp_path / "venv" / "torchserve"
    real.write_text(TELLS)
    real.chmod(0o755)
    seen, environ = told(tmp_path, path, "torchserve", "--start")
    assert seen == ["--start", "--foreground"] and "JITNEY_DEFAULTS" not in environ


def test_log_files_go_where_they_can(tmp_path: Path, path: str) -> None:
    (tmp_path / "logs").write_text("a file, so no folder can be made here")
    _, environ = told(tmp_path, path, "jitney", TMPDIR=str(tmp_path / "elsewhere"))
    assert environ["LOG_LOCATION"] == environ["METRICS_LOCATION"] == str(tmp_path / "elsewhere" / "logs")
    _, environ = told(tmp_path, path, "jitney", TMPDIR=str(tmp_path), LOG_LOCATION=str(tmp_path / "mine"))
    assert environ["LOG_LOCATION"] == environ["METRICS_LOCATION"] == str(tmp_path / "mine")


def test_a_server_answers_what_it_accepted_when_its_container_is_stopped(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    archive(tmp_path / "store", "slow", SLOW.format(path=str(begun)))
    text, addresses = properties(
        model_store=str(tmp_path / "store"),
        load_models="slow.mar",
        default_workers_per_model="1",
        disable_system_metrics="true",
    )
    config = tmp_path / "config.properties"
    config.write_text(text)
    path = f"{Path(sys.executable).parent}:{DOCKER / 'bin'}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [str(DOCKER / "entrypoint.sh"), "torchserve", "--start", "--ncs", "--ts-config", str(config), "--disable-token-auth"],
        cwd=tmp_path, env=environment(tmp_path, PATH=path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    server = ServedProcess(process, str(addresses["inference"]), str(addresses["management"]), str(addresses["metrics"]))
    reader = threading.Thread(target=server.read_output, args=(False,))
    reader.start()
    try:
        server.wait_started(60)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(ask, addresses["inference"], "POST", "/predictions/slow", b"x", {}, timeout=30)
            deadline = time.monotonic() + 30
            while not begun.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)  # reaches the server itself: it has replaced the shell
            assert asked.result().body == b"slept"
        assert process.wait(30) == 0
    finally:
        server.stop(5)
        reader.join()
        if process.stdout is not None:
            process.stdout.close()
