"""A real server whose traces a real collector takes: over HTTP and gRPC, with and without front ends, and into Triton's file."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import tritonclient.grpc as triton

from jitney.tests.fakes.grpc import COUNT, COUNT_CONFIG, DOUBLE, DOUBLE_CONFIG, Site, count, given, grpc_serving
from jitney.tests.fakes.otlp import Collector, Span, collecting
from jitney.tests.fakes.serving import write_model

OPEN = build_opener(ProxyHandler({}))
CHAIN = """platform: "ensemble" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [
  { model_name: "double" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "once" } },
  { model_name: "double" model_version: -1 input_map { key: "x" value: "once" } output_map { key: "y" value: "y" } }
] }
"""
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
IDS = itertools.count(1)


def models(folder: Path) -> Path:
    batching = "instance_group [ { kind: KIND_CPU } ] dynamic_batching { max_queue_delay_microseconds: 20000 }"
    write_model(folder, "double", DOUBLE_CONFIG + batching, DOUBLE)
    (folder / "double" / "labels.txt").write_text("left\nright\n")
    write_model(folder, "count", COUNT_CONFIG, COUNT)
    write_model(folder, "chain", CHAIN, "")
    return folder


def flags(collector: Collector, rate: int = 0) -> list[str]:
    return [
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url={collector.url}",
        "--trace-config=opentelemetry,resource=service.name=tested",
        "--trace-config=opentelemetry,bsp_schedule_delay=50",
        f"--trace-config=rate={rate}",
        "--trace-config=level=TIMESTAMPS",
    ]


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "front ends"])
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Collector]]:
    folder = models(tmp_path_factory.mktemp("models"))
    with collecting() as collector:
        properties = f"front_ends={request.param}\n"
        with grpc_serving(folder, *flags(collector), properties=properties) as site:
            yield site, collector


@pytest.fixture
def fresh(traced: tuple[Site, Collector]) -> tuple[Site, Collector]:
    traced[1].spans.clear()
    return traced


def parent(flag: str = "01") -> dict[str, str]:
    """A span of the client's; each request has one of its own in the client's trace."""
    return {"traceparent": f"00-{TRACE}-{next(IDS):016x}-{flag}", "tracestate": "vendor=said"}


def post(site: Site, path: str, document: Any, headers: dict[str, str] | None = None) -> Any:
    request = Request(site.server.inference + path, json.dumps(document).encode(), headers or {}, method="POST")
    with OPEN.open(request, timeout=20) as answer:
        return json.loads(answer.read() or b"null")


def infer(site: Site, model: str = "double", headers: dict[str, str] | None = None, rows: int = 1) -> Any:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [1.0, 2.0] * rows}]
    return post(site, f"/v2/models/{model}/infer", {"id": "mine", "inputs": inputs}, headers)


def lies_within(inner: Span, outer: Span) -> bool:
    first, last = inner.proto.start_time_unix_nano, inner.proto.end_time_unix_nano
    return bool(outer.proto.start_time_unix_nano <= first <= last <= outer.proto.end_time_unix_nano)


def test_a_request_of_a_client_that_traces_becomes_part_of_its_trace(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    headers = parent()
    infer(site, headers=headers)
    [root] = collector.wait(1)
    assert (root.trace, root.parent, root.proto.trace_state) == (TRACE, headers["traceparent"][36:52], "vendor=said")
    assert (root.proto.kind, root.resource["service.name"]) == (2, "tested")  # SPAN_KIND_SERVER
    assert root.attributes.items() >= {
        "http.request.method": "POST", "url.path": "/v2/models/double/infer", "http.response.status_code": 200,
        "client.address": "127.0.0.1",
    }.items()  # fmt: skip
    assert root.events == ["HTTP_RECV_END", "HTTP_SEND_END"]
    below = collector.children(root)
    assert set(below) == {"decode", "double", "encode"}
    model = below["double"]
    assert model.events == ["REQUEST_START", "QUEUE_START", "INFER_RESPONSE_COMPLETE", "REQUEST_END"]
    assert model.attributes == {
        "triton.model_name": "double", "triton.model_version": "1", "triton.request_id": "mine",
    }  # fmt: skip
    within = collector.children(model)
    assert set(within) == {"queue", "batch"}
    compute = collector.children(within["batch"])["compute"]
    assert compute.events == ["COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"]
    assert within["batch"].attributes.items() >= {"jitney.batch.rows": 1, "jitney.request.rows": 1}.items()
    assert within["queue"].proto.end_time_unix_nano == within["batch"].proto.start_time_unix_nano
    for inner, outer in ((compute, within["batch"]), (within["batch"], model), (model, root), (below["decode"], root)):
        assert lies_within(inner, outer)
    queued = within["queue"].proto.end_time_unix_nano - within["queue"].proto.start_time_unix_nano
    assert queued >= 20_000_000  # the model's delay


def test_requests_of_one_batch_are_linked(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    threads = [threading.Thread(target=infer, args=(site,), kwargs={"headers": parent()}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    roots = collector.wait(8)
    batches: dict[str, list[tuple[Span, Span]]] = {}
    for root in roots:
        model = collector.children(root)["double"]
        batch = collector.children(model)["batch"]
        batches.setdefault(batch.attributes["jitney.batch.id"], []).append((model, batch))
    assert max(len(members) for members in batches.values()) > 1
    for members in batches.values():
        ids = {model.id for model, _ in members}
        for model, batch in members:
            assert batch.links == ids - {model.id}
            assert batch.attributes["jitney.batch.rows"] == len(members)


def test_who_is_not_traced(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    infer(site)  # rate=0
    infer(site, headers=parent("00"))  # the client does not trace it
    infer(site, headers={"traceparent": "00-nonsense"})
    infer(site, headers=parent())
    assert len(collector.wait(1)) == 1


def test_an_ensemble_shows_its_steps(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    infer(site, "chain", parent())
    [root] = collector.wait(1)
    whole = collector.children(root)["chain"]
    steps = [span for span in collector.spans if span.parent == whole.id]
    assert [step.name for step in steps] == ["double", "double"]
    assert all(set(collector.children(step)) == {"queue", "batch"} for step in steps)
    assert all(lies_within(step, whole) for step in steps)


def test_a_failure_is_an_error_and_a_refusal_is_not(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    with pytest.raises(OSError, match="HTTP Error 400"):
        post(site, "/v2/models/double/infer", {"inputs": []}, parent())
    [refused] = collector.wait(1)
    assert (refused.attributes["http.response.status_code"], refused.proto.status.code) == (400, 0)
    assert collector.children(refused) == {}
    with pytest.raises(OSError, match="HTTP Error 500"):
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [-1000.0, 0.0]}]  # ends the worker
        post(site, "/v2/models/double/infer", {"inputs": inputs}, parent())
    _, failed = collector.wait(2)
    assert failed.attributes["http.response.status_code"] == 500
    assert failed.proto.status.code == 2  # STATUS_CODE_ERROR
    assert "WorkerDied" in failed.proto.status.message


def test_generate_is_traced_too(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    post(site, "/v2/models/count/generate", {"n": [1, 0]}, parent())
    [root] = collector.wait(1)
    assert root.attributes["url.path"] == "/v2/models/count/generate"
    assert "count" in collector.children(root)


def ask_grpc(site: Site, headers: dict[str, str]) -> None:
    with triton.InferenceServerClient(site.address) as client:
        client.infer("double", [given()], request_id="grpc", headers=headers)


def test_grpc_is_traced_by_its_metadata(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    ask_grpc(site, parent())
    ask_grpc(site, parent("00"))
    [root] = collector.wait(1)
    assert root.trace == TRACE
    assert root.attributes.items() >= {
        "rpc.system.name": "grpc", "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
    }.items()  # fmt: skip
    batch = collector.children(collector.children(root)["double"])["batch"]
    assert batch.attributes["jitney.batch.rows"] == 2  # rows of its one request


def test_each_request_of_a_grpc_stream_is_traced(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    done = threading.Event()
    with triton.InferenceServerClient(site.address) as client:
        client.start_stream(lambda result, error: done.set(), headers=parent())
        client.async_stream_infer("count", count(1))
        assert done.wait(20)
        client.stop_stream()
    [root] = collector.wait(1)
    assert root.attributes["rpc.method"] == "inference.GRPCInferenceService/ModelStreamInfer"


def test_settings_change_while_the_server_runs(fresh: tuple[Site, Collector]) -> None:
    """Every process of the server hears of them; a model may differ, and `trace_count` ends it."""
    site, collector = fresh
    setting = "/v2/models/double/trace/setting"
    changed = post(site, setting, {"trace_rate": "1", "trace_count": "2"})
    assert (changed["trace_mode"], changed["trace_rate"], changed["trace_count"]) == ("opentelemetry", "1", "2")
    try:
        infer(site)
        post(site, "/v2/models/count/generate", {"n": [1, 0]})  # of which nothing was said
        with triton.InferenceServerClient(site.address) as client:
            client.infer("double", [given()])
        assert len(collector.wait(2)) == 2
        infer(site)
        with triton.InferenceServerClient(site.address) as client:
            assert client.get_trace_settings("double").settings["trace_count"].value == ["0"]
            client.update_trace_settings("double", {"trace_level": ["OFF"]})
        infer(site, headers=parent())  # which OFF does not trace either
        post(site, "/v2/models/count/generate", {"n": [1, 0]}, parent())
        assert [collector.children(root).keys() & {"count", "double"} for root in collector.wait(3)[2:]] == [{"count"}]
    finally:
        post(site, setting, dict.fromkeys(("trace_rate", "trace_count", "trace_level")))


def test_what_the_collector_does_not_take_is_counted_and_said_once(tmp_path: Path) -> None:
    with collecting() as collector:
        collector.status = 400
        with grpc_serving(models(tmp_path), *flags(collector, rate=1)) as site:
            infer(site)
            metrics = b""
            while b'jitney_traces_total{outcome="failed"} 1.0' not in metrics:
                with OPEN.open(site.server.metrics + "/metrics", timeout=20) as answer:
                    metrics = answer.read()
            infer(site)
        lines = [line for line in site.server.lines if "traces are lost" in line]
        assert len(lines) == 1, site.server.lines
        assert "400" in lines[0]


def test_metrics_lead_to_traces(fresh: tuple[Site, Collector]) -> None:
    site, collector = fresh
    infer(site, headers=parent())
    collector.wait(1)
    text, request = "", Request(site.server.metrics + "/metrics", headers={"accept": "application/openmetrics-text"})
    while TRACE not in text:
        with OPEN.open(request, timeout=20) as answer:
            text = answer.read().decode()
    shown = [line for line in text.splitlines() if TRACE in line]
    assert {line.partition("{")[0] for line in shown} == {"jitney_queue_seconds_bucket", "jitney_compute_seconds_bucket"}


# -- Triton's own file -----------------------------------------------------------------------------------------------------


def file_of(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / name).read_text())
    return found


def test_triton_s_file(tmp_path: Path) -> None:
    flags = ["--trace-config", f"triton,file={tmp_path / 'trace.json'}", "--trace-level=TIMESTAMPS", "--trace-level=TENSORS"]
    with grpc_serving(models(tmp_path / "models"), *flags, "--trace-rate=2") as site:
        for _ in range(4):
            infer(site)
        infer(site, "chain", headers=parent())  # whose header means nothing in this mode, and whose turn is not
        assert post(site, "/v2/trace/setting", {"trace_rate": "1"})["trace_file"].endswith("trace.json")
        infer(site, "chain")
        with triton.InferenceServerClient(site.address) as client:
            client.infer("double", [given()])
    entries = file_of(tmp_path, "trace.json")
    heads = [entry for entry in entries if "model_name" in entry]
    assert [head["model_name"] for head in heads] == ["double", "double", "chain", "double", "double", "double"]
    assert heads[0] == {"id": 1, "model_name": "double", "model_version": 1, "request_id": "mine"}
    assert [head.get("parent_id") for head in heads] == [None, None, None, 3, 3, None]
    stamps = {stamp["name"]: stamp["ns"] for entry in entries if entry["id"] == 1 for stamp in entry.get("timestamps", [])}
    order = ["HTTP_RECV_START", "HTTP_RECV_END", "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END"]
    order += [
        "COMPUTE_OUTPUT_START",
        "COMPUTE_END",
        "INFER_RESPONSE_COMPLETE",
        "REQUEST_END",
        "HTTP_SEND_START",
        "HTTP_SEND_END",
    ]
    assert set(stamps) == set(order)
    assert [stamps[name] for name in order] == sorted(stamps.values())
    assert "GRPC_SEND_END" in [stamp["name"] for entry in entries for stamp in entry.get("timestamps", [])]
    tensors = [(entry["activity"], entry["tensor"]) for entry in entries if entry["id"] == 1 and "tensor" in entry]
    assert tensors[0] == ("TENSOR_QUEUE_INPUT", {"name": "x", "data": "1.0,2.0", "shape": "1,2", "dtype": "FP32"})
    assert tensors[1] == ("TENSOR_BACKEND_OUTPUT", {"name": "y", "data": "2.0,4.0", "shape": "1,2", "dtype": "FP32"})
    assert tensors[2][1]["data"].startswith('"{')


def test_numbered_files(tmp_path: Path) -> None:
    entries = [f"triton,file={tmp_path}/trace.json,log-frequency=2", "level=TIMESTAMPS", "rate=1", "count=3"]
    with grpc_serving(models(tmp_path / "models"), properties=f"trace_config={' '.join(entries)}\n") as site:
        for _ in range(4):
            infer(site)
        assert post(site, "/v2/trace/setting", {})["trace_count"] == "0"
    assert sorted(path.name for path in tmp_path.glob("trace.json*")) == ["trace.json.0", "trace.json.1"]
    assert {entry["id"] for entry in file_of(tmp_path, "trace.json.0")} == {1, 2}
    assert {entry["id"] for entry in file_of(tmp_path, "trace.json.1")} == {3}
