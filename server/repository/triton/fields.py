"""Which fields of a model configuration mean something here: the table of those that do not.

Every field of the schema is either honoured, refused with a reason (`REFUSED`), or accepted because it tunes something that
does not exist here and cannot change an answer (`WITHOUT_MEANING`, one log line each). The tables' keys are paths of field
names; keys of maps are written as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from google.protobuf.descriptor import FieldDescriptor

from .pbtxt import Message, Source, map_value

log = logging.getLogger(__name__)

#: Refused at load, with what to do instead. Read: "'<field>' is not supported: <reason>".
REFUSED: Mapping[str, str] = {
    "batch_input": "tensors made from ragged inputs exist only in Triton's C++ backends; compute them in a Python model",
    "batch_output": "tensors made from ragged inputs exist only in Triton's C++ backends; compute them in a Python model",
    "cc_model_filenames": "one model file serves every GPU; name it in default_model_filename",
    "model_operations.op_library_filename": "custom operator libraries are not loaded: that of "
    "onnxruntime-extensions need not be named where the package is installed, and a Python model can load others",
    "model_repository_agents": "repository agents are shared libraries of Triton; prepare the files before the start",
    "ensemble_scheduling.max_inflight_requests": "the requests in flight between ensemble steps are not limited one by one; "
    "bound the queues of the steps' models with max_queue_size",
    "ensemble_scheduling.step.model_namespace": "model names are unique over all repositories; delete it",
    "instance_group.host_policy": "host policies are tritonserver settings; set CPU affinity outside of the server",
    "instance_group.passive": "an instance that loads and never answers has no use here; delete the group",
    "instance_group.secondary_devices": "no NVDLA device is supported; delete it",
    "sequence_batching.iterative_sequence": "a request cannot be scheduled again by its model; loop inside of execute, and "
    "answer in parts with model_transaction_policy { decoupled: true }",
    "parameters.TRITON_BATCH_STRATEGY_PATH": "custom batching strategies are shared libraries of Triton; "
    "preferred_batch_size and max_queue_delay_microseconds decide here",
}

#: Accepted, with a log line. Read: "'<field>' has no effect here: <reason>".
WITHOUT_MEANING: Mapping[str, str] = {
    "input.format": "tensors are passed to the model as they come",
    "instance_group.rate_limiter": "there is no rate limiter, as in Triton with --rate-limit=off; count bounds what runs at once",
    "model_metrics": "histogram buckets are the server's",
    "optimization.priority": "workers are processes of equal priority",
    "optimization.cuda": "CUDA graphs and streams are the framework's",
    "optimization.input_pinned_memory": "tensors travel in shared memory",
    "optimization.output_pinned_memory": "tensors travel in shared memory",
    "optimization.gather_kernel_buffer_threshold": "batches are gathered on the host",
    "optimization.eager_batching": "a batch is formed when a worker is idle",
    "sequence_batching.state.use_same_buffer_for_input_output": "the worker keeps the state",
    "sequence_batching.state.use_growable_memory": "the worker keeps the state",
}

#: Execution accelerators that ONNX Runtime's backend knows, by the list they stand in (Triton's onnxruntime backend).
ACCELERATORS: Mapping[str, frozenset[str]] = {
    "gpu_execution_accelerator": frozenset({"tensorrt", "cuda"}),
    "cpu_execution_accelerator": frozenset({"openvino"}),
}


def check_fields(config: Message, source: Source, model: str) -> None:
    """Raises InvalidConfig for a field in `REFUSED` or an enum number that the schema does not name; logs the others."""
    logged = set()
    for path, field, value in _walk(config, ""):
        words = path.split(".")
        if path in REFUSED:
            raise source.error(f"'{path}' is not supported: {REFUSED[path]}, for {model}", *words)
        if path in WITHOUT_MEANING and path not in logged and value is not False:
            log.info("%s: '%s' has no effect here: %s", source.at(*words), path, WITHOUT_MEANING[path])
            logged.add(path)
        if field.enum_type is not None and value not in field.enum_type.values_by_number:
            names = ", ".join(field.enum_type.values_by_name)
            raise source.error(f"'{path}' is {value}, expected one of {names}, for {model}", *words)
    _check_runtime(config, source, model)
    _check_accelerators(config, source, model)


def _walk(message: Message, prefix: str) -> Iterator[tuple[str, FieldDescriptor, object]]:
    """Every field that is set, as (path, descriptor, value); elements of lists one by one, map keys as part of the path."""
    for field, value in message.ListFields():
        path = prefix + field.name
        of = map_value(field)
        if of is not None:
            yield path, field, None
            yield from _walk_map(value, of, path)
            continue
        for element in value if field.is_repeated else [value]:
            yield path, field, element
            if field.message_type is not None:
                yield from _walk(element, path + ".")


def _walk_map(entries: Message, of: FieldDescriptor, path: str) -> Iterator[tuple[str, FieldDescriptor, object]]:
    for key in entries:
        yield f"{path}.{key}", of, entries[key]
        if of.message_type is not None:
            yield from _walk(entries[key], f"{path}.")


def _check_runtime(config: Message, source: Source, model: str) -> None:
    """`runtime` names the library of a Triton backend; only its default and PyTorch's "model.py" mean something here."""
    if config.runtime in ("", "model.py") or config.runtime == f"libtriton_{config.backend}.so":
        return
    raise source.error(
        f"'runtime' is not supported: got '{config.runtime}', expected 'model.py' or none, for {model}", "runtime"
    )


def _check_accelerators(config: Message, source: Source, model: str) -> None:
    accelerators = config.optimization.execution_accelerators
    for kind, known in ACCELERATORS.items():
        for accelerator in getattr(accelerators, kind):
            words = ("execution_accelerators", kind, f'"{accelerator.name}"')
            if config.backend != "onnxruntime":
                log.info("%s: '%s' has no effect on backend '%s'", source.at(*words), accelerator.name, config.backend)
            elif accelerator.name not in known:
                raise source.error(f"unknown Execution Accelerator '{accelerator.name}' is requested for {model}", *words)
