"""Archives with TorchServe's `sequenceBatching`, in a real server over HTTP and gRPC: a handler that adds up each sequence."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from jitney.server.grpc import schema
from jitney.tests.fakes.raw_http import Answer, ask
from jitney.tests.fakes.torchserve_server import Site, archive, running
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import wait_until

SUMS = """
import os, time

class Sums:
    def initialize(self, context):
        self.sums = {}

    def handle(self, data, context):
        out = []
        for index, row in enumerate(data):
            sequence = context.get_sequence_id(index)
            if context.get_request_header(index, context.header_key_sequence_start) == "true":
                self.sums[sequence] = 0
            number = float(row.get("data") or row.get("body") or 0)
            if number >= 1000:
                time.sleep(number / 10000)
            self.sums[sequence] = self.sums.get(sequence, 0) + number
            context.set_response_header(index, "sequence", sequence)
            out.append({"sum": self.sums[sequence], "batch": len(data), "pid": os.getpid()})
        return out
"""
YAML = """
minWorkers: 2
maxWorkers: 2
batchSize: 4
maxBatchDelay: 20
sequenceBatching: true
sequenceMaxIdleMSec: {idle}
sequenceTimeoutMSec: {lifetime}
maxNumSequence: {most}
maxSequenceJobQueueSize: 2
"""
PREDICT = "org.pytorch.serve.grpc.inference.InferenceAPIsService"


def pack(folder: Path, name: str, idle: int = 60_000, lifetime: int = 0, most: int = 8) -> None:
    yaml = folder / "model-config.yaml"
    yaml.write_text(YAML.format(idle=idle, lifetime=lifetime, most=most))
    archive(folder / "store", name, SUMS, entry="", config_file=str(yaml))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    pack(folder, "sums")
    pack(folder, "brief", idle=300, lifetime=0, most=2)
    pack(folder, "short", idle=60_000, lifetime=700, most=2)
    more: dict[str, Any] = {
        "allow_grpc": "true",
        "grpc_inference_port": str(free_port()),
        "grpc_management_port": str(free_port()),
    }
    arguments = ("--ncs", "--models", "all")
    with running(folder, arguments, disable_token_authorization="true", **more) as found:
        vars(found)["grpc"] = f"127.0.0.1:{more['grpc_inference_port']}"
        yield found


def add(site: Site, model: str, sequence: str, number: float, **headers: str) -> Answer:
    named = {"ts_request_sequence_id": sequence} if sequence else {}
    return ask(
        site.addresses["inference"], "POST", f"/predictions/{model}", str(number).encode(), named | headers, timeout=60
    )


def total(answer: Answer) -> Any:
    assert answer.status == 200, answer
    return json.loads(answer.body)["sum"]


def test_each_sequence_keeps_its_state_and_its_worker(site: Site) -> None:
    with ThreadPoolExecutor(6) as pool:
        rounds = [list(pool.map(lambda n: add(site, "sums", f"s{n}", n), range(6))) for _ in range(4)]
    assert [[total(answer) for answer in answers] for answers in rounds] == [[k * n for n in range(6)] for k in range(1, 5)]
    pids = [[json.loads(answer.body)["pid"] for answer in answers] for answers in rounds]
    assert pids[0] == pids[1] == pids[2] == pids[3]
    assert len(set(pids[0])) == 2


def test_the_next_request_of_a_sequence_waits_and_the_queue_of_each_is_bounded(site: Site) -> None:
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(add, site, "sums", "queued", 5000)
        time.sleep(0.15)
        others = [pool.submit(add, site, "sums", "queued", 1) for _ in range(3)]
        found = sorted(each.result().status for each in others)
        assert total(first.result()) == 5000
    assert found == [200, 200, 503]
    refused = next(each.result() for each in others if each.result().status == 503)
    assert b"exceeds maxSequenceJobQueueSize" in refused.body
    assert total(add(site, "sums", "queued", 0, ts_request_sequence_end="true")) == 5002


def test_one_without_a_name_begins_a_sequence_that_its_handler_names(site: Site) -> None:
    answer = add(site, "sums", "", 7)
    name = answer.header("sequence") or ""
    assert re.fullmatch(r"ts-seq-[0-9a-f-]{36}", name)
    assert total(answer) == 7
    assert total(add(site, "sums", name, 1, ts_request_sequence_end="true")) == 8


def test_the_start_header_is_for_the_handler(site: Site) -> None:
    add(site, "sums", "again", 5)
    assert total(add(site, "sums", "again", 2, ts_request_sequence_start="true")) == 2
    add(site, "sums", "again", 0, ts_request_sequence_end="true")


def test_there_are_so_many_sequences_at_a_time_and_idle_ones_make_room(site: Site) -> None:
    assert [add(site, "brief", name, 1).status for name in ("a", "b", "c")] == [200, 200, 503]
    time.sleep(0.35)
    assert add(site, "brief", "c", 1).status == 200


def test_a_sequence_has_a_longest_life(site: Site) -> None:
    """However often it is asked; the idle time is a minute."""
    assert [add(site, "short", name, 1).status for name in ("a", "b", "c")] == [200, 200, 503]
    for _ in range(3):
        time.sleep(0.2)
        add(site, "short", "a", 1)
    time.sleep(0.3)
    assert add(site, "short", "c", 1).status == 200
    assert total(add(site, "short", "c", 1)) == 2


def test_who_asks_a_sequence_whose_worker_died_is_told_once(site: Site) -> None:
    pid = json.loads(add(site, "sums", "lost", 3).body)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.manage("GET", "/models/sums")[1][0]["workers"][0]["status"] == "READY", 20, "the worker")
    time.sleep(0.2)
    told = add(site, "sums", "lost", 3)
    assert (told.status, b"Worker died." in told.body) == (500, True)
    assert "was lost with the worker" in (told.header("x-jitney-reason") or "")
    wait_until(lambda: add(site, "sums", "lost", 0).status == 200, 20, "a new worker")
    assert total(add(site, "sums", "lost", 4)) == 4


def test_describe_tells_of_it(site: Site) -> None:
    (shown,) = site.manage("GET", "/models/sums")[1]
    names = ("stateful", "sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence", "maxSequenceJobQueueSize")
    assert [shown[name] for name in names] == [True, 60_000, 0, 8, 2]


# ---- gRPC


def stream(site: Site, *messages: dict[str, Any]) -> list[Any]:
    methods = schema.torchserve().methods[PREDICT]
    method = methods["StreamPredictions2"]
    with grpc.insecure_channel(vars(site)["grpc"]) as channel:
        call = channel.stream_stream(method.path, method.request.SerializeToString, method.response.FromString)
        return list(call(iter([method.request(**fields) for fields in messages]), timeout=20))


def message(number: float, sequence: str = "g", **flags: str) -> dict[str, Any]:
    inputs = {"data": str(number).encode(), **{name: value.encode() for name, value in flags.items()}}
    return {"model_name": "sums", "input": inputs} | ({"sequence_id": sequence} if sequence else {})


def test_a_stream_carries_the_requests_of_sequences(site: Site) -> None:
    answers = stream(site, message(1), message(2), message(5, "h"), message(4, ts_request_sequence_end="true"))
    assert [json.loads(answer.prediction)["sum"] for answer in answers] == [1, 3, 5, 7]


def test_a_message_that_names_no_sequence_is_told_and_the_stream_goes_on(site: Site) -> None:
    wrong, right = stream(site, message(1, ""), message(1, "i"))
    assert (wrong.status.code, wrong.status.message) == (13, "Parameter sequenceId is required.")
    assert json.loads(right.prediction)["sum"] == 1


def test_a_unary_call_belongs_to_a_sequence_too(site: Site) -> None:
    method = schema.torchserve().methods[PREDICT]["Predictions"]
    with grpc.insecure_channel(vars(site)["grpc"]) as channel:
        call = channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        answers = [call(method.request(**message(2, "u")), timeout=20) for _ in range(3)]
    assert [json.loads(answer.prediction)["sum"] for answer in answers] == [2, 4, 6]
