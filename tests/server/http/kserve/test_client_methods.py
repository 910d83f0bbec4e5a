"""Every method of `tritonclient.http`, of its synchronous and of its aio client, against a real server process."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from jitney.tests.fakes.plane import DOUBLING, doubling
from jitney.tools.bench.served import ServedProcess, serving

X = np.array([[1.5, -2.0], [0.1, 4]], np.float32)
#: What no request to a server belongs to: called by users on themselves.
LOCAL = {"close", "plugin"}
ECHO = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            words = pb_utils.get_input_tensor_by_name(request, "words").as_numpy()
            told = {"parameters": json.loads(request.parameters()), "id": request.request_id(), "timeout": request.timeout(),
                    "sequence": request.correlation_id(), "flags": request.flags()}
            rows = np.full((len(words), 1), json.dumps(told).encode(), object)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("words", words), pb_utils.Tensor("told", rows)]))
        return answers
"""
ECHO_CONFIG = """
backend: "python" max_batch_size: 4
input [ { name: "words" data_type: TYPE_STRING dims: [ 2 ] } ]
output [ { name: "words" data_type: TYPE_STRING dims: [ 2 ] }, { name: "told" data_type: TYPE_STRING dims: [ 1 ] } ]
dynamic_batching { priority_levels: 3 default_priority_level: 2 default_queue_policy { allow_timeout_override: true } }
"""


class Remote:
    """A client whose methods return what they give, awaited where that is needed."""

    def __init__(self, kind: str, authority: str) -> None:
        self.kind, self.runner = kind, asyncio.Runner()
        self.client = self.runner.run(self._open(authority)) if kind == "aio" else triton.InferenceServerClient(authority)

    @staticmethod
    async def _open(authority: str) -> Any:
        return triton_aio.InferenceServerClient(authority)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **values: Any) -> Any:
            found = method(*args, **values)
            return self.runner.run(_awaited(found)) if inspect.isawaitable(found) else found

        return call

    def end(self) -> None:
        found = self.client.close()
        if inspect.isawaitable(found):
            self.runner.run(_awaited(found))
        self.runner.close()


async def _awaited(found: Any) -> Any:
    return await found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    folder = tmp_path_factory.mktemp("models")
    doubling(folder, "m", "dynamic_batching { max_queue_delay_microseconds: 20000 }")
    config = (folder / "m" / "config.pbtxt").read_text()
    labelled = config.replace('output [ { name: "y"', 'output [ { name: "y" label_filename: "labels.txt"')
    (folder / "m" / "config.pbtxt").write_text(labelled)
    (folder / "m" / "labels.txt").write_text("left\nright\n")
    (folder / "echo" / "1").mkdir(parents=True)
    (folder / "echo" / "1" / "model.py").write_text(ECHO)
    (folder / "echo" / "config.pbtxt").write_text(ECHO_CONFIG)
    with serving(folder, flags=["--model-control-mode=explicit", "--load-model=*"]) as server:
        yield server


@pytest.fixture(params=["sync", "aio"])
def remote(request: pytest.FixtureRequest, server: ServedProcess) -> Iterator[Remote]:
    remote = Remote(request.param, server.inference.removeprefix("http://"))
    yield remote
    remote.end()


def given(array: np.ndarray[Any, Any] = X, name: str = "x", binary: bool = True) -> triton.InferInput:
    datatype = "BYTES" if array.dtype == object else "FP32"
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def words(*rows: tuple[str, str]) -> triton.InferInput:
    return given(np.array([[word.encode() for word in row] for row in rows], object), "words")


def test_health(remote: Remote) -> None:
    assert remote.is_server_live() is True
    assert remote.is_server_ready() is True
    assert remote.is_model_ready("m") is True
    assert remote.is_model_ready("m", "1") is True
    assert remote.is_model_ready("m", "2") is False
    assert remote.is_model_ready("nope") is False


def test_descriptions(remote: Remote) -> None:
    server = remote.get_server_metadata()
    assert server["name"] == "triton" and {"binary_tensor_data", "model_repository", "statistics"} <= {*server["extensions"]}
    assert remote.get_model_metadata("m") == {
        "name": "m",
        "versions": ["1"],
        "platform": "python",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    config = remote.get_model_config("m", "1")
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 20000
    with pytest.raises(InferenceServerException, match=r"\[404\] Request for unknown model: 'nope' is not found"):
        remote.get_model_metadata("nope")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer(remote: Remote, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = remote.infer("m", [given(binary=binary_in)], outputs=outputs, request_id="7", model_version="1")
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * X)
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("7", "1")
    assert result.get_output("y")["shape"] == [2, 2]
    assert result.as_numpy("nope") is None


@pytest.mark.parametrize("up", [None, "gzip", "deflate"])
@pytest.mark.parametrize("down", [None, "gzip", "deflate"])
def test_compression(remote: Remote, up: str | None, down: str | None) -> None:
    result = remote.infer("m", [given()], request_compression_algorithm=up, response_compression_algorithm=down)
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * X)


def test_strings_and_parameters(remote: Remote) -> None:
    values = {"a": "b", "n": 1, "f": 0.5, "t": True}
    result = remote.infer(
        "echo", [words(("ab", "é"), ("", "x"))], request_id="9", timeout=5_000_000, priority=1, parameters=values
    )
    assert result.as_numpy("words").tolist() == [[b"ab", "é".encode()], [b"", b"x"]]
    told = json.loads(result.as_numpy("told")[0, 0])
    assert told == {"parameters": values, "id": "9", "timeout": 5_000_000, "sequence": 0, "flags": 0}
    result = remote.infer("echo", [words(("a", "b"))], sequence_id=3, sequence_start=True, sequence_end=True)
    told = json.loads(result.as_numpy("told")[0, 0])
    assert (told["sequence"], told["flags"]) == (3, 3)


def test_classification(remote: Remote) -> None:
    result = remote.infer("m", [given()], outputs=[triton.InferRequestedOutput("y", class_count=1)])
    assert result.as_numpy("y").tolist() == [[b"3.000000:0:left"], [b"8.000000:1:right"]]


def test_errors(remote: Remote) -> None:
    with pytest.raises(InferenceServerException, match="unexpected shape for input 'x' for model 'm'"):
        remote.infer("m", [given(np.ones((1, 3), np.float32))])
    with pytest.raises(InferenceServerException, match=r"\[400\] poisoned"):
        remote.infer("m", [given(np.full((1, 2), -1, np.float32))])
    with pytest.raises(InferenceServerException, match="unexpected inference output 'nope'"):
        remote.infer("m", [given()], outputs=[triton.InferRequestedOutput("nope")])


def test_bodies_made_and_read_by_the_user(remote: Remote) -> None:
    body, length = remote.generate_request_body([given()])
    assert length and json.loads(body[:length])["inputs"][0]["name"] == "x"
    answer = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}).encode()
    assert remote.parse_response_body(answer).as_numpy("y").tolist() == [1]


def test_statistics(remote: Remote) -> None:
    def count() -> int:
        (found,) = remote.get_inference_statistics("m", "1")["model_stats"]
        return int(found["inference_count"])

    before = count()
    remote.infer("m", [given()])
    assert count() == before + 2
    assert {entry["name"] for entry in remote.get_inference_statistics()["model_stats"]} >= {"m", "echo"}


def test_repository(remote: Remote) -> None:
    name = f"new_{remote.kind}"
    config = json.dumps(
        remote.get_model_config("m") | {"name": name, "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}]}
    )
    remote.load_model(name, config=config, files={"file:1/model.py": DOUBLING.replace("2 * x", "7 * x").encode()})
    assert {"name": name, "version": "1", "state": "READY"} in remote.get_model_repository_index()
    np.testing.assert_array_equal(remote.infer(name, [given()]).as_numpy("y"), 7 * X)
    remote.unload_model(name)
    assert remote.is_model_ready(name) is False
    remote.load_model("m")
    with pytest.raises(InferenceServerException, match="failed to load 'nope'"):
        remote.load_model("nope")
    with pytest.raises(InferenceServerException, match="max_batch_size"):
        remote.load_model("m", config=json.dumps({"max_batch_size": -1}))
    remote.unload_model("nope", unload_dependents=True)


def test_settings(remote: Remote) -> None:
    assert remote.get_trace_settings()["trace_level"] == ["OFF"]
    assert remote.update_trace_settings("m", {"trace_rate": "5"})["trace_rate"] == "5"
    assert remote.get_trace_settings("m")["trace_rate"] == "5"
    assert remote.update_trace_settings("m", {"trace_rate": None})["trace_rate"] == "1000"
    before = remote.get_log_settings()
    assert remote.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
    remote.update_log_settings({"log_verbose_level": before["log_verbose_level"]})


def test_system_shared_memory(remote: Remote) -> None:
    key = f"/jitney_test_{uuid.uuid4().hex}"
    region = shared_memory.create_shared_memory_region("r", key, 2 * X.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [X])
        remote.register_system_shared_memory("r", key, 2 * X.nbytes)
        status = {"name": "r", "key": key, "offset": 0, "byte_size": 2 * X.nbytes}
        assert remote.get_system_shared_memory_status() == [status]
        source, target = triton.InferInput("x", [2, 2], "FP32"), triton.InferRequestedOutput("y")
        source.set_shared_memory("r", X.nbytes)
        target.set_shared_memory("r", X.nbytes, offset=X.nbytes)
        remote.infer("m", [source], outputs=[target])
        found = shared_memory.get_contents_as_numpy(region, np.float32, [2, 2], X.nbytes)
        np.testing.assert_array_equal(found, 2 * X)
        del found
        remote.unregister_system_shared_memory("r")
        assert remote.get_system_shared_memory_status() == []
    finally:
        shared_memory.destroy_shared_memory_region(region)
    assert not Path("/dev/shm" + key).exists()


def test_cuda_shared_memory_as_on_a_machine_without_a_gpu(remote: Remote) -> None:
    assert remote.get_cuda_shared_memory_status() == []
    remote.unregister_cuda_shared_memory()
    with pytest.raises(InferenceServerException, match="failed to register shared memory region: invalid args"):
        remote.register_cuda_shared_memory("c", b"QUJD" * 21 + b"QQ==", 0, 64)


def test_plugins(remote: Remote) -> None:
    remote.register_plugin(BasicAuth("user", "secret"))
    assert remote.is_server_live()
    remote.unregister_plugin()


def test_requests_of_async_infer_fill_batches(server: ServedProcess) -> None:
    client = triton.InferenceServerClient(server.inference.removeprefix("http://"), concurrency=8)
    try:
        (before,) = client.get_inference_statistics("m")["model_stats"]
        asked = [client.async_infer("m", [given(np.full((1, 2), n, np.float32))]) for n in range(8)]
        assert [pending.get_result().as_numpy("y").tolist() for pending in asked] == [[[2.0 * n] * 2] for n in range(8)]
        failing = client.async_infer("m", [given(np.ones((1, 3), np.float32))])
        with pytest.raises(InferenceServerException, match="unexpected shape"):
            failing.get_result()
        (after,) = client.get_inference_statistics("m")["model_stats"]
        assert after["inference_count"] - before["inference_count"] == 8
        assert after["execution_count"] - before["execution_count"] < 8
    finally:
        client.close()


def test_aio_requests_fill_batches(server: ServedProcess) -> None:
    async def talk() -> list[list[list[float]]]:
        async with triton_aio.InferenceServerClient(server.inference.removeprefix("http://")) as client:
            asked = [client.infer("m", [given(np.full((1, 2), n, np.float32))]) for n in range(8)]
            return [result.as_numpy("y").tolist() for result in await asyncio.gather(*asked)]

    assert asyncio.run(talk()) == [[[2.0 * n] * 2] for n in range(8)]


def test_no_method_was_forgotten() -> None:
    called = set(re.findall(r"(?:remote|client)\.([a-z_]+)\(", Path(__file__).read_text()))
    for client in (triton.InferenceServerClient, triton_aio.InferenceServerClient):
        methods = {name for name in dir(client) if not name.startswith("_")}
        assert methods - LOCAL <= called
