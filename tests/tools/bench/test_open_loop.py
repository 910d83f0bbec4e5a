"""The open-loop generator against servers whose slowness is known."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from jitney.tools.bench.open_loop import Generator, arrivals, main, measure, run

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class SlowServer(socketserver.ThreadingTCPServer):
    """Answers each request on a connection after `delay` seconds; hangs up instead on each `hang_up`-th request of a run."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, delay: float, hang_up: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.delay, self.hang_up, self.requests, self.lock = delay, hang_up, 0, threading.Lock()
        self.stop = threading.Event()


class _Handler(socketserver.BaseRequestHandler):
    server: SlowServer

    def handle(self) -> None:
        while self.request.recv(65536):
            with self.server.lock:
                self.server.requests += 1
                number = self.server.requests
            if self.server.hang_up and number % self.server.hang_up == 0:
                return
            self.server.stop.wait(self.server.delay)
            with contextlib.suppress(OSError):
                self.request.sendall(ANSWER)


@contextlib.contextmanager
def slow_server(delay: float, hang_up: int = 0) -> Iterator[str]:
    with SlowServer(delay, hang_up) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/predictions/m"
        finally:
            server.stop.set()
            server.shutdown()
            thread.join()


TIMES = [0.01 * n for n in range(20)]


def test_slow_answers_do_not_delay_later_requests() -> None:
    with slow_server(0.3) as url:
        result = run(url, b"x", {}, TIMES, 0.0, 64)
    assert result.statuses == {"200": 20}
    assert result.connections >= 15
    assert 300 <= result.p50 < 1000


def test_a_wait_for_a_connection_counts_as_latency() -> None:
    with slow_server(0.05) as url:
        result = run(url, b"x", {}, TIMES, 0.0, 1)
    assert result.connections == 1
    assert result.starved >= 15
    assert result.p99 >= 20 * 50 - 200  # the last one was meant to go after 190 ms, and went after 19 others of 50 ms
    assert result.lag_p99 >= 500


def test_only_what_comes_after_the_warm_up_counts() -> None:
    with slow_server(0.0) as url:
        result = run(url, b"x", {}, TIMES, 0.1, 64)
    assert result.requests == sum(at >= 0.1 for at in TIMES) == 10


def test_a_connection_that_is_hung_up_is_counted_and_replaced() -> None:
    with slow_server(0.0, hang_up=5) as url:
        result = run(url, b"x", {}, TIMES, 0.0, 64)
    assert result.statuses == {"200": 16, "closed": 4}
    assert result.requests == 16


def test_answers_that_never_come_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitney.tools.bench.open_loop.DRAIN_SECONDS", 0.2)
    with slow_server(30.0) as url:
        result = run(url, b"x", {}, TIMES[:3], 0.0, 64)
    assert result.statuses == {"none": 3}
    assert result.requests == 0


def test_requests_are_not_early() -> None:
    with slow_server(0.0) as url:
        address = ("127.0.0.1", int(url.split(":")[2].split("/")[0]))
        generator = Generator(address, b"GET / HTTP/1.1\r\n\r\n", 4)
        began = generator.run(TIMES)
        generator.close()
    assert all(generator.sent[n] >= began + at for n, at in enumerate(TIMES))
    assert sorted(generator.answered) == list(range(20))


def test_the_same_seed_gives_the_same_arrivals() -> None:
    times = arrivals("poisson", 500.0, 2.0, 3)
    assert times == arrivals("poisson", 500.0, 2.0, 3) != arrivals("poisson", 500.0, 2.0, 4)
    assert len(times) == 1000
    assert all(a <= b for a, b in pairwise(times))


def test_it_runs_as_a_process(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x")
    with slow_server(0.0) as url:
        result = measure(url, body, {"X-Test": "1"}, rate=200, seconds=0.3, skip=0.1)
    assert 0 < result.requests == result.statuses["200"] <= 60


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="load generator failed"):
        measure("http://127.0.0.1:1/x", Path(__file__), {}, rate=10, seconds=0.2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--rate", "0"], "--rate must be above 0"), (["--rate", "1", "--seconds", "1", "--skip", "1"], "--skip must be")],
)
def test_bad_arguments_are_named(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["http://127.0.0.1:1/x", __file__, *arguments])
    assert text in capsys.readouterr().err
