"""Sessions that ONNX Runtime would make on another device than the one that was asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from onnx import TensorProto

from jitney.backends import onnx, onnx_options, onnx_session
from jitney.backends.factory import create
from jitney.backends.onnx_session import open_session
from jitney.backends.options import CannotLoad
from jitney.core.request import Instance
from jitney.tests.backends.test_onnx import model, save_identity

#: What onnxruntime-gpu 1.31.1 writes where CUDA 13 is not installed.
WORDS = """\
\x1b[0;93m2026-11-28 10:53:09.55 [W:onnxruntime:Default, pybind_state.cc:856 operator()] No registered plugin EP device\x1b[m
\x1b[1;31m2026-11-28 10:53:09.55 [E:onnxruntime:Default, bridge.cc:2458 operator()] /src/bridge.cc:2043 \
onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
/usr/lib/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: \
No such file or directory
\x1b[m
\x1b[0;93m2026-11-28 10:53:09.55 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:1295 Create] Failed to create \
CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*.\x1b[m
"""
REASON = "libonnxruntime_providers_cuda.so cannot be loaded: libcublasLt.so.13: cannot open shared object file"


@pytest.fixture
def build_with_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """An ONNX Runtime that was built with CUDA, which has a session run on the CPU, or raises."""
    real = ort.InferenceSession

    def install(error: Exception | None = None) -> None:
        def session(path: Path, options: Any, providers: Any, enable_fallback: int = 1) -> Any:
            if error is not None and not enable_fallback:
                raise error
            os.write(2, WORDS.encode())
            return real(path, options, providers=["CPUExecutionProvider"])

        monkeypatch.setattr(ort, "InferenceSession", session)
        monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
        monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)

    return install


def test_a_model_on_a_gpu_does_not_run_on_the_cpu_in_silence(
    tmp_path: Path, build_with_cuda: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    save_identity(tmp_path, TensorProto.FLOAT)
    build_with_cuda()
    with pytest.raises(CannotLoad, match=f"would run it on the CPU: {REASON}.*pip install .*or write kind: KIND_CPU"):
        create(model(tmp_path)).load(model(tmp_path), Instance("m_0", "KIND_GPU", 0, threads=1))
    assert capfd.readouterr().err == WORDS, "what the first attempt said is in the log, what the second said in the error"


def test_a_provider_that_raises_is_not_replaced_by_another(
    tmp_path: Path, build_with_cuda: Callable[[Exception], None]
) -> None:
    save_identity(tmp_path, TensorProto.FLOAT)
    build_with_cuda(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 35: CUDA driver version is insufficient"))
    with pytest.raises(CannotLoad, match="onnx runtime error 1: CUDA failure 35: CUDA driver version is insufficient"):
        create(model(tmp_path)).load(model(tmp_path), Instance("m_0", "KIND_GPU", 0, threads=1))


def test_a_session_does_not_fall_back_while_it_runs(tmp_path: Path) -> None:
    save_identity(tmp_path, TensorProto.FLOAT)
    plain = model(tmp_path)
    instance = Instance("m_0", threads=1)
    session = open_session(
        tmp_path / "model.onnx", onnx_options.session_options(plain, instance), onnx_options.providers(plain, instance)
    )
    assert session._enable_fallback is False


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", ""),
        ("a line of another library\n", ""),
        ("[W:onnxruntime:Default, a.cc:1 f] only a warning\n", "only a warning"),
        ("[W:onnxruntime:, a.cc:1 f] first\n[E:onnxruntime:, a.cc:2 f] an error\n", "an error"),
    ],
)
def test_the_reason_is_the_first_error_of_onnx_runtimes_log(said: str, reason: str) -> None:
    assert onnx_session._reason(said) == reason


def test_two_packages_that_share_a_folder_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for record in ("onnxruntime-1.31.0", "onnxruntime_gpu-1.30.1", "onnxruntime_extensions-0.14.0"):
        (tmp_path / f"{record}.dist-info").mkdir()
    (tmp_path / "onnxruntime").mkdir()
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "onnxruntime" / "__init__.py"))
    save_identity(tmp_path, TensorProto.FLOAT)
    with caplog.at_level(logging.WARNING):
        create(model(tmp_path)).load(model(tmp_path), Instance("m_0", threads=1))
    (line,) = [record.getMessage() for record in caplog.records if record.name == onnx_session.__name__]
    assert line.startswith("onnxruntime 1.31.0 and onnxruntime-gpu 1.30.1 are installed in the same folder")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(CannotLoad, match=r"has no CUDA provider.*onnxruntime-gpu 1.30.1 are installed in the same folder"):
        create(model(tmp_path)).load(model(tmp_path), Instance("m_0", "KIND_GPU", 0, threads=1))
    (tmp_path / "onnxruntime-1.31.0.dist-info").rmdir()
    caplog.clear()
    create(model(tmp_path)).load(model(tmp_path), Instance("m_0", threads=1))
    assert not [record for record in caplog.records if record.name == onnx_session.__name__]


def test_the_hosts_memory_of_weights_is_given_back_where_they_went_to_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnCard(ort.InferenceSession):  # type: ignore[misc, unused-ignore]
        def __init__(self, path: Path, options: Any, providers: Any, enable_fallback: int) -> None:
            super().__init__(path, options, providers=["CPUExecutionProvider"], enable_fallback=enable_fallback)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    trimmed: list[bool] = []
    monkeypatch.setattr(onnx, "trim", lambda: trimmed.append(True))
    save_identity(tmp_path, TensorProto.FLOAT)
    plain = model(tmp_path, parameters={"io_binding": "false"})
    create(plain).load(plain, Instance("m_0", threads=1))
    assert not trimmed
    monkeypatch.setattr(ort, "InferenceSession", OnCard)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    create(plain).load(plain, Instance("m_0", "KIND_GPU", 0, threads=1))
    assert trimmed == [True]
