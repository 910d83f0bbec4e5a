"""The fast path: an archive whose handler is a built-in one runs as a codec in front of a tensor backend. Pure.

TorchServe's worker decodes a whole batch one picture after the other while the device waits. A codec decodes each request in
its own thread before it is queued, and its tensors fill the same batches as KServe v2 requests. Only archives that ask for
nothing else take this path; every other one runs its handler whole, as TorchServe does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ....core.model_config import ModelConfig, TensorSpec
from .archive import Manifest

#: Files that `backends.eager` takes for weights; with more than one of them it cannot be told which the manifest means.
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")
#: Sections of model-config.yaml that ask for work which only a handler does.
HANDLER_SECTIONS = (
    "pt2",
    "micro_batching",
    "dali",
    "pippy",
    "deepspeed",
    "torchrun",
    "asyncCommunication",
    "continuousBatching",
)

#: Variables that have TorchServe's BaseHandler run under torch's profiler.
PROFILERS = ("ENABLE_TORCH_PROFILER",)


@dataclass(frozen=True)
class BuiltIn:
    """A built-in handler that has a codec: the tensors of its model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


BUILT_INS = {
    "image_classifier": BuiltIn(
        inputs=(TensorSpec("INPUT__0", "FP32", (3, 224, 224)),), outputs=(TensorSpec("OUTPUT__0", "FP32", (-1,)),)
    )
}


def fast_path(
    config: ModelConfig, manifest: Manifest, files: Collection[str], environment: Mapping[str, str]
) -> ModelConfig | None:
    """`config` with codec and tensor backend in place of its handler; None where only the handler does what is asked.

    `files`: names at the archive's top. `environment`: what the worker gets; a profiler that it asks for runs around the
    handler's steps.
    """
    spec = config.handler
    if spec is None or spec.envelope or manifest.requirements_file or _needs_handler(spec.yaml):
        return None
    if any(environment.get(name) for name in PROFILERS):
        return None
    name = spec.entry.removesuffix(".py")
    if name not in BUILT_INS or f"{name}.py" in files or name in files:  # the archive brings a module of that name
        return None
    model = _backend(manifest, files)
    if model is None:
        return None
    backend, filename = model
    built_in = BUILT_INS[name]
    return replace(
        config,
        backend=backend,
        codec=name,
        filename=filename,
        inputs=built_in.inputs,
        outputs=built_in.outputs,
        retry_after_crash=True,
    )


def handler_alone(config: ModelConfig) -> ModelConfig:
    """The archive's handler as it is, without the codec and the tensor backend that `fast_path` put in its place.

    It has one worker, which gets one request at a time.
    """
    return replace(
        config,
        backend="handler",
        worker_group="",
        codec="json",
        filename="",
        inputs=(),
        outputs=(),
        max_batch_size=1,
        batching=replace(config.batching, enabled=False, max_queue_delay_us=0),
        min_workers=1,
        max_workers=1,
        use_job_ticket=False,
    )


def _needs_handler(yaml: Mapping[str, Any]) -> bool:
    section = yaml.get("handler")
    return any(yaml.get(key) for key in HANDLER_SECTIONS) or (isinstance(section, Mapping) and bool(section.get("profile")))


def _backend(manifest: Manifest, files: Collection[str]) -> tuple[Literal["eager", "torchscript"], str] | None:
    """The backend and its file, where the archive holds exactly what TorchServe's BaseHandler would load."""
    serialized, source = manifest.serialized_file, manifest.model_file
    weights = [name for name in files if name.endswith(WEIGHT_SUFFIXES)]
    if not source:
        return ("torchscript", serialized) if serialized.endswith(".pt") and serialized in files else None
    if source.endswith(".py") and source in files and weights == [serialized] and not serialized.endswith(".safetensors"):
        return "eager", source
    return None
