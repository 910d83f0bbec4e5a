"""`torchserve`'s command line with real processes: detaching, the pid file, stopping, and what goes wrong before a start."""

import contextlib
import ctypes
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.cli import launcher, pid_files
from jitney.server.cli import torchserve as torchserve_cli
from jitney.tests.fakes.raw_http import ask
from jitney.tests.fakes.torchserve_server import COMMAND, archive, environment, properties
from jitney.tools.bench.served import wait_until


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


def pid_files_of(folder: Path) -> list[Path]:
    return sorted((folder / "tmp").glob(".model_server.*.pid"))


def pid_of(file: Path) -> int:
    return int(file.read_text().split()[0])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder with a store of one archive; what is left running at the end is stopped."""
    archive(tmp_path / "store", "capitals")
    yield tmp_path
    for file in pid_files_of(tmp_path):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid_of(file))
            process.terminate()
            process.wait(60)


def test_start_detaches_and_stop_ends(folder: Path) -> None:
    text, addresses = properties(load_models="capitals.mar", default_workers_per_model="1")
    (folder / "config.properties").write_text(text)
    with (folder / "output").open("w") as output:  # a pipe would stay open as long as the detached server
        command = [*COMMAND, "--start", "--model-store", "store", "--ncs"]
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), stdout=output, stderr=output, timeout=60, check=False
        )
    assert done.returncode == 0
    (file,) = pid_files_of(folder)
    process = psutil.Process(pid_of(file))
    assert file.name == f".model_server.{os.getuid()}.{process.pid}.pid" and stat.S_IMODE(file.stat().st_mode) == 0o600
    wait_until(lambda: "Model server started.\n" in (folder / "output").read_text(), 60, "the start")
    assert "capitals 1.0: ready after" in (folder / "output").read_text()
    assert ask(addresses["inference"], "POST", "/predictions/capitals", b"abc").body == b"ABC"
    assert [marked for marked in (process, *process.children()) if torchserve_cli.MARK in marked.cmdline()] == [process]

    again = run(folder, "--start", "--model-store", "store")
    assert again.returncode == 1
    assert "TorchServe is already running, please use torchserve --stop to stop TorchServe." in again.stderr
    assert process.is_running()

    stopped = run(folder, "--stop", "--foreground")
    assert (stopped.returncode, stopped.stdout) == (0, "TorchServe has stopped.\n")
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert pid_files_of(folder) == []


@contextlib.contextmanager
def foreground(folder: Path, file: str) -> Iterator[subprocess.Popen[str]]:
    """A server with the configuration of `file`, which has started when this begins, and is gone when it ends."""
    command = [*COMMAND, "--start", "--foreground", "--ncs", "--model-store", "store", "--ts-config", file]
    with subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and any(line == "Model server started.\n" for line in process.stdout)
            yield process
        finally:
            process.terminate()
            process.wait(60)


def test_each_port_has_a_server_of_its_own_and_stop_finds_the_one_that_is_meant(folder: Path) -> None:
    where = {}
    for file in ("one.properties", "two.properties", "three.properties"):
        text, addresses = properties()
        (folder / file).write_text(text)
        where[file] = str(addresses["inference"])
    with foreground(folder, "one.properties") as one, foreground(folder, "two.properties") as two:
        assert len(pid_files_of(folder)) == 2
        again = run(folder, "--start", "--model-store", "store", "--ts-config", "two.properties")
        assert again.returncode == 1
        assert f"Its process is {two.pid}, at {where['two.properties']}" in again.stderr

        unclear = run(folder, "--stop")
        assert unclear.returncode == 1
        for server, file in ((one, "one.properties"), (two, "two.properties")):
            assert f"{where[file]} (process {server.pid})" in unclear.stderr
        assert "--ts-config FILE says which" in unclear.stderr

        other = run(folder, "--stop", "--ts-config", "three.properties")
        assert other.stdout.startswith(f"TorchServe is not currently running at {where['three.properties']}, but at ")
        assert one.poll() is None and two.poll() is None

        stopped = run(folder, "--stop", "--foreground", "--ts-config", "two.properties")
        assert stopped.stdout == "TorchServe has stopped.\n"
        assert two.wait(30) == 0 and one.poll() is None
        assert run(folder, "--stop", "--foreground").stdout == "TorchServe has stopped.\n"
        assert one.wait(30) == 0
    assert pid_files_of(folder) == []


def test_files_of_others_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that all may write to, anybody can lay a file or a link under any name."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    target = tmp_path / "precious"
    target.write_text("x")
    pid_files.path_of(os.getpid()).symlink_to(target)
    pid_files.write(os.getpid(), "http://127.0.0.1:1")
    assert not list(tmp_path.glob("*.new")) and pid_files.path_of(os.getpid()).read_text().count("\n") == 2
    assert target.read_text() == "x" and not pid_files.path_of(os.getpid()).is_symlink()
    pid_files.path_of(1).symlink_to(pid_files.path_of(os.getpid()))
    assert str(pid_files.path_of(1)) in map(str, tmp_path.iterdir())
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert pid_files.running() == []
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "nosuch"))
    with pytest.raises(InvalidConfig, match=r"the pid file '.*nosuch.*' cannot be written: .*TMPDIR"):
        pid_files.write(os.getpid(), "http://127.0.0.1:1")


def test_a_server_that_stop_could_not_find_is_not_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        begun.append(popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "nosuch"))
    with pytest.raises(InvalidConfig, match="the pid file"):
        torchserve_cli._detach([], "http://127.0.0.1:1")
    assert begun[0].wait(30) == -signal.SIGTERM


def test_without_arguments_the_commands_are_listed(folder: Path) -> None:
    bare = run(folder)
    assert bare.returncode == 0 and bare.stderr == ""
    assert bare.stdout == run(folder, "--help").stdout
    for command in ("demo", "serve", "--start", "archive", "bench", "tune"):
        assert f"jitney {command}" in bare.stdout


@pytest.mark.parametrize(
    "arguments", [("--start", "--model-store", "store"), ("serve", "--model-repository", "m"), ("bench", "m")]
)
def test_a_deleted_working_directory_is_said_in_a_sentence(folder: Path, arguments: tuple[str, ...]) -> None:
    gone = folder / "gone"
    gone.mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(gone), *COMMAND, *arguments],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    said = "jitney: the working directory cannot be used: No such file or directory; change into one that exists"
    assert done.stderr.splitlines()[-1] == said and "Traceback" not in done.stderr


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
    (file,) = pid_files_of(folder)
    process = psutil.Process(int(file.read_text().split()[0]))
    wait_until(lambda: "Model server started.\n" in (folder / "output").read_text(), 60, "the start")
    stopped = run(folder, "--stop", "--foreground")
    try:
        assert (stopped.returncode, stopped.stdout) == (0, "TorchServe has stopped.\n")
        assert process.status() == psutil.STATUS_ZOMBIE
    finally:
        os.waitpid(process.pid, 0)
    assert pid_files_of(folder) == []


def test_stop_without_a_server(folder: Path) -> None:
    stopped = run(folder, "--stop")
    assert (stopped.returncode, stopped.stdout) == (0, "TorchServe is not currently running.\n")


@pytest.mark.parametrize(
    "content", ["999999999\nhttp://a:80", "1\nhttp://a:80", "no number\n", "", "99999999999999999999\nx"]
)
def test_a_pid_file_of_another_process_is_an_orphan(folder: Path, content: str) -> None:
    file = folder / "tmp" / f".model_server.{os.getuid()}.77.pid"
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    stopped = run(folder, "--stop")
    assert "Removing orphan pid file." in stopped.stderr
    assert stopped.stdout == "TorchServe is not currently running.\n"
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--start",), "Missing mandatory parameter --model-store"),
        (("--model-store", "nosuch"), "--model-store directory not found:"),
        (("--model-store", "store", "--workflow-store", "nosuch"), "--workflow-store directory not found:"),
        (("--model-store", "store", "--ts-config", "nosuch"), "--ts-config file not found: nosuch"),
        (("--model-store", "store", "--log-config", "nosuch.xml"), "nosuch.xml"),
        (("--model-store", "store", "--cpp-log-config", "nosuch.yaml"), "nosuch.yaml"),
    ],
)
def test_what_is_missing(folder: Path, arguments: tuple[str, ...], text: str) -> None:
    done = run(folder, *arguments)
    assert done.returncode == 1
    assert text in done.stderr
    assert pid_files_of(folder) == []


def test_a_temporary_folder_that_is_not_there(folder: Path) -> None:
    done = run(folder, "--model-store", "store", TEMP="/nosuch")
    assert done.returncode == 1
    assert done.stderr == "Invalid temp directory: /nosuch, please check TEMP environment variable.\n"


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
    version = run(folder, "--version")
    assert version.stdout == "TorchServe Version is 0.12.0\n" and version.stderr.startswith("jitney ")


def test_the_launcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", environment(folder)["TMPDIR"])
    text, addresses = properties(default_workers_per_model="1")
    config = folder / "my.properties"
    config.write_text(text)
    management = str(addresses["management"])
    options: dict[str, Any] = {
        "model_store": "store",
        "snapshot_file": str(config),
        "no_config_snapshots": True,
        "enable_model_api": True,
    }
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
