"""TorchServe's gRPC services over a real server, as `ts_scripts/torchserve_grpc_client.py` and other clients call them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from jitney.core.errors import ModelFailed
from jitney.server.grpc import schema
from jitney.server.grpc.torchserve.errors import inference_status
from jitney.tests.fakes.certificates import self_signed
from jitney.tests.fakes.torchserve_server import CAPITALS, Site, archive, running
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import wait_until

PREDICT = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGE = "org.pytorch.serve.grpc.management.ManagementAPIsService"
OPEN = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
#: Three parts, then a last one.
PARTS = """
from ts.protocol.otf_message_handler import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    for i in range(3):
        send_intermediate_predict_response([f"part{i}"], context.request_ids, "ok", 200, context)
    return ["last"]
"""
#: Continuous batching: as many pieces as the request says, beginning with an empty one.
ROUNDS = """
def handle(data, context):
    if data is None:
        context.left = {}
        return None
    ids = list(context.request_ids.values())
    for req_id, row in zip(ids, data):
        context.left.setdefault(req_id, int(row["data"]) if row else None)
        context.left[req_id] -= 1
    context.stopping_criteria = [lambda piece, left=context.left[req_id]: left == 0 for req_id in ids]
    first = [context.left[req_id] for req_id in ids]
    return ["" if row else str(left) for row, left in zip(data, first)]
"""
#: Tells how its inputs came.
TELLS = """
def handle(data, context):
    if data is None:
        return None
    told = lambda value: bytes(value).decode() if isinstance(value, bytearray) else value
    return [{name: [type(value).__name__, told(value)] for name, value in row.items()} for row in data]
"""
#: A handler behind the envelope of KServe v2: doubles its only input.
DOUBLES = """
def handle(data, context):
    if data is None:
        return None
    return [[2 * number for number in row["data"]] for row in data]
"""


class Client:
    """Calls by name, with fields of the request as keywords."""

    def __init__(self, channels: dict[str, Any]) -> None:
        self._channels = channels

    def call(self, service: str, method: str, metadata: Any = None, timeout: float = 30, **fields: Any) -> Any:
        found = schema.torchserve().methods[service][method]
        channel = self._channels["management" if service == MANAGE else "inference"]
        kind = {(0, 0): "unary_unary", (0, 1): "unary_stream", (1, 1): "stream_stream"}[
            found.client_streams, found.server_streams
        ]
        call = getattr(channel, kind)(found.path, found.request.SerializeToString, found.response.FromString)
        request = found.request(**fields)
        answer = call(iter([request]) if found.client_streams else request, metadata=metadata, timeout=timeout)
        return list(answer) if found.server_streams else answer

    def predict(self, model: str, data: bytes = b"", **inputs: bytes) -> bytes:
        answer: bytes = self.call(PREDICT, "Predictions", model_name=model, input={"data": data, **inputs}).prediction
        return answer

    def manage(self, method: str, **fields: Any) -> str:
        text: str = self.call(MANAGE, method, **fields).msg
        return text


def refused(call: Any, *args: Any, **values: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **values)
    return caught.value.code().name, caught.value.details()


def channels(inference: int, management: int) -> dict[str, Any]:
    ports = {"inference": inference, "management": management}
    return {name: grpc.insecure_channel(f"127.0.0.1:{port}") for name, port in ports.items()}


def grpc_ports() -> dict[str, Any]:
    return {f"grpc_{api}_port": str(free_port()) for api in ("inference", "management")} | {"allow_grpc": "true"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Client, int]]:
    folder = tmp_path_factory.mktemp("torchserve")
    store = folder / "store"
    for name, source in {"capitals": CAPITALS, "parts": PARTS, "tells": TELLS}.items():
        archive(store, name, source)
    envelope = folder / "model-config.yaml"
    envelope.write_text("minWorkers: 1\n")
    archive(store, "doubles", DOUBLES)
    continuous = folder / "continuous.yaml"
    continuous.write_text("batchSize: 4\ncontinuousBatching: true\n")
    archive(store, "rounds", ROUNDS, config_file=str(continuous))
    ports, triton_port = grpc_ports(), free_port()
    load = "capitals.mar,parts.mar,tells.mar,rounds.mar"
    more: dict[str, Any] = {"load_models": load, "default_workers_per_model": "1", "ts_open_inference_protocol": "true"}
    more |= {"grpc_port": str(triton_port), "service_envelope": ""}
    with running(folder, **more, **ports) as found:
        opened = channels(int(ports["grpc_inference_port"]), int(ports["grpc_management_port"]))
        yield found, Client(opened), triton_port
        for channel in opened.values():
            channel.close()


@pytest.fixture
def client(site: tuple[Site, Client, int]) -> Client:
    return site[1]


def test_ping(client: Client) -> None:
    assert json.loads(client.call(PREDICT, "Ping").health) == {"status": "Healthy"}


def test_predictions(client: Client) -> None:
    assert client.predict("capitals", b"abc") == b"ABC"
    answer = client.call(PREDICT, "Predictions", model_name="capitals", model_version="1.0", input={"data": b"version"})
    assert answer.prediction == b"1.0"
    told = json.loads(client.predict("tells", b"x", other=b"y"))
    assert told == {"data": ["bytearray", "x"], "other": ["bytearray", "y"]}
    assert list(json.loads(client.predict("tells", b"x", zeta=b"", alpha=b""))) == ["alpha", "data", "zeta"]


def test_answers_as_a_stream(client: Client) -> None:
    parts = client.call(PREDICT, "StreamPredictions", model_name="parts", input={"data": b""})
    assert [part.prediction for part in parts] == [b"part0", b"part1", b"part2", b"last"]
    assert client.predict("parts") == b"part0"  # and the worker goes on
    assert client.predict("parts") == b"part0"
    (whole,) = client.call(PREDICT, "StreamPredictions", model_name="capitals", input={"data": b"x"})
    assert whole.prediction == b"X"


def test_continuous_batching_as_a_stream(client: Client) -> None:
    parts = client.call(PREDICT, "StreamPredictions", model_name="rounds", input={"data": b"4"})
    assert [part.prediction for part in parts] == [b"", b"2", b"1", b"0"]
    assert (
        client.predict("rounds", b"1000000000") == b""
    )  # leaves with its first piece, as who asks for one is not sent more
    (whole,) = client.call(PREDICT, "StreamPredictions", model_name="rounds", input={"data": b"1"})
    assert whole.prediction == b""


def test_models_without_sequences_take_no_stream_of_requests(client: Client) -> None:
    fields = {"model_name": "capitals", "input": {"data": b"x"}, "sequence_id": "s"}
    code, text = refused(client.call, PREDICT, "StreamPredictions2", **fields)
    assert (code, "has no sequence batching" in text) == ("FAILED_PRECONDITION", True)
    (told,) = client.call(PREDICT, "StreamPredictions2", model_name="nope", sequence_id="s")
    assert (told.status.code, told.status.message) == (13, "Model not found: nope")


def test_what_is_refused(client: Client) -> None:
    assert refused(client.predict, "nope") == (
        "INTERNAL",
        "Model not found: nope\norg.pytorch.serve.archive.model.ModelNotFoundException",
    )
    assert refused(client.predict, "") == ("INTERNAL", "Parameter model_name is required.\nBadRequestException.()")
    assert refused(client.predict, "capitals", b"\xff") == (
        "UNAVAILABLE",
        "Prediction failed\norg.pytorch.serve.http.InternalServerException",
    )


def test_the_reason_of_an_error_is_in_its_metadata(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.predict("capitals", b"\xff")
    assert "UnicodeDecodeError" in dict(caught.value.trailing_metadata())["x-jitney-reason"]


def test_management(client: Client) -> None:
    assert client.manage("RegisterModel", url="doubles.mar", initial_workers=1, synchronous=True) == (
        'Model "doubles" Version: 1.0 registered with 1 initial workers'
    )
    names = [model["modelName"] for model in json.loads(client.manage("ListModels", limit=100))["models"]]
    assert names == ["capitals", "doubles", "parts", "rounds", "tells"]
    assert client.manage("ScaleWorker", model_name="doubles", min_worker=2, synchronous=True) == (
        "Workers scaled to 2 for model: doubles"
    )
    assert client.manage("ScaleWorker", model_name="doubles", min_worker=1) == "Processing worker updates..."
    wait_until(lambda: len(workers(client, "doubles")) == 1, 20, "one worker less")
    assert refused(client.manage, "ScaleWorker", model_name="nope", min_worker=2, max_worker=1) == (
        "INVALID_ARGUMENT",
        "max_worker cannot be less than min_worker.\norg.pytorch.serve.http.BadRequestException",
    )
    assert client.manage("SetDefault", model_name="doubles", model_version="1.0").startswith("Default version successfully")
    assert refused(client.manage, "RegisterModel", url="doubles.mar")[0] == "ALREADY_EXISTS"
    assert client.manage("UnregisterModel", model_name="doubles") == 'Model "doubles" unregistered'
    assert refused(client.manage, "DescribeModel", model_name="doubles") == (
        "NOT_FOUND",
        "Model not found: doubles\norg.pytorch.serve.archive.model.ModelNotFoundException",
    )


@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "INVALID_ARGUMENT"), (413, "RESOURCE_EXHAUSTED"), (418, "FAILED_PRECONDITION"), (507, "INTERNAL")],
)
def test_the_status_that_a_handler_asked_for(status: int, name: str) -> None:
    told = inference_status(ModelFailed("why", status=status, by_model=True))
    assert told == (name, "why\norg.pytorch.serve.http.InternalServerException")


def workers(client: Client, model: str) -> list[Any]:
    found: list[Any] = json.loads(client.manage("DescribeModel", model_name=model))[0]["workers"]
    return found


def test_the_open_inference_protocol(client: Client) -> None:
    assert client.call(OPEN, "ServerLive").live
    assert client.call(OPEN, "ServerReady").ready
    assert client.call(OPEN, "ModelReady", name="capitals").ready
    assert list(client.call(OPEN, "ModelMetadata", name="capitals").versions) == ["1.0"]
    assert refused(client.call, OPEN, "ModelReady", name="nope")[0] == "NOT_FOUND"
    assert list(client.call(OPEN, "ModelMetadata", name="capitals", version="1.0").versions) == ["1.0"]
    for method in ("ModelReady", "ModelMetadata"):
        assert refused(client.call, OPEN, method, name="capitals", version="all") == (
            "NOT_FOUND",
            "Model version: all does not exist for model: capitals\n"
            "org.pytorch.serve.archive.model.ModelVersionNotFoundException",
        )
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1]}}
    assert refused(client.call, OPEN, "ModelInfer", model_name="tells", inputs=[tensor]) == (
        "INTERNAL",
        "Worker died.\norg.pytorch.serve.http.InternalServerException",
    )


def test_services_are_on_their_own_ports(site: tuple[Site, Client, int]) -> None:
    _, client, _ = site
    method = schema.torchserve().methods[PREDICT]["Ping"]
    call = client._channels["management"].unary_unary(method.path, method.request.SerializeToString)
    assert refused(call, method.request()) == ("UNIMPLEMENTED", f"Method not found: {PREDICT}/Ping")


def test_triton_s_service_knows_archives_too(site: tuple[Site, Client, int]) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{site[2]}") as client:
        assert client.is_model_ready("capitals", "1.0")
        assert client.get_model_metadata("capitals").versions == ["1.0"]


def test_the_envelope_of_kserve_v2(tmp_path: Path) -> None:
    archive(tmp_path / "store", "doubles", DOUBLES)
    ports, triton_port = grpc_ports(), free_port()
    more: dict[str, Any] = {
        "load_models": "doubles.mar",
        "default_workers_per_model": "1",
        "ts_open_inference_protocol": "true",
    }
    with running(tmp_path, service_envelope="kservev2", grpc_port=str(triton_port), **more, **ports):
        client = Client(channels(int(ports["grpc_inference_port"]), int(ports["grpc_management_port"])))
        tensor = {"name": "x", "datatype": "INT64", "shape": [2]}
        typed = client.call(
            OPEN, "ModelInfer", model_name="doubles", id="7", inputs=[{**tensor, "contents": {"int64_contents": [1, 2]}}]
        )
        assert (typed.id, typed.model_version) == ("7", "1.0")
        assert list(typed.outputs[0].contents.int64_contents) == [2, 4]
        raw = np.array([3, 4], np.int64).tobytes()
        answer = client.call(OPEN, "ModelInfer", model_name="doubles", inputs=[tensor], raw_input_contents=[raw])
        assert list(answer.outputs[0].contents.int64_contents) == [6, 8]
        given = triton.InferInput("x", [2], "INT64")
        given.set_data_from_numpy(np.array([5, 6], np.int64))
        with triton.InferenceServerClient(f"127.0.0.1:{triton_port}") as other:
            assert other.infer("doubles", [given]).as_numpy("x").tolist() == [10, 12]


def test_keys(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    ports = grpc_ports()
    more: dict[str, Any] = {
        "load_models": "capitals.mar",
        "default_workers_per_model": "1",
        "disable_token_authorization": "false",
    }
    with running(tmp_path, **more, **ports) as site:
        keys = json.loads((site.folder / "key_file.json").read_text())
        client = Client(channels(int(ports["grpc_inference_port"]), int(ports["grpc_management_port"])))
        denied = (
            "PERMISSION_DENIED",
            "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
        )
        key = {kind: (("protocol", "gRPC"), ("authorization", f"Bearer {keys[kind]['key']}")) for kind in keys}
        fields: dict[str, Any] = {"model_name": "capitals", "input": {"data": b"abc"}}
        for wrong in (None, key["management"], key["API"]):
            assert refused(client.call, PREDICT, "Predictions", metadata=wrong, **fields) == denied
        assert refused(client.call, PREDICT, "Ping") == denied
        assert refused(client.call, MANAGE, "ListModels", metadata=key["inference"]) == denied
        assert client.call(PREDICT, "Predictions", metadata=key["inference"], **fields).prediction == b"ABC"
        assert "capitals" in client.call(MANAGE, "ListModels", metadata=key["management"], limit=5).msg


def test_tls(tmp_path: Path) -> None:
    key, cert = self_signed(tmp_path)
    archive(tmp_path / "store", "capitals")
    ports = grpc_ports()
    files: dict[str, Any] = {"private_key_file": str(key), "certificate_file": str(cert), "enable_grpc_ssl": "true"}
    with running(tmp_path, load_models="capitals.mar", default_workers_per_model="1", **files, **ports):
        trusted = grpc.ssl_channel_credentials(cert.read_bytes())
        at = {api: f"127.0.0.1:{ports[f'grpc_{api}_port']}" for api in ("inference", "management")}
        client = Client({api: grpc.secure_channel(address, trusted) for api, address in at.items()})
        assert client.predict("capitals", b"abc") == b"ABC"
        plain = Client({api: grpc.insecure_channel(address) for api, address in at.items()})
        assert refused(plain.predict, "capitals", b"abc")[0] == "UNAVAILABLE"


def test_the_start_says_where_it_listens(site: tuple[Site, Client, int]) -> None:
    printed = "\n".join(site[0].server.lines)
    assert re.search(r"^gRPC inference bind to: 127\.0\.0\.1:\d+$", printed, re.M)
    assert re.search(r"^gRPC management bind to: 127\.0\.0\.1:\d+$", printed, re.M)
    assert re.search(r"^gRPC GRPCInferenceService bind to: 127\.0\.0\.1:\d+$", printed, re.M)


def test_each_call_has_a_line_in_the_access_log(site: tuple[Site, Client, int]) -> None:
    found, client, _ = site
    client.predict("capitals", b"abc")
    refused(client.predict, "nope")
    client.call(PREDICT, "Ping")

    def lines() -> list[str]:
        pattern = (
            r'/127\.0\.0\.1:\d+ "gRPC org\.pytorch\.serve\.grpc\.inference\.InferenceAPIsService/(\w+) HTTP/2\.0" (\w+) \d+$'
        )
        return [" ".join(found) for found in re.findall(pattern, found.log("access_log.log"), re.M)]

    wait_until(lambda: lines()[-3:] == ["Predictions OK", "Predictions INTERNAL", "Ping OK"], 20, "three lines")
