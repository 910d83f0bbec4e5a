"""An open-loop load generator in a process of its own: requests are sent at instants that were drawn before, however slow the
answers are.

Latency counts from the instant at which a request was to be sent, so a server that falls behind is charged for the wait
(no coordinated omission); how late the generator itself was is told too (`lag`). A request takes a free kept-alive connection,
the last used first; where none is free another is opened, up to a limit, beyond which requests wait in the generator.
`python -m jitney.tools.bench.open_loop` prints one JSON object; `measure` runs it as a subprocess.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import selectors
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from .load import Connection, http_request
from .traces import TRACES

#: Seconds after the last arrival within which all answers must have come.
DRAIN_SECONDS = 30.0
CONNECTIONS = 512


@dataclass
class Result:
    """What a run saw, in milliseconds. Only requests that arrived after the warm-up count, and only answers with 200 have a
    latency; `statuses` counts answers by HTTP status, "closed" = the server hung up, "none" = no answer in time.

    lag          mean and 99th percentile of how much later than meant a request was sent
    connections  how many were open at most; `starved` requests had to wait for one
    """

    requests: int
    mean: float
    p50: float
    p99: float
    lag: float
    lag_p99: float
    connections: int
    starved: int
    statuses: dict[str, int] = field(default_factory=dict)


def arrivals(trace: str, rate: float, seconds: float, seed: int) -> list[float]:
    """The instants at which requests are sent, in seconds from the start; the same for the same arguments."""
    times = TRACES[trace](rate, max(1, round(rate * seconds)), np.random.default_rng(seed))
    return [float(at) for at in times]


class Generator:
    """One run against one address. Single-threaded."""

    def __init__(self, address: tuple[str, int], request: bytes, most: int) -> None:
        self._address, self._request, self._most = address, request, most
        self._selector = selectors.DefaultSelector()
        self._idle: list[Connection] = []
        self._busy: dict[Connection, int] = {}  # the number of the request that is under way on it
        self._waiting: deque[int] = deque()  # numbers of requests that found no connection
        self.opened, self.starved = 0, 0
        self.sent: dict[int, float] = {}
        self.answered: dict[int, tuple[float, str]] = {}

    def run(self, times: Sequence[float]) -> float:
        """Sends all and waits for the answers, for DRAIN_SECONDS at most after the last; returns when it began."""
        began = time.perf_counter() + 0.05
        number, end = 0, began + times[-1] + DRAIN_SECONDS
        while number < len(times) or self._busy or self._waiting:
            now = time.perf_counter()
            while number < len(times) and began + times[number] <= now:
                self._send(number)
                number += 1
                self._receive(0.0)
            until = began + times[number] if number < len(times) else end
            if now >= end:
                break
            self._receive(until - time.perf_counter())
        return began

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()

    def _send(self, number: int) -> None:
        if self._idle:
            connection = self._idle.pop()
        elif self.opened < self._most:
            connection = self._open()
        else:
            self._waiting.append(number)
            self.starved += 1
            return
        self._busy[connection] = number
        self.sent[number] = time.perf_counter()
        try:
            connection.send()
        except OSError:
            self._lost(connection)

    def _open(self) -> Connection:
        connection = Connection(self._address, self._request)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self.opened += 1
        return connection

    def _receive(self, timeout: float) -> None:
        """Takes the answers that are there, waiting for the first of them for `timeout` seconds at most.

        `select` waits for the selector's own descriptor: Python's epoll rounds its timeout up to whole milliseconds.
        """
        if timeout > 0 and not select.select([self._selector], [], [], timeout)[0]:
            return
        for key, _ in self._selector.select(0):
            connection: Connection = key.data
            try:
                status = connection.receive()
            except OSError:
                status = "closed"
            if status == "closed":
                self._lost(connection)
            elif status is not None:
                self.answered[self._busy.pop(connection)] = time.perf_counter(), status
                self._idle.append(connection)
        while self._waiting and (self._idle or self.opened < self._most):
            self._send(self._waiting.popleft())

    def _lost(self, connection: Connection) -> None:
        """The server closed the connection; a request on it has no answer."""
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self.opened -= 1
        if connection in self._busy:
            self.answered[self._busy.pop(connection)] = time.perf_counter(), "closed"
        else:
            self._idle.remove(connection)


def run(url: str, body: bytes, headers: dict[str, str], times: Sequence[float], skip: float, most: int) -> Result:
    """Posts `body` at each of `times`; what arrived in the first `skip` seconds is warm-up."""
    address, request = http_request(url, body, headers)
    generator = Generator(address, request, most)
    gc.disable()
    try:
        began = generator.run(times)
    finally:
        gc.enable()
        generator.close()
    latencies, lags, statuses = [], [], Counter[str]()
    for number, at in enumerate(times):
        if at < skip:
            continue
        answered, status = generator.answered.get(number, (0.0, "none"))
        statuses[status] += 1
        if number in generator.sent:
            lags.append(1e3 * (generator.sent[number] - began - at))
        if status == "200":
            latencies.append(1e3 * (answered - began - at))
    return _result(latencies, lags, generator, statuses)


def _result(latencies: list[float], lags: list[float], generator: Generator, statuses: Counter[str]) -> Result:
    values = np.array(latencies or [float("nan")])
    late = np.array(lags or [float("nan")])
    p50, p99 = np.percentile(values, [50, 99])
    return Result(
        len(latencies),
        float(values.mean()),
        float(p50),
        float(p99),
        float(late.mean()),
        float(np.percentile(late, 99)),
        generator.opened,
        generator.starved,
        dict(statuses),
    )


def measure(
    url: str,
    body: Path,
    headers: dict[str, str],
    *,
    rate: float,
    seconds: float,
    skip: float = 0.0,
    seed: int = 1,
    trace: str = "poisson",
    connections: int = CONNECTIONS,
) -> Result:
    """`run` in a process of its own. RuntimeError with its last words where it fails."""
    command = [sys.executable, "-m", "jitney.tools.bench.open_loop", url, str(body), "--rate", repr(rate)]
    command += ["--seconds", repr(seconds), "--skip", repr(skip), "--seed", str(seed), "--trace", trace]
    command += ["--connections", str(connections)]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    limit = 2 * seconds + DRAIN_SECONDS + 60
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()[-500:]}")
    return Result(**json.loads(done.stdout))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.bench.open_loop", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("url")
    add("body", type=Path, help="file whose content is posted")
    add("--rate", type=float, required=True, help="requests per second")
    add("--seconds", type=float, default=10.0)
    add("--skip", type=float, default=0.0, help="seconds at the beginning that do not count")
    add("--seed", type=int, default=1)
    add("--trace", choices=sorted(TRACES), default="poisson")
    add("--connections", type=int, default=CONNECTIONS, help="how many may be open")
    add("-H", "--header", action="append", default=[], help="'Name: value'")
    options = parser.parse_args(argv)
    for name in ("rate", "seconds", "connections"):
        if not 0 < getattr(options, name) < float("inf"):
            parser.error(f"--{name} must be above 0, got {getattr(options, name)}")
    if not 0 <= options.skip < options.seconds:
        parser.error(f"--skip must be at least 0 and less than --seconds, got {options.skip}")
    headers = dict(header.split(": ", 1) for header in options.header)
    times = arrivals(options.trace, options.rate, options.seconds, options.seed)
    result = run(options.url, options.body.read_bytes(), headers, times, options.skip, options.connections)
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
