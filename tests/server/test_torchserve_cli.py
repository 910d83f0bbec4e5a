"""`torchserve`'s command line with real processes: detaching, the pid file, stopping, and what goes wrong before a start."""

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jitney.server import launcher
from jitney.tests.fakes.raw_http import ask
from jitney.tests.fakes.torchserve_server import COMMAND, archive, environment, properties
from jitney.tools.served import wait_until


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(folder, **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def pid_file(folder: Path) -> Path:
    return folder / "tmp" / ".model_server.pid"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder with a store of one archive; what is left running at the end is stopped."""
    archive(tmp_path / "store", "capitals")
    yield tmp_path
    if pid_file(tmp_path).exists():
        assert run(tmp_path, "--stop", "--foreground").returncode == 0


def test_start_detaches_and_stop_ends(folder: Path) -> None:
    text, addresses = properties(load_models="capitals.mar", default_workers_per_model="1")
    (folder / "config.properties").write_text(text)
    with (folder / "output").open("w") as output:  # a pipe would stay open as long as the detached server
        command = [*COMMAND, "--start", "--model-store", "store", "--ncs"]
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), stdout=output, stderr=output, timeout=60, check=False
        )
    assert done.returncode == 0
    process = psutil.Process(int(pid_file(folder).read_text()))
    wait_until(lambda: "Model server started.\n" in (folder / "output").read_text(), 60, "the start")
    assert "capitals 1.0: ready after" in (folder / "output").read_text()
    assert ask(addresses["inference"], "POST", "/predictions/capitals", b"abc").body == b"ABC"

    again = run(folder, "--start", "--model-store", "store")
    assert again.returncode == 1
    assert "TorchServe is already running, please use torchserve --stop to stop TorchServe." in again.stderr
    assert process.is_running()

    stopped = run(folder, "--stop", "--foreground")
    assert (stopped.returncode, stopped.stdout) == (0, "TorchServe has stopped.\n")
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not pid_file(folder).exists()


@pytest.fixture
def orphans_stay() -> Iterator[None]:
    """Detached processes become children of this one, which takes no note of their ends: as in a container without an init."""
    prctl, subreaper = ctypes.CDLL(None, use_errno=True).prctl, 36
    assert prctl(subreaper, 1, 0, 0, 0) == 0
    yield
    prctl(subreaper, 0, 0, 0, 0)


@pytest.mark.usefixtures("orphans_stay")
def test_stop_does_not_wait_for_somebody_to_take_note_of_the_end(folder: Path) -> None:
    text, _ = properties()
    (folder / "config.properties").write_text(text)
    with (folder / "output").open("w") as output:
        command = [*COMMAND, "--start", "--model-store", "store", "--ncs"]
        subprocess.run(command, cwd=folder, env=environment(folder), stdout=output, stderr=output, timeout=60, check=True)
    process = psutil.Process(int(pid_file(folder).read_text()))
    wait_until(lambda: "Model server started.\n" in (folder / "output").read_text(), 60, "the start")
    stopped = run(folder, "--stop", "--foreground")
    try:
        assert (stopped.returncode, stopped.stdout) == (0, "TorchServe has stopped.\n")
        assert process.status() == psutil.STATUS_ZOMBIE
    finally:
        os.waitpid(process.pid, 0)
    assert not pid_file(folder).exists()


def test_stop_without_a_server(folder: Path) -> None:
    stopped = run(folder, "--stop")
    assert (stopped.returncode, stopped.stdout) == (0, "TorchServe is not currently running.\n")


@pytest.mark.parametrize("content", ["999999999", "1", "no number"])
def test_a_pid_file_of_another_process_is_an_orphan(folder: Path, content: str) -> None:
    pid_file(folder).parent.mkdir(exist_ok=True)
    pid_file(folder).write_text(content)
    stopped = run(folder, "--stop")
    assert "Removing orphan pid file." in stopped.stderr
    assert stopped.stdout == "TorchServe is not currently running.\n"
    assert not pid_file(folder).exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--start",), "Missing mandatory parameter --model-store"),
        ((), "Missing mandatory parameter --model-store"),
        (("--model-store", "nosuch"), "--model-store directory not found:"),
        (("--model-store", "store", "--workflow-store", "nosuch"), "--workflow-store directory not found:"),
        (("--model-store", "store", "--ts-config", "nosuch"), "--ts-config file not found: nosuch"),
    ],
)
def test_what_is_missing(folder: Path, arguments: tuple[str, ...], text: str) -> None:
    done = run(folder, *arguments)
    assert done.returncode == 1
    assert text in done.stderr
    assert not pid_file(folder).exists()


def test_an_unknown_setting_close_to_one_that_guards_access_ends_the_start(folder: Path) -> None:
    (folder / "config.properties").write_text("inference_adress=http://127.0.0.1:8080\n")
    done = run(folder, "--model-store", "store", "--foreground")
    assert done.returncode == 1
    assert "unknown setting 'inference_adress'; the nearest known one is 'inference_address'" in done.stderr


def test_an_address_that_others_reach_needs_a_decision_about_tokens(folder: Path) -> None:
    done = run(folder, "--model-store", "store", "--foreground", JITNEY_INFERENCE_ADDRESS="http://0.0.0.0:0")
    assert done.returncode == 1
    assert "inference_address http://0.0.0.0:0 can be reached from other machines" in done.stderr
    assert "disable_token_authorization=false" in done.stderr
    assert "--disable-token-auth" in done.stderr


def test_verbs_exclude_each_other(folder: Path) -> None:
    done = run(folder, "--start", "--stop")
    assert done.returncode == 2
    assert "not allowed with argument" in done.stderr


def test_version(folder: Path) -> None:
    assert run(folder, "--version").stdout.startswith("TorchServe Version is 0.12.0")


def test_the_launcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", environment(folder)["TMPDIR"])
    text, addresses = properties(default_workers_per_model="1")
    config = folder / "my.properties"
    config.write_text(text)
    management = str(addresses["management"])
    options = {"model_store": "store", "snapshot_file": str(config), "no_config_snapshots": True, "enable_model_api": True}
    try:
        lines = launcher.start(**options)
        assert "Model server started.\n" in list(lines.queue)
        answer = launcher.register_model("shouts", "capitals.mar", management=management)
        assert answer.json() == {"status": 'Model "shouts" Version: 1.0 registered with 1 initial workers'}
        assert ask(addresses["inference"], "POST", "/predictions/shouts", b"abc").body == b"ABC"
        refused = launcher.register_model_with_params([("url", "nosuch.mar")], management=management)
        assert (refused.status_code, refused.ok) == (404, False)
        assert json.loads(refused.text)["type"] == "ModelNotFoundException"

        launcher.start(**options, models="again=capitals.mar")  # ends the one that runs
        assert ask(addresses["inference"], "POST", "/predictions/again", b"abc").body == b"ABC"
        assert ask(addresses["inference"], "POST", "/predictions/shouts", b"abc").status == 404
    finally:
        launcher.stop()
    while lines.get(timeout=30) is not None:
        pass  # TorchServe's queue ends with None too
    with pytest.raises(OSError):
        launcher.register_model("shouts", "capitals.mar", management=management)


def test_the_launcher_says_why_a_server_did_not_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", environment(folder)["TMPDIR"])
    with pytest.raises(launcher.NotStarted, match=r"--model-store directory not found: .*nosuch"):
        launcher.start("nosuch")
