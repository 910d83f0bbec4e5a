"""Triton's validation of a model configuration, with its texts; they name the model and the field.

`check_config` looks at one configuration, after its defaults were filled in. `check_ensemble_steps` needs the models that an
ensemble names and is called when those are loaded. The rules and texts are those of Triton's core (model_config_utils.cc,
ensemble_utils.cc); a rule that is only ours says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from math import prod

from .ensembles import check_ensemble
from .pbtxt import Message, Source, schema
from .sequence_checks import check_sequence

log = logging.getLogger(__name__)

PLATFORM_OF = {"onnxruntime": "onnxruntime_onnx", "pytorch": "pytorch_libtorch"}
#: What newer Tritons call the PyTorch backend where the model is a `.pt2` file.
PT2_PLATFORM = "torch_aoti"


def check_config(config: Message, source: Source) -> None:
    """Raises InvalidConfig, with file and line, for the first rule that the configuration breaks."""
    _check_platform(config, source)
    _check_tensors(config, source)
    if config.HasField("dynamic_batching"):
        _check_dynamic_batching(config, source)
    if config.HasField("sequence_batching"):
        check_sequence(config, source)
    if config.HasField("ensemble_scheduling"):
        check_ensemble(config, source)
    elif config.platform == "ensemble":
        text = f"ensemble scheduling must be set for ensemble {config.name} whose platform is ensemble"
        raise source.error(text, "platform")
    _check_cache(config, source)
    _check_metrics(config, source)
    _check_warmup(config, source)


def _check_platform(config: Message, source: Source) -> None:
    name, platform, backend = config.name, config.platform, config.backend
    if not platform and not backend:
        raise source.error(f"must specify 'platform' or 'backend' for '{name}'", "name")
    if not backend and platform != "ensemble":
        raise source.error(f"unexpected platform type '{platform}' for {name}", "platform")
    if backend and platform == "ensemble":
        text = f"Ensemble model '{name}' must have platform type 'ensemble' and empty backend type"
        raise source.error(text, "backend")
    is_pt2 = backend == "pytorch" and platform == PT2_PLATFORM
    if backend in PLATFORM_OF and platform != PLATFORM_OF[backend] and not is_pt2:
        raise source.error(f"unexpected 'platform' and 'backend' pair, got:{platform}, {backend}", "platform")
    if config.max_batch_size < 0:
        raise source.error(f"'max_batch_size' must be non-negative value for {name}", "max_batch_size")


# -- inputs and outputs ----------------------------------------------------------------------------------------------------


def _check_tensors(config: Message, source: Source) -> None:
    for kind, tensors in (("input", config.input), ("output", config.output)):
        for tensor in tensors:
            reason = _tensor_problem(kind, tensor, config.max_batch_size)
            if reason:
                words = (kind, f'"{tensor.name}"') if tensor.name else (kind,)
                raise source.error(f"{reason} for {config.name}", *words)
        _check_unique(kind, [tensor.name for tensor in tensors], config, source)


def _check_unique(kind: str, names: Sequence[str], config: Message, source: Source) -> None:
    """Ours: Triton lets the second of two tensors of one name shadow the first."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise source.error(f"model {kind} '{name}' is specified more than once for {config.name}", kind, f'"{name}"')
        seen.add(name)


def _tensor_problem(kind: str, tensor: Message, max_batch_size: int) -> str | None:
    if not tensor.name:
        return f"model {kind} must specify 'name'"
    prefix = f"model {kind} '{tensor.name}' "
    if tensor.data_type == schema.TYPE_INVALID:
        return prefix + "must specify 'data_type'"
    if not tensor.dims:
        return prefix + "must specify 'dims'"
    if _has_bad_dim(tensor.dims):
        return prefix + "dimension must be integer >= 1, or -1 to indicate a variable-size dimension"
    if tensor.HasField("reshape") and (reason := _reshape_problem(tensor, max_batch_size)):
        return prefix + reason
    if kind == "input" and tensor.format != schema.ModelInput.FORMAT_NONE and len(tensor.dims) != 3:
        return "model input NHWC/NCHW require 3 dims"
    if tensor.is_shape_tensor:
        return "shape tensors are only supported for TensorRT platform"
    if tensor.is_non_linear_format_io:
        return "Non-linear IO format is only supported for the TensorRT platform"
    return None


def _has_bad_dim(dims: Iterable[int]) -> bool:
    return any(dim < 1 and dim != -1 for dim in dims)


def _reshape_problem(tensor: Message, max_batch_size: int) -> str | None:
    """`dims` and `reshape` need equal element counts between their variable-size dimensions: [2, 4, -1, 6] fits [8, -1, 6]."""
    shape = tensor.reshape.shape
    if not shape and max_batch_size == 0:
        return "cannot have empty reshape for non-batching model as scalar tensors are not supported"
    if _has_bad_dim(shape):
        return "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension"
    dims, reshaped = _counts(tensor.dims), _counts(shape)
    if len(dims) != len(reshaped) and min(len(dims), len(reshaped)) > 1:
        return "has different number of variable-size dimensions for dims and reshape"
    if dims != reshaped:
        return "has different size for dims and reshape"
    return None


def _counts(dims: Iterable[int]) -> list[int]:
    """Element counts of the stretches between variable-size dimensions."""
    stretches: list[list[int]] = [[]]
    for dim in dims:
        if dim == -1:
            stretches.append([])
        else:
            stretches[-1].append(dim)
    return [prod(stretch) for stretch in stretches]


# -- scheduling ------------------------------------------------------------------------------------------------------------


def _check_dynamic_batching(config: Message, source: Source) -> None:
    batching, name = config.dynamic_batching, config.name
    for size in batching.preferred_batch_size:
        if size <= 0:
            reason = f"dynamic batching preferred size must be positive for {name}"
        elif size > config.max_batch_size:
            reason = f"dynamic batching preferred size must be <= max batch size for {name}"
        else:
            continue
        raise source.error(reason, "dynamic_batching", "preferred_batch_size")
    _check_priorities(batching, name, source)
    if batching.preserve_ordering:
        _check_ordering(batching, name, source)


def _check_priorities(batching: Message, name: str, source: Source) -> None:
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        text = f"default priority level must be in range [1, {levels}] for {name}"
        raise source.error(text, "dynamic_batching", "default_priority_level")
    if levels and any(not 1 <= level <= levels for level in batching.priority_queue_policy):
        text = f"priority queue policy must have priority level in range [1, {levels}] for {name}"
        raise source.error(text, "dynamic_batching", "priority_queue_policy")
    if not levels and (default or batching.priority_queue_policy):  # as Triton, which says nothing
        field = "default_priority_level" if default else "priority_queue_policy"
        log.warning("%s: '%s' has no effect without 'priority_levels' for %s", source.at(field), field, name)


def _check_ordering(batching: Message, name: str, source: Source) -> None:
    if batching.priority_levels > 1:
        text = f"Only one priority level is allowed when 'preserve_ordering' is true for {name}"
        raise source.error(text, "dynamic_batching", "priority_levels")
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    if any(policy.default_timeout_microseconds and policy.timeout_action for policy in policies):
        text = f"Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {name}"
        raise source.error(text, "dynamic_batching", "timeout_action")


def _check_cache(config: Message, source: Source) -> None:
    if config.response_cache.enable and config.model_transaction_policy.decoupled:
        text = (
            f"Response Cache does not currently support model {config.name} with 'decoupled' transaction policy. "
            "Please disable the response cache."
        )
        raise source.error(text, "response_cache")


def _check_metrics(config: Message, source: Source) -> None:
    for control in config.model_metrics.metric_control:
        if not control.HasField("metric_identifier"):
            reason = "metric control must specify 'metric_identifier'"
        elif not control.metric_identifier.family:
            reason = "metric identifier must specify non-empty 'family'"
        elif not control.HasField("histogram_options"):
            reason = "metric control must specify 'histogram_options'"
        elif not control.histogram_options.buckets:
            reason = "histogram options must specify non-empty 'buckets'"
        else:
            continue
        raise source.error(f"{reason} for {config.name}", "model_metrics")


def _check_warmup(config: Message, source: Source) -> None:
    """Ours in text: Triton finds these when it makes the warm-up requests."""
    declared = {tensor.name for tensor in config.input}
    optional = {tensor.name for tensor in config.input if tensor.optional}
    for warmup in config.model_warmup:
        where = f"model_warmup '{warmup.name}' of {config.name}"
        if warmup.batch_size > max(1, config.max_batch_size):
            text = f"{where} has batch_size {warmup.batch_size}, expected at most {max(1, config.max_batch_size)}"
            raise source.error(text, "model_warmup", "batch_size")
        if unknown := sorted(set(warmup.inputs) - declared):
            text = f"{where} names the input '{unknown[0]}', expected one of {', '.join(sorted(declared)) or 'none'}"
            raise source.error(text, "model_warmup", f'"{unknown[0]}"')
        if missing := sorted(declared - optional - set(warmup.inputs)):
            raise source.error(f"{where} has no data for the input '{missing[0]}'", "model_warmup")
        for name, tensor in warmup.inputs.items():
            if reason := _warmup_problem(tensor):
                raise source.error(f"{where}, input '{name}': {reason}", "model_warmup", f'"{name}"')


def _warmup_problem(tensor: Message) -> str | None:
    if tensor.data_type == schema.TYPE_INVALID:
        return "must specify 'data_type'"
    if any(dim < 1 for dim in tensor.dims):
        return "dims must be integers >= 1"
    if tensor.WhichOneof("input_data_type") is None:
        return "must specify 'zero_data', 'random_data' or 'input_data_file'"
    return None
