"""Modules of TorchServe's package that are not here. Importing one says why, and what to use instead."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_WORKER = (
    "is not offered: it is TorchServe's worker, and jitney starts workers of its own. Run `jitney --start`, or call "
    "a handler from a program with ts.model_loader.ModelLoaderFactory.get_model_loader().load(…)"
)
_DALI = (
    "is not offered: it runs pipelines of NVIDIA DALI. Use the built-in handler image_classifier, whose images are "
    "decoded before the batch, or run nvidia.dali in a handler of your own"
)
_PIPPY = (
    "is not offered: it splits a model over processes with PiPPy, which is discontinued; here a model runs in one. Use "
    "device_map of transformers or accelerate in a handler of your own"
)
_TEST = (
    "is not offered: it is one of TorchServe's own tests. For a context without a server take MockContext from "
    "ts.torch_handler.unit_tests.test_utils.mock_context"
)
_TESTS = ("conftest", "base_handler", "envelopes", "image_classifier", "image_segmenter", "mnist_kf", "object_detector")

#: Why, by the module's name below `ts`.
REASONS = {
    "async_service": _WORKER,
    "model_service_worker": _WORKER,
    "llm_launcher": "is not offered: it makes archives of TorchServe's vLLM and TensorRT-LLM handlers. Bring a handler of your "
    "own, and make its archive with `jitney archive`",
    "torch_handler.vllm_handler": "is not offered: it drives vLLM's OpenAI server, whose classes change with its releases, "
    "for routes that this server does not have. Call vllm.AsyncLLMEngine in a handler of your own, and stream its text with "
    "ts.handler_utils.utils.send_intermediate_predict_response",
    "torch_handler.trt_llm_handler": "is not offered: it drives TensorRT-LLM's first high-level API. Call tensorrt_llm.LLM in "
    "a handler of your own, and stream its text with ts.handler_utils.utils.send_intermediate_predict_response",
    "torch_handler.dali_handler": _DALI,
    "torch_handler.dali_image_classifier": _DALI,
    "handler_utils.preprocess.dali": _DALI,
    "handler_utils.preprocess.built-in": _DALI,
    "handler_utils.distributed.pt_pippy": _PIPPY,
    "torch_handler.distributed.base_pippy_handler": _PIPPY,
    **{f"torch_handler.unit_tests.{'' if name == 'conftest' else 'test_'}{name}": _TEST for name in _TESTS},
}


class _Refusal(MetaPathFinder):
    """Asked before any other finder; knows nothing but the modules above."""

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith(self._prefix):
            reason = REASONS.get(fullname.removeprefix(self._prefix))
            if reason is not None:
                raise ImportError(f"ts.{fullname.removeprefix(self._prefix)} {reason}", name=fullname)
        return None


def refuse(package: str) -> None:
    """From now on, for this package's modules. Called once, when the package is imported."""
    sys.meta_path.insert(0, _Refusal(package))
