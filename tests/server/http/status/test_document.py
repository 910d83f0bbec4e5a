"""`/status.json` of a server with real workers: models and reasons, workers, what waits, batches, times."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitney.backends import gpus
from jitney.core.call import Call
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.server.batching.item import Line, Waiting
from jitney.server.http.app import Services
from jitney.server.http.status.document import MAX_LINES
from jitney.server.metrics import Metrics
from jitney.server.settings.restrictions import parse
from jitney.server.web import Web
from jitney.tests.fakes.frontends import opened_fronts, plane_of, settings
from jitney.tests.fakes.plane import LoadedPlane, doubling
from jitney.tests.fakes.raw_http import Answer, ask
from jitney.tools.bench.served import wait_until

ROWS = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}'
QUEUED = "dynamic_batching { max_queue_delay_microseconds: 2000 priority_levels: 2 default_priority_level: 2 }"


class House:
    """A web over real workers."""

    def __init__(self, web: Web, plane: LoadedPlane) -> None:
        self.web, self.plane = web, plane

    def ask(self, method: str, path: str, body: bytes | None = None, port: str = "management") -> Answer:
        return ask(self.web.address(port), method, path, body, timeout=30)  # type: ignore[arg-type]

    def status(self) -> Any:
        answer = self.ask("GET", "/status.json")
        assert answer.status == 200 and answer.header("content-type") == "application/json"
        return json.loads(answer.body)

    def version(self, model: str) -> Any:
        return next(found for found in self.status()["models"] if found["name"] == model)["versions"][0]


@contextlib.contextmanager
def house(folder: Path, store: Path | None = None, **values: Any) -> Iterator[House]:
    with plane_of(folder, store) as plane:
        metrics = Metrics(plane.registry.deployments)
        web = Web(Services(plane, plane.control, metrics, settings(front_ends=1, **values), None, plane.io))
        web.start()
        try:
            yield House(web, plane)
        finally:
            web.close(5)


def broken(folder: Path) -> None:
    """A model whose file does not load."""
    doubling(folder, "broken")
    (folder / "broken" / "1" / "model.py").write_text("import a_module_that_is_not_there\n")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("status")
    doubling(folder, "double", QUEUED)
    broken(folder)
    with house(folder) as found:
        yield found


def test_each_model_is_listed_with_its_state_and_why_it_is_not_ready(served: House) -> None:
    models = {model["name"]: model for model in served.status()["models"]}
    assert sorted(models) == ["broken", "double"]
    good, bad = models["double"]["versions"][0], models["broken"]["versions"][0]
    assert (good["state"], good["reason"], good["ready"], models["double"]["default"]) == ("READY", "", True, "1")
    assert not bad["ready"] and "a_module_that_is_not_there" in bad["reason"]
    assert good["inputs"] == [{"name": "x", "datatype": "FP32", "dims": [2], "optional": False}]


def test_workers_are_those_that_run(served: House) -> None:
    (worker,) = served.version("double")["workers"]
    assert worker["state"] in ("READY", "BUSY") and worker["device"] == "CPU" and worker["restarts"] == 0
    os.kill(worker["pid"], 0)
    assert worker["memory_bytes"] > 1 << 20


def test_requests_count_and_their_time_is_split(served: House) -> None:
    before = served.version("double")["counters"]
    for _ in range(5):
        assert served.ask("POST", "/v2/models/double/infer", ROWS, "inference").status == 200
    wanted = before["requests"] + 5  # counted after the answer has left
    wait_until(lambda: served.version("double")["counters"]["requests"] == wanted, 10, "what is counted")
    found = served.version("double")
    assert found["counters"]["rows"] - before["rows"] == 5
    parts = found["last_minute"]["parts"]
    assert list(parts) == ["decode", "queue", "way", "compute", "encode"]
    assert all(0 < part["p50_ms"] <= part["p99_ms"] < 10_000 for part in parts.values()), parts
    assert parts["queue"]["p50_ms"] >= 2, "the declared delay"


def test_batches_say_why_they_left_beside_what_is_allowed(served: House) -> None:
    assert served.ask("POST", "/v2/models/double/infer", ROWS, "inference").status == 200
    found = served.version("double")
    sizes = {size["rows"]: size["left"] for size in found["last_minute"]["batches"]}
    assert sizes[1]["delay"] >= 1
    assert found["batching"]["max_batch_size"] == 8 and found["batching"]["max_queue_delay_ms"] == 2
    assert found["batching"]["enabled"] is True


def test_what_waits_is_told_by_lane_and_priority(tmp_path: Path) -> None:
    doubling(tmp_path, "slow", QUEUED, seconds=1, dims="-1")
    with house(tmp_path) as found:
        first = _send(found.plane, 2, 0)
        wait_until(lambda: found.version("slow")["workers"][0]["state"] == "BUSY", 10, "the worker to be busy")
        calls = [first, *(_send(found.plane, width, priority) for width, priority in ((2, 1), (2, 2), (2, 0), (3, 0)))]
        waiting = found.version("slow")["waiting"]
        assert waiting["rows"] == 4 and waiting["oldest_ms"] > 0 and waiting["lanes_left_out"] == 0
        lanes = [(lane["lane"], lane["priority"], lane["requests"], lane["rows"]) for lane in waiting["lanes"]]
        assert sorted(lanes) == [("x FP32[2]", 1, 1, 1), ("x FP32[2]", 2, 2, 2), ("x FP32[3]", 2, 1, 1)]
        for call in calls:
            call.result(30)
        assert found.version("slow")["waiting"] == {
            "requests": 0, "rows": 0, "oldest_ms": 0.0, "lanes": [], "lanes_left_out": 0,
        }  # fmt: skip


def _send(plane: LoadedPlane, width: int, priority: int) -> Call:
    tensor = Tensor("x", "FP32", (1, width), bytes(4 * width))
    return plane.infer("slow", None, Request("", [tensor]), priority=priority)


def test_archives_are_there_too(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "models").mkdir()
    manifest = {"runtime": "python", "model": {"modelName": "m", "handler": "h.py:handle", "modelVersion": "1.0"}}
    with zipfile.ZipFile(tmp_path / "store" / "m.mar", "w") as made:
        made.writestr("h.py", "def handle(data, context):\n    return [b'x' for _ in data] if data else None\n")
        made.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    with house(tmp_path / "models", tmp_path / "store") as found:
        assert found.ask("POST", "/predictions/m", b"hello", "inference").status == 200
        parts = {"decode", "queue", "way", "compute", "encode"}  # counted after the answer has left
        wait_until(lambda: set(found.version("m")["last_minute"]["parts"]) == parts, 10, "what is counted")
        version = found.version("m")
        assert (version["archive"], version["backend"], version["counters"]["requests"]) == (True, "handler", 1)


def test_other_methods_and_ports_have_no_status(served: House) -> None:
    assert served.ask("POST", "/status.json", b"").status == 405
    assert served.ask("GET", "/status.json", port="inference").status == 404


def test_gpus_are_listed_where_there_are_any(served: House, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        def read(self) -> tuple[gpus.GpuFigures, ...]:
            return (gpus.GpuFigures(1, "GPU-1", 75.0, 20.0, 1024.0, 81920.0),)

    monkeypatch.setattr(gpus, "READER", Reader())
    assert served.status()["gpus"] == [
        {"index": 1, "utilization": 75.0, "memory_used_mib": 1024.0, "memory_total_mib": 81920.0}
    ]


def test_of_many_lanes_those_with_most_requests_are_listed(served: House, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tuple(Line((("x", "FP32", (n,)),), 0, False, n, n, 0.001) for n in range(MAX_LINES + 5))
    (deployment,) = served.plane.registry.deployments()
    monkeypatch.setattr(deployment, "waiting", lambda: Waiting(9, 9, 0.001, lines))
    waiting = served.version("double")["waiting"]
    assert (len(waiting["lanes"]), waiting["lanes_left_out"]) == (MAX_LINES, 5)
    assert waiting["lanes"][0]["lane"] == f"x FP32[{MAX_LINES + 4}]" and waiting["lanes"][0]["oldest_ms"] == 1


def test_with_several_front_ends_what_they_do_is_not_measured(tmp_path: Path) -> None:
    doubling(tmp_path, "double")
    with plane_of(tmp_path) as plane, opened_fronts(plane, front_ends=2) as fronts:
        assert fronts.ask("POST", "/v2/models/double/infer", ROWS).status == 200
        (model,) = json.loads(fronts.ask("GET", "/status.json", port="management").body)["models"]
        assert model["versions"][0]["counters"]["requests"] == 1
        assert list(model["versions"][0]["last_minute"]["parts"]) == ["queue", "way", "compute"]


def test_a_restricted_group_restricts_it_here_too(tmp_path: Path) -> None:
    closed = parse("inference,statistics:x-secret=s3cret")
    doubling(tmp_path, "double")
    with house(tmp_path, http_restricted_api=closed) as found:
        path = "/status/try/v2/models/double/infer"
        assert found.ask("POST", path, ROWS).status == 403 and found.ask("GET", "/status.json").status == 403
        assert found.ask("POST", "/status/try/predictions/double", b"{}").status == 403
        assert ask(found.web.address("management"), "POST", path, ROWS, {"x-secret": "s3cret"}).status == 200
        assert found.ask("GET", "/status").status == 200
