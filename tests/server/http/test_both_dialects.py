"""Both dialects on one queue, over a real server process: KServe's `infer` on archives, and batches that hold both."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from jitney.tests.fakes.plane import doubling
from jitney.tools.archive import ModelArchiverConfig, generate_model_archive
from jitney.tools.bench.served import ServedProcess, serving

#: Says what it got; with the envelope `kservev2` it doubles its inputs.
HANDLER = """
import numpy as np

class Handler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        if hasattr(context, "input_names"):
            return [np.multiply(2, row["data"]) for row in data]
        answers = []
        for index, row in enumerate(data):
            if row.get("body") == {"fail": True}:
                raise RuntimeError("asked to fail")
            context.set_response_header(index, "x-batch", str(len(data)))
            answers.append({name: [type(value).__name__, value if isinstance(value, dict) else bytes(value).decode()]
                            for name, value in row.items()})
        return answers

_handler = Handler()

def handle(data, context):
    if data is None:
        return None
    return _handler.handle(data, context)
"""


def archive(folder: Path, name: str, version: str = "1.0") -> None:
    (folder / "handler.py").write_text(HANDLER)
    generate_model_archive(
        ModelArchiverConfig(model_name=name, version=version, handler=str(folder / "handler.py"), export_path=str(folder))
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    models, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store")
    doubling(models, "patient", "dynamic_batching { max_queue_delay_microseconds: 700000 }")
    archive(store, "teller")
    properties = f"model_store={store}\nload_models=all\ndefault_workers_per_model=1\n"
    with serving(models, properties=properties) as server:
        yield server


def post(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, dict(reply.headers), reply.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def sizes(server: ServedProcess, model: str) -> dict[int, int]:
    (stats,) = server.get_json(f"/v2/models/{model}/stats")["model_stats"]
    return {entry["batch_size"]: entry["compute_infer"]["count"] for entry in stats["batch_stats"]}


def test_one_batch_holds_requests_of_both_dialects(server: ServedProcess) -> None:
    infer = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    asked = [
        (f"{server.inference}/predictions/patient", b"[[5, 6]]"),
        (f"{server.inference}/v2/models/patient/infer", json.dumps(infer).encode()),
    ]
    with ThreadPoolExecutor(2) as clients:
        predicted, inferred = clients.map(lambda pair: post(*pair, Content_Type="application/json"), asked)
    assert json.loads(predicted[2]) == [[10.0, 12.0]]
    assert json.loads(inferred[2])["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]
    assert sizes(server, "patient") == {3: 1}


def test_a_handler_sees_the_json_body_of_infer(server: ServedProcess) -> None:
    url, body = f"{server.inference}/v2/models/teller/infer", {"inputs": [], "id": "7"}
    status, headers, answer = post(url, json.dumps(body).encode(), Content_Type="application/json")
    assert (status, json.loads(answer)) == (200, {"body": ["dict", body]})
    assert headers["x-batch"] == "1" and "x-request-id" in headers
    status, _, answer = post(url, b'{"a": 1}', Content_Type="application/octet-stream")
    assert json.loads(answer) == {"body": ["bytearray", '{"a": 1}']}


def test_a_handler_sees_the_json_body_of_explain(server: ServedProcess) -> None:
    status, _, answer = post(f"{server.inference}/v2/models/teller/explain", b"{}", Content_Type="application/json")
    assert (status, json.loads(answer)) == (200, {"body": ["dict", {}]})


def test_errors_of_handlers_suit_clients_of_both_dialects(server: ServedProcess) -> None:
    url = f"{server.inference}/v2/models/teller/infer"
    status, _, answer = post(url, b'{"fail": true}', Content_Type="application/json")
    told = {"code": 503, "type": "InternalServerException", "message": "Prediction failed", "error": "Prediction failed"}
    assert (status, json.loads(answer)) == (503, told)
    status, _, answer = post(f"{server.inference}/v2/models/teller/versions/9/infer", b"{}")
    assert (status, json.loads(answer)) == (404, {"error": "Request for unknown model: 'teller' version 9 is not found"})


def test_an_archive_is_described(server: ServedProcess) -> None:
    assert server.get_json("/v2/models/teller")["versions"] == ["1.0"]
    assert server.get_json("/v2/models/teller/versions/1.0")["name"] == "teller"
    assert server.get_json("/v2/models/teller/versions/1.1") == {
        "error": "Request for unknown model: 'teller' version 1.1 is not found"
    }
    assert server.get_json("/v2/models/teller/config")["name"] == "teller"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_the_client_of_triton_infers_with_a_handler(kserve: str, binary: bool, compression: str | None) -> None:
    x = np.array([[1.5, 2], [3, 4]], np.float32)
    tensor = triton.InferInput("x", [2, 2], "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    with contextlib.closing(triton.InferenceServerClient(kserve)) as client:
        result = client.infer("teller", [tensor], "1.0", request_id="9", request_compression_algorithm=compression)
        assert result.as_numpy("x").tolist() == (2 * x).reshape(-1).tolist()  # flat, as TorchServe's envelope has it
        assert result.get_response()["id"] == "9"
        half = triton.InferInput("x", [1], "FP16")
        half.set_data_from_numpy(np.ones(1, np.float16))
        with pytest.raises(InferenceServerException, match="FP16 data via JSON is not supported"):
            client.infer("teller", [half])


@pytest.fixture(scope="module")
def kserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose handlers are behind the envelope `kservev2`."""
    models, store = tmp_path_factory.mktemp("none"), tmp_path_factory.mktemp("store")
    archive(store, "teller")
    properties = f"model_store={store}\nload_models=all\ndefault_workers_per_model=1\nservice_envelope=kservev2\n"
    with serving(models, properties=properties) as server:
        yield server.inference.removeprefix("http://")


def test_serve_takes_a_store_beside_a_repository(tmp_path: Path) -> None:
    for folder in ("models", "store", "later"):
        (tmp_path / folder).mkdir()
    doubling(tmp_path / "models", "m")
    for folder, name in (("store", "teller"), ("later", "second"), ("models", "stray")):
        archive(tmp_path / folder, name)
    with serving(tmp_path / "models", flags=("--model-store", str(tmp_path / "store"))) as server:
        assert post(f"{server.inference}/predictions/m", b"[1, 2]")[0] == 200
        status, _, answer = post(f"{server.inference}/predictions/teller", b"{}", Content_Type="application/octet-stream")
        assert (status, json.loads(answer)) == (200, {"body": ["bytearray", "{}"]})
        assert len(server.get_json("/models/teller", server.management)[0]["workers"]) == 1
        (tmp_path / "later" / "second.mar").rename(tmp_path / "store" / "second.mar")
        assert post(f"{server.management}/models?url=second.mar&initial_workers=1&synchronous=true", b"")[0] == 200
        assert post(f"{server.inference}/predictions/second", b"{}", Content_Type="application/json")[0] == 200
        assert post(f"{server.inference}/predictions/stray", b"{}")[0] == 404
        stray = str(tmp_path / "models" / "stray.mar")
        assert any(stray in line and "--model-store DIR" in line for line in server.lines)


def test_an_archive_with_the_name_of_a_repositorys_model_goes_on_serving(tmp_path: Path) -> None:
    for folder in ("models", "store"):
        (tmp_path / folder).mkdir()
    doubling(tmp_path / "models", "m")
    doubling(tmp_path / "models", "n")
    archive(tmp_path / "store", "m")
    archive(tmp_path / "store", "n", version="1")
    flags = ("--model-store", str(tmp_path / "store"), "--model-control-mode", "explicit", "--load-model", "*")
    with serving(tmp_path / "models", flags=flags) as server:
        assert post(f"{server.inference}/predictions/m/1", b"[1, 2]")[0] == 200
        assert post(f"{server.inference}/predictions/m/1.0", b"{}", Content_Type="application/octet-stream")[0] == 200
        clash = "version 1 of model 'n' is served from an archive already; give one of them another name or version"
        assert any(clash in line for line in server.lines)
        assert post(f"{server.inference}/predictions/n/1", b"{}", Content_Type="application/octet-stream")[0] == 200
        config = tmp_path / "models" / "m" / "config.pbtxt"
        config.write_text(config.read_text() + "\n# changed\n")
        assert post(f"{server.inference}/v2/repository/models/m/load", b"")[0] == 200
        assert post(f"{server.inference}/predictions/m/1.0", b"{}", Content_Type="application/octet-stream")[0] == 200


def test_without_a_store_the_refusal_says_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path) as bare:
        status, headers, answer = post(f"{bare.management}/models?url=second.mar", b"")
        assert (status, json.loads(answer)["message"]) == (404, "Model store has not been configured.")
        assert "start the server with --model-store DIR" in headers["x-jitney-reason"]


def test_restricted_groups_close_both_dialects(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    flags = ("--http-restricted-api=inference:x-key=a", "--http-restricted-api=statistics,model-repository:x-admin=b")
    with serving(tmp_path, flags=flags) as server:

        def ask(path: str, base: str = server.inference, method: str = "POST", **headers: str) -> tuple[int, Any]:
            names = {"Content-Type": "application/json"} | {n.replace("_", "-"): value for n, value in headers.items()}
            request = urllib.request.Request(base + path, b"[1, 2]" if method == "POST" else None, names, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as reply:
                    return reply.status, reply.read()
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        refusal = "This API is restricted, expecting header 'x-key'"
        assert ask("/v2/models/m/infer") == (403, {"error": refusal})
        for path in ("/predictions/m", "/%70redictions/m/", "/explanations/m", "/v1/models/m:predict", "/models/m/invoke"):
            told = {"code": 403, "type": "ForbiddenException", "message": refusal}
            assert ask(path) == (403, told | ({"error": refusal} if path.startswith("/v1") else {})), path
        assert ask("/predictions/m", x_key="a")[0] == 200
        assert ask("/predictions/m", x_key="b")[0] == 403
        assert ask("/v2/models/stats", method="GET")[0] == 403
        assert ask("/v2/models/stats", method="GET", X_Admin="b")[0] == 200
        assert ask("/models/m", server.management, "DELETE")[0] == 403
        assert ask("/models/m", server.management, "GET")[0] == 200
        assert ask("/metrics", server.metrics, "GET")[0] == 403
        assert ask("/v2/health/ready", method="GET")[0] == ask("/ping", method="GET")[0] == 200
