"""`python -m jitney.tools.dev.overload`: what a server does with 1, 2 and 10 times what its model can take, and who suffers.

The model takes a fixed time for each batch, so what it can take is known, and the machine's speed matters little. Load is closed
(so many connections, each of which asks again at once, also when it is refused) or open (requests at instants that were drawn
before). Beside each load a client asks for health, metrics and management, and another one asks a second model a few times a
second. Everything is measured in one run and compared within it; status 1 where a claim of docs/reliability.md does not hold.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import selectors
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ..bench.load import Connection, http_request
from ..bench.open_loop import Generator, arrivals
from ..bench.served import ServedProcess, serving

#: Seconds that a batch takes, rows of a batch, rows that may wait: 80 answers a second at best.
BATCH_S, ROWS, QUEUE = 0.05, 4, 16
BEST = ROWS / BATCH_S
#: Seconds in which an accepted request is answered: the batch that runs, those that wait before it, its own.
BOUND_S = (QUEUE / ROWS + 2) * BATCH_S
#: What has to hold: goodput in parts of the peak; 99th percentiles of refusals and of everything that asks no model, in seconds.
GOODPUT, REFUSED_S, OTHERS_S = 0.95, 0.010, 0.050
#: What answers of the second model may take longer than while it is alone.
FAIR_S = 0.050
_MODEL = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep({seconds})
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", request.inputs()[0].as_numpy())]) for request in requests]
"""
_CONFIG = """backend: "python" max_batch_size: {rows}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 2 ] }} ] output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 2 ] }} ]
instance_group [ {{ kind: KIND_CPU }} ]
dynamic_batching {{ default_queue_policy {{ max_queue_size: {queue} }} }}
"""
BODY = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
Sample = tuple[str, float]


@dataclass(frozen=True)
class Seen:
    """What one load saw: answers by status, seconds at the 99th percentile, and answers a second."""

    counts: dict[str, int]
    p99: dict[str, float]
    goodput: float


def summary(samples: Sequence[Sample], seconds: float) -> Seen:
    by_status: dict[str, list[float]] = {}
    for status, took in samples:
        by_status.setdefault(status, []).append(took)
    p99 = {status: float(np.percentile(values, 99)) for status, values in by_status.items()}
    return Seen({status: len(values) for status, values in by_status.items()}, p99, len(by_status.get("200", [])) / seconds)


# -- in processes of their own -------------------------------------------------------------------------------------------------


def closed(url: str, connections: int, seconds: float) -> list[Sample]:
    """Each connection sends its next request on an answer, whatever that was; the first tenth does not count."""
    address, request = http_request(url, BODY, {})
    selector, found = selectors.DefaultSelector(), []
    for _ in range(connections):
        connection = Connection(address, request)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send()
    began = time.perf_counter()
    while (now := time.perf_counter()) < began + 1.1 * seconds:
        for key, _ in selector.select(1.0):
            status = key.data.receive()
            if status is None:
                continue
            if status == "closed":
                raise ConnectionError("the server closed a connection")
            now = time.perf_counter()
            if now >= began + 0.1 * seconds:
                found.append((status, now - key.data.began))
            key.data.send()
    return found


def opened(url: str, rate: float, seconds: float) -> list[Sample]:
    """Poisson arrivals; seconds from the sending, the first tenth does not count."""
    address, request = http_request(url, BODY, {})
    times = arrivals("poisson", rate, 1.1 * seconds, 1)
    generator = Generator(address, request, 512)
    gc.disable()
    generator.run(times)
    generator.close()
    return [
        (status, answered - generator.sent[number])
        for number, (answered, status) in generator.answered.items()
        if times[number] >= 0.1 * seconds
    ]


def probing(urls: Sequence[str], seconds: float, pause: float = 0.05, post: bool = False) -> list[Sample]:
    """Asks each address in turn, on a connection of its own."""
    asked = []
    for url in urls:
        address, request = http_request(url, BODY if post else b"", {})
        asked.append(Connection(address, request if post else _get(url)))
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        for connection in asked:
            connection.send()
            while (status := connection.receive()) is None:
                pass
            found.append((status, time.perf_counter() - connection.began))
        time.sleep(pause)
    return found


def _get(url: str) -> bytes:
    parts = urlsplit(url)
    return f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()


# -- the comparison -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One load, and what those beside it saw."""

    name: str
    load: Seen
    others: Seen
    second: Seen


class Comparison:
    """Runs the loads one after another against one server."""

    def __init__(self, server: ServedProcess, seconds: float, pool: ProcessPoolExecutor) -> None:
        self._server, self._seconds, self._pool = server, seconds, pool
        self._first, self._second = (f"{server.inference}/v2/models/{name}/infer" for name in ("first", "second"))
        self._others = [f"{server.inference}/v2/health/ready", f"{server.management}/models", f"{server.metrics}/metrics"]

    def row(self, name: str, load: Future[list[Sample]] | None) -> Row:
        others = self._pool.submit(probing, self._others, self._seconds)
        second = self._pool.submit(probing, [self._second], self._seconds, 0.1, True)
        seen = load.result() if load is not None else []
        return Row(name, *(summary(samples, self._seconds) for samples in (seen, others.result(), second.result())))

    def __call__(self) -> list[Row]:
        submit, seconds = self._pool.submit, self._seconds
        rows = [self.row("idle", None)]
        for times in (1, 2, 10):  # at 1x one batch runs and one waits: the model is always busy
            load = submit(closed, self._first, times * 2 * ROWS, seconds)
            rows.append(self.row(f"closed, {times}x", load))
        for times in (1, 2, 10):
            load = submit(opened, self._first, times * BEST, seconds)
            rows.append(self.row(f"open, {times}x", load))
        return rows


def problems(rows: Sequence[Row]) -> list[str]:
    """Claims that do not hold."""
    found = []
    idle, *loads = rows
    peak = max(row.load.goodput for row in loads)
    for row in loads:
        load = row.load
        if row.name != "open, 1x" and load.goodput < GOODPUT * peak:  # arrivals by chance leave gaps at 1x
            found.append(f"{row.name}: goodput {load.goodput / peak:.0%} of the peak")
        if load.p99.get("200", 0.0) > BOUND_S:
            found.append(
                f"{row.name}: accepted requests took {1e3 * load.p99['200']:.0f} ms, the bound is {1e3 * BOUND_S:.0f} ms"
            )
        if load.p99.get("503", 0.0) > REFUSED_S:
            found.append(f"{row.name}: refusals took {1e3 * load.p99['503']:.1f} ms")
        if set(load.counts) - {"200", "503"}:
            found.append(f"{row.name}: answered with {load.counts}")
        if row.others.p99["200"] > OTHERS_S or set(row.others.counts) != {"200"}:
            found.append(
                f"{row.name}: health, management, metrics {row.others.counts}, {1e3 * row.others.p99['200']:.0f} ms"
            )
        fair = idle.second.p99["200"] + FAIR_S
        if set(row.second.counts) != {"200"} or row.second.p99["200"] > fair:
            found.append(f"{row.name}: the second model {row.second.counts}, {1e3 * row.second.p99['200']:.0f} ms")
    return found


def table(rows: Sequence[Row]) -> list[str]:
    peak = max(row.load.goodput for row in rows)
    lines = [
        "| load | goodput | of peak | refused | accepted p99 | refused p99 | health, metrics, models p99 | second model p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        load, none = row.load, float("nan")
        seconds = (load.p99.get("200", none), load.p99.get("503", none), row.others.p99["200"], row.second.p99["200"])
        figures = [f"{load.goodput:.1f}/s", f"{load.goodput / peak:.0%}", str(load.counts.get("503", 0))]
        figures += ["–" if math.isnan(value) else f"{1e3 * value:.1f} ms" for value in seconds]
        lines.append(f"| {row.name} | " + " | ".join(figures) + " |")
    return lines


def write(folder: Path) -> None:
    """The model that is overloaded, and the one that is not."""
    for name in ("first", "second"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(_CONFIG.format(rows=ROWS, queue=QUEUE))
        (folder / name / "1" / "model.py").write_text(_MODEL.format(seconds=BATCH_S))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jitney.tools.dev.overload", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--front-ends", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the figures are written too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="jitney-overload-") as folder:
        write(Path(folder))
        context = multiprocessing.get_context("spawn")
        with (
            serving(Path(folder), properties=f"front_ends={options.front_ends}\ndisable_system_metrics=true\n") as server,
            ProcessPoolExecutor(3, mp_context=context) as pool,
        ):
            rows = Comparison(server, options.seconds, pool)()
    print("\n".join(table(rows)))
    if options.json:
        options.json.write_text(json.dumps([{"name": row.name, "goodput": row.load.goodput} for row in rows]))
    wrong = problems(rows)
    print("\n".join(wrong) or "all claims hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
