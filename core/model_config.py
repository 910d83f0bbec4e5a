"""`ModelConfig`: everything the server knows of one model version, frozen, whatever file it was read from.

Triton's field names are used where a Triton field exists (`config.pbtxt`), TorchServe's where only TorchServe has the idea
(`model-config.yaml`, `config.properties`). The object crosses to worker processes as msgpack, so it holds plain data only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: Seconds that nothing keeps to: the limit where TorchServe's timeouts are 0 or less.
AT_ONCE = 1e-9
#: What to write for a model that need not have a GPU.
CPU_TOO = "write kind: KIND_AUTO (a GPU where there is one, else the CPU) or KIND_CPU"

Kind = Literal["KIND_AUTO", "KIND_CPU", "KIND_GPU", "KIND_MODEL"]


@dataclass(frozen=True)
class TensorSpec:
    """A declared input or output. `dims` leave out the batch axis; -1 is a size that may differ between requests."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False
    ragged: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueuePolicy:
    """Triton's `ModelQueuePolicy`. Times in microseconds, 0 = none; `max_queue_size` in requests, 0 = unlimited."""

    max_queue_size: int = 0
    default_timeout_us: int = 0
    allow_timeout_override: bool = False
    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"


@dataclass(frozen=True)
class Batching:
    """How requests are put together. `enabled` false: each request is executed alone (Triton without dynamic_batching).

    `max_queue_delay_us` counts from the arrival of the batch's oldest request; 0 takes what is queued the moment a worker
    is idle. Priority 1 is the highest; 0 levels = no priorities.
    """

    enabled: bool = False
    max_queue_delay_us: int = 0
    preferred_batch_size: tuple[int, ...] = ()
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policy: Mapping[int, QueuePolicy] = field(default_factory=dict)

    @property
    def limits_waiting(self) -> bool:
        """Whether any request's waiting ends by itself though the request does not ask for it."""
        return any(p.default_timeout_us for p in (self.default_queue_policy, *self.priority_queue_policy.values()))


@dataclass(frozen=True)
class InstanceGroup:
    """`count` workers on each listed GPU (KIND_GPU), or `count` workers on the CPU. KIND_AUTO: GPU where there is one."""

    name: str = ""
    count: int = 1
    kind: Kind = "KIND_AUTO"
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class WarmupInput:
    """One tensor of a warm-up request: zeros, random values, or the bytes of `file` (an absolute path)."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    source: Literal["zero", "random", "file"] = "zero"
    file: str = ""


@dataclass(frozen=True)
class Warmup:
    """One `model_warmup` entry, run `count` times by every instance before it is ready."""

    name: str
    batch_size: int
    inputs: tuple[WarmupInput, ...]
    count: int = 1


#: TorchServe's names of the headers of stateful requests.
SEQUENCE_HEADERS = ("ts_request_sequence_id", "ts_request_sequence_start", "ts_request_sequence_end")


@dataclass(frozen=True)
class HandlerSpec:
    """What a TorchServe archive adds: the handler's entry point and all that its `context` shows.

    `entry` is `module`, `module.py`, `module.py:function` or a built-in name; files lie in `ModelConfig.directory`.
    `sequence_headers` say which sequence a request belongs to, that it begins it, that it ends it.
    """

    entry: str
    manifest: Mapping[str, Any] = field(default_factory=dict)
    yaml: Mapping[str, Any] = field(default_factory=dict)
    envelope: str = ""
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    metrics_config: str = ""
    python: str = ""
    sequence_headers: tuple[str, str, str] = SEQUENCE_HEADERS


#: Those of PyTorch.
TORCH_BACKENDS = ("eager", "torchscript", "exported")
#: Backends that run tensors through a model without code of the user's around it: what they do can be done again.
TENSOR_BACKENDS = (*TORCH_BACKENDS, "onnxruntime")


#: Those of them whose model is data alone: nothing of it can touch what else lives in its process.
SHARING_BACKENDS = ("onnxruntime", "torchscript", "exported")


@dataclass(frozen=True)
class ModelConfig:
    """One version of one model, complete: nothing is left to be deduced after the repository made it.

    directory         the model's folder (labels, warm-up files)
    version_directory the folder with the version's own files; for an archive the folder it was unpacked to
    filename          the model file, relative to `version_directory` (Triton's default_model_filename)
    max_batch_size    rows a batch may hold; 0 = the model has no batch axis, `dims` are complete shapes
    response_timeout_s  a worker that holds a batch for longer is replaced; 0 = no limit, AT_ONCE = no answer is in time
    max_in_flight     batches that a worker may hold: one runs, the others wait in it or, where the model `overlaps`, are
                      answered later; 0 = the default of its kind
    worker_group      its workers share processes with those of other models that name the same group; "" = each has its own
    retry_after_crash   whether requests that a worker held when it crashed are run again, each alone, once
    startup_timeout_s   a worker that has not loaded by then is ended; 0 = no limit, AT_ONCE = none loads in time
    on_demand         whether its workers start with the first request and not when the server does
    idle_timeout_s    one that is loaded on demand goes after so many seconds without a request; 0 = when memory runs short
    codec_source      of a codec that is a Python file: what it held when the model was loaded
    config_json       the `GET …/config` document (Triton's ModelConfig as JSON, proto field names)
    environment       variables that the workers get beside the server's
    withheld_environment  names of the server's variables that they do not get, a regular expression for the whole name
    work_directory    a temporary folder that the model store owns for this version; gone after its `release`
    torchserve        for archives: the numbers as TorchServe's describe shows them (camelCase, as given, also where another
                      number is in effect: `batchSize` -5 runs as 1)
    """

    name: str
    version: str
    backend: Literal["eager", "torchscript", "exported", "onnxruntime", "python", "handler", "ensemble"]
    platform: str = ""
    directory: str = ""
    version_directory: str = ""
    filename: str = ""
    max_batch_size: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batching: Batching = Batching()
    instance_groups: tuple[InstanceGroup, ...] = (InstanceGroup(),)
    warmup: tuple[Warmup, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    optimization: Mapping[str, Any] = field(default_factory=dict)
    metric_tags: Mapping[str, str] = field(default_factory=dict)
    decoupled: bool = False
    max_in_flight: int = 0
    worker_group: str = ""
    retry_after_crash: bool = False
    response_cache: bool = False
    sequence: Mapping[str, Any] | None = None
    ensemble: Mapping[str, Any] | None = None
    handler: HandlerSpec | None = None
    codec: str = "json"
    codec_source: bytes = b""
    response_timeout_s: float = 0.0
    startup_timeout_s: float = 0.0
    on_demand: bool = False
    idle_timeout_s: float = 0.0
    min_workers: int = 1
    max_workers: int = 1
    max_retry_timeout_s: float = 300.0
    client_timeout_s: float = 0.0
    use_job_ticket: bool = False
    url: str = ""
    runtime: str = "python"
    loaded_at_startup: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    withheld_environment: str = ""
    config_json: Mapping[str, Any] = field(default_factory=dict)
    work_directory: str = ""
    torchserve: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batches(self) -> bool:
        """Whether tensors of this model carry a leading batch axis that `dims` leave out."""
        return self.max_batch_size > 0

    @property
    def is_archive(self) -> bool:
        """Whether it came from TorchServe's world, whose answers its clients know to the letter."""
        return self.backend == "handler" or self.handler is not None

    @property
    def overlaps(self) -> bool:
        """Whether a worker takes the next batch as soon as `execute` has returned, though answers of the one before are still
        to come: for models that answer when they please."""
        return self.decoupled or self.asynchronous or self.continuous

    @property
    def asynchronous(self) -> bool:
        """Whether it is a handler with TorchServe's `asyncCommunication`: its requests are tasks of one event loop."""
        return self.handler is not None and bool(self.handler.yaml.get("asyncCommunication"))

    @property
    def continuous(self) -> bool:
        """Whether it is a handler with TorchServe's `continuousBatching`: it is asked in rounds, each of which answers all
        requests in flight."""
        return self.handler is not None and bool(self.handler.yaml.get("continuousBatching"))

    def input(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.outputs if spec.name == name), None)
