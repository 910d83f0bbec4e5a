"""From Triton's message, complete and checked, to this server's `ModelConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ....core.errors import InvalidConfig
from ....core.lines import read_lines
from ....core.model_config import Batching, InstanceGroup, Kind, ModelConfig, QueuePolicy, TensorSpec, Warmup, WarmupInput
from ....core.names import inside
from .pbtxt import Message, Source, schema, to_json

BackendName = Literal["eager", "torchscript", "exported", "onnxruntime", "python", "handler", "ensemble"]

WARMUP_FOLDER = "warmup"


def to_model_config(
    config: Message, backend: BackendName, filename: str, version_directory: Path, source: Source
) -> ModelConfig:
    """One version of the model. Reads label files and looks warm-up files up, inside of the model's folder only."""
    directory = version_directory.parent
    document = to_json(config)
    groups = tuple(_instance_group(group) for group in config.instance_group)
    instances = sum(group.count * max(1, len(group.gpus)) for group in groups)
    parameters = {key: value.string_value for key, value in sorted(config.parameters.items())}
    return ModelConfig(
        name=config.name,
        version=version_directory.name,
        backend=backend,
        platform=config.platform,
        directory=str(directory),
        version_directory=str(version_directory),
        filename=filename,
        max_batch_size=config.max_batch_size,
        inputs=tuple(_tensor_spec(tensor, directory, source) for tensor in config.input),
        outputs=tuple(_tensor_spec(tensor, directory, source) for tensor in config.output),
        batching=_batching(config),
        instance_groups=groups,
        warmup=tuple(_warmup(warmup, directory, source) for warmup in config.model_warmup),
        parameters=parameters,
        optimization=document.get("optimization", {}),
        metric_tags=dict(sorted(config.metric_tags.items())),
        decoupled=config.model_transaction_policy.decoupled,
        response_cache=config.response_cache.enable,
        sequence=document.get("sequence_batching"),
        ensemble=document.get("ensemble_scheduling"),
        codec=parameters.get("codec", "json"),
        min_workers=max(1, instances),
        max_workers=max(1, instances),
        config_json=document,
    )


def datatype_of(data_type: int) -> str:
    """TYPE_FP32 -> FP32, TYPE_STRING -> BYTES: the names that requests use."""
    return str(schema.DataType.Name(data_type)).removeprefix("TYPE_").replace("STRING", "BYTES")


def _tensor_spec(tensor: Message, directory: Path, source: Source) -> TensorSpec:
    is_input = tensor.DESCRIPTOR.name == "ModelInput"
    return TensorSpec(
        name=tensor.name,
        datatype=datatype_of(tensor.data_type),
        dims=tuple(tensor.dims),
        reshape=tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None,
        optional=is_input and tensor.optional,
        ragged=is_input and tensor.allow_ragged_batch,
        labels=() if is_input or not tensor.label_filename else _labels(tensor.label_filename, directory, source),
    )


def _labels(filename: str, directory: Path, source: Source) -> tuple[str, ...]:
    """One label a line, the n-th for class n."""
    try:
        return tuple(read_lines(inside(directory, filename)))
    except (OSError, UnicodeDecodeError, InvalidConfig) as error:
        raise source.error(f"cannot read label_filename '{filename}': {error}", "label_filename") from None


def _batching(config: Message) -> Batching:
    """Without a batch axis there is nothing to put together, but priorities and queue policies still hold."""
    if not config.HasField("dynamic_batching"):
        return Batching()
    batching = config.dynamic_batching
    preferred = tuple(batching.preferred_batch_size)
    return Batching(
        enabled=config.max_batch_size > 0,
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        preferred_batch_size=() if preferred == (config.max_batch_size,) else preferred,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        default_queue_policy=_queue_policy(batching.default_queue_policy),
        priority_queue_policy={
            level: _queue_policy(batching.priority_queue_policy[level]) for level in sorted(batching.priority_queue_policy)
        },
    )


def _queue_policy(policy: Message) -> QueuePolicy:
    return QueuePolicy(
        max_queue_size=policy.max_queue_size,
        default_timeout_us=policy.default_timeout_microseconds,
        allow_timeout_override=policy.allow_timeout_override,
        timeout_action="DELAY" if policy.timeout_action == schema.ModelQueuePolicy.DELAY else "REJECT",
    )


def _instance_group(group: Message) -> InstanceGroup:
    kinds: dict[Any, Kind] = {
        schema.ModelInstanceGroup.KIND_AUTO: "KIND_AUTO",
        schema.ModelInstanceGroup.KIND_CPU: "KIND_CPU",
        schema.ModelInstanceGroup.KIND_GPU: "KIND_GPU",
        schema.ModelInstanceGroup.KIND_MODEL: "KIND_MODEL",
    }
    return InstanceGroup(name=group.name, count=group.count, kind=kinds[group.kind], gpus=tuple(group.gpus))


def _warmup(warmup: Message, directory: Path, source: Source) -> Warmup:
    """The inputs stand in a map, which has no order: they are sorted by name."""
    inputs = tuple(_warmup_input(name, warmup.inputs[name], directory, source) for name in sorted(warmup.inputs))
    return Warmup(name=warmup.name, batch_size=warmup.batch_size, inputs=inputs, count=max(1, warmup.count))


def _warmup_input(name: str, tensor: Message, directory: Path, source: Source) -> WarmupInput:
    """Data files lie in the model's `warmup` folder (Triton)."""
    kind, file = tensor.WhichOneof("input_data_type"), ""
    if kind == "input_data_file":
        try:
            path = inside(directory / WARMUP_FOLDER, tensor.input_data_file)
        except InvalidConfig as error:
            raise source.error(f"warm-up data of input '{name}': {error}", "input_data_file") from None
        if not path.is_file():
            raise source.error(f"warm-up data of input '{name}': there is no file '{path}'", "input_data_file")
        file = str(path)
    sources: dict[str, Literal["zero", "random", "file"]] = {"random_data": "random", "input_data_file": "file"}
    return WarmupInput(name, datatype_of(tensor.data_type), tuple(tensor.dims), sources.get(kind, "zero"), file)
