"""Every method of `tritonclient.grpc`, of its synchronous and of its aio client, against a real server process."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import queue
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.grpc.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from jitney.tests.fakes.grpc import DOUBLE, Site, X, count, given

#: What no request to a server belongs to: called by users on themselves.
LOCAL = {"close", "plugin"}


class Remote:
    """A client whose methods return what they give, awaited where that is needed."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind, self.runner = kind, asyncio.Runner()
        self.client = self.runner.run(self._open(address)) if kind == "aio" else triton.InferenceServerClient(address)

    @staticmethod
    async def _open(address: str) -> Any:
        return triton_aio.InferenceServerClient(address)

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


@pytest.fixture(params=["sync", "aio"])
def remote(request: pytest.FixtureRequest, site: Site) -> Iterator[Remote]:
    remote = Remote(request.param, site.address)
    yield remote
    remote.end()


@pytest.fixture
def client(site: Site) -> Iterator[Any]:
    with triton.InferenceServerClient(site.address) as client:
        yield client


def refused(call: Any, *args: Any, **values: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call(*args, **values)
    return caught.value.status(), caught.value.message()


def test_health(remote: Remote) -> None:
    assert remote.is_server_live()
    assert remote.is_server_ready()
    assert remote.is_model_ready("double")
    assert remote.is_model_ready("double", "1")
    assert not remote.is_model_ready("double", "2")
    assert not remote.is_model_ready("nope")


def test_metadata_and_configuration(remote: Remote) -> None:
    assert "statistics" in remote.get_server_metadata(as_json=True)["extensions"]
    found = remote.get_model_metadata("double", as_json=True)
    assert (found["name"], found["versions"], found["platform"]) == ("double", ["1"], "python")
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "2"]}]
    config = remote.get_model_config("double")
    assert (config.config.max_batch_size, config.config.input[0].dims) == (8, [2])
    assert config.config.dynamic_batching.priority_levels == 2
    assert refused(remote.get_model_metadata, "nope") == (
        "StatusCode.NOT_FOUND",
        "Request for unknown model: 'nope' is not found",
    )
    assert refused(remote.get_model_config, "double", "7")[0] == "StatusCode.NOT_FOUND"


def test_the_repository(remote: Remote) -> None:
    assert {entry.name for entry in remote.get_model_repository_index().models} >= {"double", "count", "sum"}
    remote.unload_model("sum")
    assert not remote.is_model_ready("sum")
    index = remote.get_model_repository_index(as_json=True)
    assert next(entry for entry in index["models"] if entry["name"] == "sum")["state"] == "UNAVAILABLE"
    remote.load_model("sum")
    assert remote.is_model_ready("sum")
    config = json.dumps({"backend": "python", "max_batch_size": 2, "input": [{"name": "x", "data_type": "TYPE_FP32",
                         "dims": [2]}], "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}]})  # fmt: skip
    source = DOUBLE.replace(', pb_utils.Tensor("told", told)', "").replace("x * 2", "x * 3")
    remote.load_model("made", config=config, files={"file:1/model.py": source.encode()})
    assert remote.infer("made", [given()]).as_numpy("y").tolist() == (X * 3).tolist()
    remote.unload_model("made", unload_dependents=True)
    assert refused(remote.load_model, "nope") == (
        "StatusCode.INTERNAL",
        "failed to load 'nope', failed to poll from model repository: no repository has a model of this name",
    )


def test_statistics(remote: Remote) -> None:
    remote.infer("double", [given()])
    (found,) = remote.get_inference_statistics("double").model_stats
    assert found.inference_count >= 2
    assert found.inference_stats.success.count >= 1
    assert {entry["name"] for entry in remote.get_inference_statistics(as_json=True)["model_stats"]} >= {"double", "sum"}
    assert refused(remote.get_inference_statistics, "nope")[0] == "StatusCode.INVALID_ARGUMENT"


def test_settings(remote: Remote) -> None:
    assert remote.get_trace_settings(as_json=True)["settings"]["trace_rate"] == {"value": ["1000"]}
    changed = remote.update_trace_settings(model_name="double", settings={"trace_rate": "7", "trace_count": "3"})
    assert changed.settings["trace_rate"].value == ["7"]
    assert remote.get_trace_settings("double").settings["trace_rate"].value == ["7"]
    assert remote.get_trace_settings().settings["trace_rate"].value == ["1000"]
    assert remote.update_trace_settings(model_name="double", settings={"trace_rate": None}).settings["trace_rate"].value == [
        "1000"
    ]
    assert remote.get_log_settings().settings["log_info"].bool_param is True
    assert remote.update_log_settings({"log_format": "ISO8601"}).settings["log_format"].string_param == "ISO8601"
    assert remote.get_log_settings(as_json=True)["settings"]["log_format"] == {"string_param": "ISO8601"}
    remote.update_log_settings({"log_format": "default"})
    assert refused(remote.update_log_settings, {"log_file": "/tmp/x"})[0] == "StatusCode.UNIMPLEMENTED"


def test_shared_memory(remote: Remote) -> None:
    name = f"/jitney_{uuid.uuid4().hex}"
    handle = shared_memory.create_shared_memory_region("region", name, 2 * X.nbytes)
    try:
        shared_memory.set_shared_memory_region(handle, [X])
        remote.register_system_shared_memory("region", name, 2 * X.nbytes)
        status = remote.get_system_shared_memory_status("region").regions["region"]
        assert (status.key, status.byte_size) == (name, 2 * X.nbytes)
        tensor, output = triton.InferInput("x", [2, 2], "FP32"), triton.InferRequestedOutput("y")
        tensor.set_shared_memory("region", X.nbytes)
        output.set_shared_memory("region", X.nbytes, X.nbytes)
        result = remote.infer("double", [tensor], outputs=[output])
        assert result.get_output("y").shape == [2, 2]
        found = shared_memory.get_contents_as_numpy(handle, np.float32, [2, 2], X.nbytes)
        assert found.tolist() == (X * 2).tolist()
        assert refused(remote.register_system_shared_memory, "region", name, 8)[0] == "StatusCode.ALREADY_EXISTS"
        small = triton.InferRequestedOutput("y")
        small.set_shared_memory("region", 4)
        status, text = refused(remote.infer, "double", [given()], outputs=[small])
        assert (status, "should be at least 16 bytes" in text) == ("StatusCode.INTERNAL", True)
        remote.unregister_system_shared_memory("region")
        assert refused(remote.infer, "double", [tensor])[0] == "StatusCode.NOT_FOUND"
    finally:
        remote.unregister_system_shared_memory()
        shared_memory.destroy_shared_memory_region(handle)


def test_cuda_shared_memory(remote: Remote) -> None:
    assert not remote.get_cuda_shared_memory_status().regions
    status, text = refused(remote.register_cuda_shared_memory, "r", base64.b64encode(b"\0" * 64), 0, 64)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert text == "failed to register shared memory region: invalid args"
    remote.unregister_cuda_shared_memory("r")
    remote.unregister_cuda_shared_memory()


def told(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.as_numpy("told")[0, 0])
    return found


def test_infer(remote: Remote) -> None:
    result = remote.infer(
        "double", [given()], model_version="1", request_id="7", priority=2, timeout=5_000_000,
        parameters={"a": 1, "b": True, "c": "text"}, client_timeout=30,
    )  # fmt: skip
    assert result.as_numpy("y").tolist() == (X * 2).tolist()
    assert (result.get_response().id, result.get_response().model_version) == ("7", "1")
    assert told(result)["id"] == "7"
    assert told(result)["parameters"] == {"a": 1, "b": True, "c": "text"}
    assert told(result)["timeout"] == 5_000_000
    only = remote.infer("double", [given()], outputs=[triton.InferRequestedOutput("y", class_count=1)])
    assert only.as_numpy("y").tolist() == [[b"3.000000:0:left"], [b"8.000000:1:right"]]
    assert only.as_numpy("told") is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(remote: Remote, algorithm: str) -> None:
    result = remote.infer("double", [given()], compression_algorithm=algorithm)
    assert result.as_numpy("y").tolist() == (X * 2).tolist()


def test_infer_is_refused_with_a_reason(remote: Remote) -> None:
    assert refused(remote.infer, "nope", [given()])[0] == "StatusCode.NOT_FOUND"
    assert refused(remote.infer, "count", count(1)) == (
        "StatusCode.UNIMPLEMENTED",
        "ModelInfer RPC doesn't support models with decoupled transaction policy",
    )
    wrong = given(np.zeros((1, 3), np.float32))
    status, text = refused(remote.infer, "double", [wrong], request_id="9")
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert text.startswith("[request id: 9] unexpected shape for input 'x' for model 'double'. Expected [-1,2], got [1,3].")


def test_a_plugin_adds_metadata(remote: Remote) -> None:
    remote.register_plugin(BasicAuth("user", "secret"))
    assert remote.plugin() is not None
    assert remote.is_server_live()
    remote.unregister_plugin()


# -- what the two clients do each in its own way ---------------------------------------------------------------------------


def test_async_infer(client: Any) -> None:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for i in range(20):
        client.async_infer("double", [given(X + i)], lambda result, error: answers.put((result, error)), request_id=str(i))
    found = [answers.get(timeout=30) for _ in range(20)]
    assert [error for _, error in found if error is not None] == []
    assert {r.get_response().id: r.as_numpy("y")[0, 0] for r, _ in found} == {str(i): (1.5 + i) * 2 for i in range(20)}
    client.async_infer("nope", [given()], lambda result, error: answers.put((result, error)))
    assert answers.get(timeout=30)[1].status() == "StatusCode.NOT_FOUND"


def test_a_call_that_its_client_cancels(client: Any) -> None:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    call = client.async_infer("double", [given(np.full((1, 2), -500, np.float32))], lambda result, error: answers.put(error))
    call.cancel()
    assert "CANCELLED" in answers.get(timeout=30).status()
    assert refused(client.infer, "double", [given(np.full((1, 2), -500, np.float32))], client_timeout=0.1)[0] == (
        "StatusCode.DEADLINE_EXCEEDED"
    )
    assert client.infer("double", [given()]).as_numpy("y").tolist() == (X * 2).tolist()


def stream(client: Any, requests: list[tuple[str, list[Any], dict[str, Any]]], expected: int, **options: Any) -> list[Any]:
    """Sends the requests over one stream; so many results and errors as they come."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put(error or result), **options)
    for model, inputs, values in requests:
        client.async_stream_infer(model, inputs, **values)
    found = [answers.get(timeout=30) for _ in range(expected)]
    client.stop_stream()
    assert answers.empty()
    return found


def final(result: Any) -> bool:
    found: bool = result.get_response().parameters["triton_final_response"].bool_param
    return found


def test_a_stream_of_a_decoupled_model(client: Any) -> None:
    found = stream(client, [("count", count(3), {"request_id": "a", "enable_empty_final_response": True})], 4)
    assert [result.as_numpy("i").tolist() for result in found[:3]] == [[0], [1], [2]]
    assert [final(result) for result in found] == [False, False, False, True]
    assert {result.get_response().id for result in found} == {"a"}
    assert found[3].get_response().outputs == []
    assert len(stream(client, [("count", count(2), {})], 2)) == 2
    assert stream(client, [("count", count(0), {})], 0) == []


def test_answers_of_other_models_keep_the_order_of_their_requests(client: Any) -> None:
    slow, quick = given(np.full((1, 2), -100, np.float32)), given(np.ones((2, 2), np.float32))
    requests = [("double", [slow if i % 3 == 0 else quick], {"request_id": str(i)}) for i in range(9)]
    found = stream(client, requests, 9)
    assert [result.get_response().id for result in found] == [str(i) for i in range(9)]
    assert all(final(result) for result in found)


def test_errors_end_no_stream(client: Any) -> None:
    requests = [("nope", [given()], {"request_id": "1"}), ("count", count(-1), {"request_id": "2"})]
    requests += [("double", [given()], {"request_id": "3"}), ("double", [given(name="z")], {"request_id": "4"})]
    found = stream(client, requests, 4)
    errors = [answer.message() for answer in found if isinstance(answer, InferenceServerException)]
    assert sorted(errors) == [
        "Request for unknown model: 'nope' is not found",
        "negative",
        "unexpected inference input 'z' for model 'double'",
    ]
    (good,) = [answer for answer in found if not isinstance(answer, InferenceServerException)]
    assert good.get_response().id == "3"


def test_a_full_queue_is_told_like_any_refusal(site: Site) -> None:
    with triton.InferenceServerClient(site.address) as client:
        config = client.get_model_config("double", as_json=True)["config"]
        policy = {"default_queue_policy": {"max_queue_size": 1}}
        client.load_model("double", config=json.dumps(config | {"dynamic_batching": policy, "max_batch_size": 8}))
        try:
            slow = [("double", [given(np.full((8, 2), -300, np.float32))], {"request_id": str(i)}) for i in range(5)]
            found = stream(client, slow, 5, headers={"triton_grpc_error": "true"})
            refusals = [answer for answer in found if isinstance(answer, InferenceServerException)]
            assert [answer.message() for answer in refusals] == [
                f"[request id: {i}] Exceeds maximum queue size" for i in range(2, 5)
            ]
        finally:
            client.unload_model("double")
            client.load_model("double", config=json.dumps(config))


def test_an_error_ends_the_stream_of_a_client_that_asks_for_that(client: Any) -> None:
    found = stream(client, [("count", count(-1), {})], 1, headers={"triton_grpc_error": "true"})
    assert (found[0].status(), found[0].message()) == ("StatusCode.INVALID_ARGUMENT", "negative")


def test_sequences_over_a_stream(client: Any) -> None:
    def step(sequence: int, value: int, **flags: bool) -> tuple[str, list[Any], dict[str, Any]]:
        values = {"sequence_id": sequence, "request_id": f"{sequence}-{value}", **flags}
        return "sum", [given(np.array([[value]], np.int32), "v")], values

    requests = [step(5, 1, sequence_start=True), step(6, 10, sequence_start=True), step(5, 2), step(6, 20)]
    requests += [step(5, 3, sequence_end=True), step(6, 30, sequence_end=True)]
    found = stream(client, requests, 6)
    assert [answer for answer in found if isinstance(answer, InferenceServerException)] == []
    sums = {result.get_response().id: int(result.as_numpy("sum")[0, 0]) for result in found}
    assert sums == {"5-1": 1, "5-2": 3, "5-3": 6, "6-10": 10, "6-20": 30, "6-30": 60}


def test_a_stream_that_its_client_cancels(client: Any) -> None:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put(error or result))
    client.async_stream_infer("count", count(1000, 10))
    assert answers.get(timeout=30).as_numpy("i").tolist() == [0]
    client.stop_stream(cancel_requests=True)
    assert client.infer("double", [given()]).as_numpy("y").tolist() == (X * 2).tolist()


def test_stream_infer_of_the_aio_client(site: Site) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for n in (2, 0, 1):
            yield {"model_name": "count", "inputs": count(n), "request_id": str(n)}

    async def run() -> list[tuple[str, bool]]:
        async with triton_aio.InferenceServerClient(site.address) as client:
            found = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                found.append((result.get_response().id, final(result)))
            return found

    found = asyncio.run(run())
    assert sorted(found) == [("1", False), ("2", False), ("2", False)]


def test_no_method_of_the_clients_was_left_out() -> None:
    source = inspect.getsource(inspect.getmodule(test_health))  # type: ignore[arg-type]
    for kind in (triton.InferenceServerClient, triton_aio.InferenceServerClient):
        methods = {name for name in dir(kind) if not name.startswith("_") and name not in LOCAL}
        assert {name for name in methods if f".{name}(" not in source and f".{name}," not in source} == set()
