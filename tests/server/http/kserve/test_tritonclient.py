"""The real tritonclient.http against the real routes over a socket: every method, sync, asynchronous and aio."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.utils import InferenceServerException

from jitney.tests.fakes.dataplane import FakeDataPlane

X = np.array([[1.5, -2.0, 0.1], [4, 5, 6]], np.float32)


@pytest.fixture
def remote(server: str) -> Iterator[triton.InferenceServerClient]:
    with contextlib.closing(triton.InferenceServerClient(server)) as client:
        yield client


def given(name: str, array: np.ndarray[Any, Any], datatype: str, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_health_and_descriptions(remote: triton.InferenceServerClient) -> None:
    assert remote.is_server_live()
    assert remote.is_server_ready()
    assert remote.is_model_ready("versions", "3")
    assert not remote.is_model_ready("versions", "2")
    assert not remote.is_model_ready("nope")
    assert remote.get_server_metadata()["name"] == "triton"
    assert remote.get_model_metadata("versions", "1")["versions"] == ["1"]
    assert remote.get_model_config("identity")["name"] == "identity"
    assert remote.get_inference_statistics("identity")["model_stats"][0]["name"] == "identity"
    assert len(remote.get_inference_statistics()["model_stats"]) > 3


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", [None, True, False])
def test_infer_in_every_mix(remote: triton.InferenceServerClient, binary_in: bool, outputs: bool | None) -> None:
    wanted = None if outputs is None else [triton.InferRequestedOutput("OUTPUT0", binary_data=outputs)]
    result = remote.infer("identity", [given("INPUT0", X, "FP32", binary_in)], outputs=wanted, request_id="7")
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), X)
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_infer_with_compression_both_ways(remote: triton.InferenceServerClient, algorithm: str) -> None:
    result = remote.infer(
        "identity",
        [given("INPUT0", X, "FP32")],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), X)


@pytest.mark.parametrize("binary", [True, False])
def test_infer_of_strings(remote: triton.InferenceServerClient, binary: bool) -> None:
    words = np.array([b"ab", "cé".encode()], object)
    wanted = [triton.InferRequestedOutput("OUT_BYTES", binary_data=binary)]
    result = remote.infer("all_types", [given("IN_BYTES", words, "BYTES", binary)], outputs=wanted)
    assert [bytes(word) if binary else word.encode() for word in result.as_numpy("OUT_BYTES")] == list(words)


def test_classification(remote: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput("SCORES", class_count=2)]
    scores = np.array([[0.5, 0.25, 0.75, 0]], np.float32)
    assert remote.infer("scores", [given("X", scores, "FP32")], outputs=wanted).as_numpy("SCORES").tolist() == [
        [b"0.750000:2", b"0.500000:0:plane"]
    ]


def test_parameters(remote: triton.InferenceServerClient, dataplane: FakeDataPlane) -> None:
    remote.infer(
        "identity",
        [given("INPUT0", X, "FP32")],
        sequence_id=3,
        sequence_start=True,
        priority=2,
        timeout=50,
        parameters={"a": "b", "n": 1},
        query_params={"unknown": [1, 2]},
    )
    assert dataplane.options == [(2, 50)]
    assert {"a": "b", "n": 1}.items() <= dataplane.calls[0].request.parameters.items()


def test_errors_are_inference_server_exceptions(remote: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        remote.infer("nope", [given("INPUT0", X, "FP32")])
    assert str(caught.value) == "[404] Request for unknown model: 'nope' is not found"
    with pytest.raises(InferenceServerException, match="data-type is 'INT32'"):
        remote.infer("identity", [given("INPUT0", X.astype(np.int32), "INT32")])


def test_async_infer(server: str) -> None:
    with contextlib.closing(triton.InferenceServerClient(server, concurrency=4)) as remote:
        asked = [remote.async_infer("identity", [given("INPUT0", X + n, "FP32")]) for n in range(8)]
        for n, pending in enumerate(asked):
            np.testing.assert_array_equal(pending.get_result().as_numpy("OUTPUT0"), X + n)


def test_model_control(remote: triton.InferenceServerClient, dataplane: FakeDataPlane) -> None:
    assert {"name": "identity", "version": "1", "state": "READY"} in remote.get_model_repository_index()
    remote.load_model("m")
    remote.load_model("m", config='{"max_batch_size": 4}', files={"file:1/model.py": b"code"})
    remote.unload_model("m", unload_dependents=True)
    assert dataplane.loads == [("m", None, None), ("m", '{"max_batch_size": 4}', {"1/model.py": b"code"})]
    assert dataplane.unloads == [("m", True)]


def test_settings(remote: triton.InferenceServerClient) -> None:
    assert remote.get_trace_settings()["trace_level"] == ["OFF"]
    assert remote.update_trace_settings("identity", {"trace_rate": "5"})["trace_rate"] == "5"
    assert remote.get_trace_settings("identity")["trace_rate"] == "5"
    assert remote.update_trace_settings("identity", {"trace_rate": None})["trace_rate"] == "1000"
    assert remote.get_log_settings()["log_file"] == ""
    assert remote.update_log_settings({})["log_verbose_level"] == 0


def test_shared_memory_in_and_out(remote: triton.InferenceServerClient) -> None:
    key = f"/jitney_test_{uuid.uuid4().hex}"
    region = shared_memory.create_shared_memory_region("r0", key, 2 * X.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [X])
        remote.register_system_shared_memory("r0", key, 2 * X.nbytes)
        assert remote.get_system_shared_memory_status() == [
            {"name": "r0", "key": key, "offset": 0, "byte_size": 2 * X.nbytes}
        ]
        source = triton.InferInput("INPUT0", list(X.shape), "FP32")
        source.set_shared_memory("r0", X.nbytes)
        target = triton.InferRequestedOutput("OUTPUT0")
        target.set_shared_memory("r0", X.nbytes, offset=X.nbytes)
        result = remote.infer("identity", [source], outputs=[target])
        assert result.get_output("OUTPUT0") == {"name": "OUTPUT0", "datatype": "FP32", "shape": [2, 3]}
        got = shared_memory.get_contents_as_numpy(region, np.float32, [2, 3], X.nbytes)
        np.testing.assert_array_equal(got, X)
        del got
        remote.unregister_system_shared_memory("r0")
        assert remote.get_system_shared_memory_status("") == []
    finally:
        shared_memory.destroy_shared_memory_region(region)
    assert not Path("/dev/shm" + key).exists()


def test_cuda_shared_memory_without_a_gpu(remote: triton.InferenceServerClient) -> None:
    assert remote.get_cuda_shared_memory_status() == []
    remote.unregister_cuda_shared_memory()
    with pytest.raises(InferenceServerException, match="failed to register shared memory region: invalid args"):
        remote.register_cuda_shared_memory("c0", b"QUJD" * 21 + b"QQ==", 0, 64)


def test_the_aio_client(server: str) -> None:
    async def talk() -> None:
        async with triton_aio.InferenceServerClient(server) as remote:
            assert await remote.is_server_ready()
            assert await remote.is_model_ready("identity")
            results = await asyncio.gather(
                *(remote.infer("identity", [given("INPUT0", X + n, "FP32")]) for n in range(8)),
                remote.infer(
                    "identity",
                    [given("INPUT0", X, "FP32")],
                    request_compression_algorithm="gzip",
                    response_compression_algorithm="gzip",
                ),
            )
            for n, result in enumerate(results[:8]):
                np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), X + n)
            np.testing.assert_array_equal(results[8].as_numpy("OUTPUT0"), X)
            assert (await remote.get_model_metadata("identity"))["name"] == "identity"
            with pytest.raises(InferenceServerException, match="is not found"):
                await remote.infer("nope", [given("INPUT0", X, "FP32")])

    asyncio.run(talk())
