"""Front ends that die, that do not start, that are asked to end: who notices, and what stays behind."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import urllib3

from jitney.core.errors import NothingAnswers
from jitney.server.frontends import heartbeat, supervisor
from jitney.server.frontends.frontend_process import FrontendProcess
from jitney.tests.fakes.frontends import House, opened_fronts
from jitney.tests.fakes.leftovers import Inventory
from jitney.tests.fakes.plane import LoadedPlane, doubling
from jitney.tests.fakes.raw_http import Connection
from jitney.tests.fakes.torchserve_server import archive, running
from jitney.tools.bench.served import serving, taken, wait_until

from .test_equality import binary, infer
from .test_front_ends import PATIENCE


class Clients:
    """Ask over kept connections until told to stop; a connection that ends is opened anew."""

    def __init__(self, opened: House, count: int) -> None:
        import numpy as np

        self.seen: Counter[str] = Counter()
        self.longest = 0.0  # seconds between two right answers of one client
        self._opened, self._stop, self._lock = opened, threading.Event(), threading.Lock()
        self._large = binary(np.ones((1, 200_000), np.float32))
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask_on(self, number: int) -> None:
        address, last = self._opened.inference, time.monotonic()
        connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE)
        while not self._stop.is_set():
            try:
                self._ask(connection, number)
                kind = "right"
                self.longest, last = max(self.longest, time.monotonic() - last), time.monotonic()
            except (OSError, http.client.HTTPException):
                connection.close()
                kind = "cut off"
            with self._lock:
                self.seen[kind] += 1
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> None:
        if number % 4 == 3:
            body, headers = self._large
            connection.request("POST", "/v2/models/m/infer", body, {k.replace("_", "-"): v for k, v in headers.items()})
            expected = b"\0\0\0@" * 200_000
        else:
            connection.request("POST", "/predictions/capitals", f"client {number}".encode(), {"Content-Type": "text/plain"})
            expected = f"CLIENT {number}".encode()
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200 and content.endswith(expected), (answer.status, content[:100])

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_front_ends_are_killed_under_load(plane: LoadedPlane) -> None:
    began = time.monotonic()
    with opened_fronts(plane):  # whatever is made once in a process is there before the figures are taken
        prompt = max(2.0, 2 * (time.monotonic() - began))  # on a machine where two at once take long, so may one under load
    before = Inventory()
    with opened_fronts(plane, front_ends=3) as opened:
        clients = Clients(opened, 4)
        try:
            for turn in range(3):
                right = clients.seen["right"]
                wait_until(lambda right=right: clients.seen["right"] >= right + 20, PATIENCE, "answers")
                victim = opened.fronts.pids()[turn % 3]
                os.kill(victim, signal.SIGKILL)
                killed = time.monotonic()
                wait_until(lambda victim=victim: victim not in opened.fronts.pids(), 2, "the death")
                wait_until(lambda: len(opened.fronts.pids()) == 3, prompt + turn, "another front end")
                if turn == 0:
                    assert time.monotonic() - killed < prompt
                assert victim not in opened.fronts.pids()
        finally:
            clients.stop()
        assert 0 < clients.seen["cut off"] <= 4 * 3
        assert clients.longest < 2.0, "the others stood still"
        opened.wait_idle()
        assert opened.fronts._spec.shared.counters.waiting() == 0
    assert before.new() == []


def test_what_a_dead_front_end_had_asked_never_runs(several: House) -> None:
    deployment = several.plane.registry.deployment("slow")
    body = infer()
    connections = [Connection(several.inference) for _ in range(12)]
    for connection in connections:
        connection.send(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    wait_until(lambda: several.open_requests() == 12, PATIENCE, "all requests")
    executed = deployment.statistics.snapshot().inference_count
    pids = several.fronts.pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: several.open_requests() == 0 and deployment.queued() == 0, 0.4, "the end of what nobody waits for")
    for connection in connections:
        assert connection.closed()
        connection.sock.close()
    wait_until(lambda: len(set(several.fronts.pids()) - set(pids)) == 2, PATIENCE, "other front ends")
    assert several.ask("POST", "/v2/models/slow/infer", infer()).status == 200
    assert deployment.statistics.snapshot().inference_count <= executed + 8 + 1  # the batch that ran already, and the last
    several.wait_idle()


def test_a_front_end_that_stands_still_holds_up_nobody_else(several: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "STOPPED_LOOKS", 1000)  # it is to stand still for as long as this takes
    still = several.fronts.pids()[0]
    os.kill(still, signal.SIGSTOP)
    try:
        for _ in range(20):
            began = time.monotonic()
            assert several.ask("POST", "/predictions/capitals", b"x").body == b"X"
            assert several.ask("GET", "/ping").status == 200
            assert time.monotonic() - began < 1.0
        assert several.ask("GET", "/metrics", port="metrics").status == 200
    finally:
        os.kill(still, signal.SIGCONT)
    assert still in several.fronts.pids()
    several.wait_idle()


def test_a_front_end_that_stays_stopped_is_replaced_and_its_clients_hear_of_it(
    several: House, caplog: pytest.LogCaptureFixture
) -> None:
    pids = several.fronts.pids()
    connections = [Connection(several.inference, PATIENCE) for _ in range(8)]
    head = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    for connection in connections:
        connection.send(head)
        assert connection.read().status == 200
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    for connection in connections:
        connection.send(head)
        assert connection.closed(PATIENCE), "a client still waits for a front end that does nothing"
        connection.sock.close()
    assert several.ask("GET", "/ping").status == 200
    assert time.monotonic() - began < 6.0
    wait_until(lambda: len(set(several.fronts.pids()) - set(pids)) == 2, PATIENCE, "other front ends")
    assert "front end 0 is replaced: it was stopped by a signal" in caplog.text
    several.wait_idle()


def test_a_front_end_that_answers_nothing_more_is_replaced(several: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, takes connections, and does not say that it has sent what it counted."""
    monkeypatch.setattr(heartbeat, "REST_LOOKS", 0)
    monkeypatch.setattr(heartbeat, "SILENT_LOOKS", 2)
    mute = several.children[0]
    monkeypatch.setattr(mute.session, "_on_flushed", lambda number: None)
    wait_until(lambda: mute not in several.children and len(several.fronts.pids()) == 2, PATIENCE, "another front end")


def test_a_front_end_that_writes_nonsense_is_replaced(several: House) -> None:
    child = several.children[0]
    child.session._handle = lambda message: (_ for _ in ()).throw(ValueError("nonsense"))  # type: ignore[method-assign]
    child.flush()
    wait_until(lambda: child not in several.children and len(several.fronts.pids()) == 2, PATIENCE, "another front end")
    assert several.ask("GET", "/ping").status == 200


def test_front_ends_that_cannot_start_are_tried_again_ever_later(
    plane: LoadedPlane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "START_S", 0.5)
    monkeypatch.setattr(supervisor, "DELAYS", (0.0, 0.05, 0.2, 30.0))
    monkeypatch.setattr(FrontendProcess, "_start", lambda *_: (_ for _ in ()).throw(OSError("no more processes")))
    before = Inventory()
    with opened_fronts(plane, answers=False) as opened:
        assert opened.fronts.pids() == []
        with pytest.raises(NothingAnswers, match=r"none of the 2 front ends answers after 0\.5 s"):
            opened.web.wait_started()  # which ends a server that starts; one that runs goes on trying
        wait_until(
            lambda: caplog.text.count("front end 0 cannot be started: no more processes") == 4, PATIENCE, "four tries"
        )
        assert opened.ask("GET", "/metrics", port="metrics").status == 200
        monkeypatch.undo()
    assert before.new() == []


def test_draining_answers_what_was_accepted_and_refuses_the_rest(plane: LoadedPlane) -> None:
    with opened_fronts(plane) as opened, ThreadPoolExecutor(16) as clients:
        pids, address = opened.fronts.pids(), opened.inference
        idle = Connection(address)
        idle.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.read().status == 200
        paths = ["/v2/models/slow/infer", "/v2/models/slow/generate"] * 4
        bodies = {"/v2/models/slow/infer": infer(), "/v2/models/slow/generate": b'{"x": [[1.0, 2.0]]}'}
        asking = [clients.submit(opened.ask, "POST", path, bodies[path]) for path in paths]
        wait_until(lambda: opened.open_requests() == 4, PATIENCE, "the requests that are served")
        wait_until(lambda: opened.web.admission.held == 4, PATIENCE, "the requests that are relayed")
        opened.web.stop_accepting()
        wait_until(lambda: not taken(address.port), PATIENCE, "no more connections")
        assert idle.closed()
        idle.sock.close()
        opened.web.close(PATIENCE)
        answers = [future.result() for future in asking]
        assert [answer.status for answer in answers] == [200] * 8
        assert {answer.header("connection") for answer in answers} == {"close"}
        assert not any(psutil.pid_exists(pid) for pid in pids)


def test_front_ends_that_do_not_end_in_time_are_killed(plane: LoadedPlane) -> None:
    with opened_fronts(plane) as opened, Connection(opened.inference) as connection:
        pids = opened.fronts.pids()
        head = b"POST /predictions/words HTTP/1.1\r\nHost: x\r\nContent-Length: 34\r\n\r\n"
        connection.send(head + b"early wait wait wait wait wait end")
        connection._until(b"early")
        began = time.monotonic()
        opened.web.close(0.3)
        assert time.monotonic() - began < 2.5
        assert connection.closed()
        assert not any(psutil.pid_exists(pid) for pid in pids)


# -- as processes that users start -----------------------------------------------------------------------------------------


def front_ends(server: subprocess.Popen[str]) -> list[psutil.Process]:
    """The front ends among a server's children."""
    children = psutil.Process(server.pid).children()
    return [child for child in children if any("frontends.child.main" in word for word in child.cmdline())]


def test_sigterm_to_all_processes_at_once_drains(tmp_path: Path) -> None:
    """As a terminal or a service manager sends it."""
    doubling(tmp_path / "models", "slow", "dynamic_batching { }", seconds=0.5)
    properties = "front_ends=2\n"
    with serving(tmp_path / "models", properties=properties) as started, ThreadPoolExecutor(12) as clients:
        fronts = front_ends(started.process)
        assert len(fronts) == 2
        with urllib3.PoolManager(maxsize=12, retries=False, timeout=PATIENCE) as http:
            url = f"{started.inference}/v2/models/slow/infer"
            replies = [clients.submit(http.request, "POST", url, body=infer()) for _ in range(12)]
            stats = "/v2/models/slow/stats"
            wait_until(lambda: started.get_json(stats)["model_stats"][0]["execution_count"] >= 1, 10.0, "the first batch")
            for process in fronts:
                process.send_signal(signal.SIGTERM)
            assert started.stop() == 0
            assert [reply.result().status for reply in replies] == [200] * 12
        assert not any(process.is_running() for process in fronts)


def test_front_ends_die_with_a_server_that_is_killed(tmp_path: Path) -> None:
    doubling(tmp_path / "models", "m")
    with serving(tmp_path / "models", properties="front_ends=2\n") as started:
        fronts = front_ends(started.process)
        started.process.kill()
        wait_until(lambda: not any(process.is_running() for process in fronts), PATIENCE, "the end of the front ends")
        assert not taken(int(started.inference.rpartition(":")[2]))


def test_a_busy_port_ends_the_start_before_any_model_loads(tmp_path: Path) -> None:
    doubling(tmp_path / "models", "m")
    with serving(tmp_path / "models", properties="front_ends=2\n") as started:
        command = [
            sys.executable,
            "-m",
            "jitney.server.cli",
            "serve",
            "--model-repository",
            str(tmp_path / "models"),
            "--allow-grpc=false",
        ]
        config = tmp_path / "config.properties"
        config.write_text(f"inference_address={started.inference}\nfront_ends=2\n")
        ended = subprocess.run(
            [*command, "--config", str(config)], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
        )
        assert ended.returncode != 0
        assert f"inference_address={started.inference}: the address is already in use" in ended.stdout + ended.stderr
        assert "ready after" not in ended.stdout


def test_started_as_torchserve_the_access_log_has_a_line_for_each_answer(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    with running(tmp_path, load_models="all", default_workers_per_model="1", front_ends="2") as site:
        for number in range(6):
            assert site.predict("capitals", b"abc", x=str(number)).body == b"ABC"
        assert site.ask("inference", "GET", "/ping").status == 200
    lines = site.log("access_log.log").splitlines()
    assert sum('"POST /predictions/capitals HTTP/1.1" 200' in line for line in lines) == 6
    assert sum('"GET /ping HTTP/1.1" 200' in line for line in lines) == 1
