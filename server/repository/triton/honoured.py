"""How each field of a model configuration is honoured: what `fields` neither refuses nor passes over.

docs/model-configuration.md shows these tables and those of `fields` together; a test finds every field of the schema in exactly
one of them. An entry holds for the fields below it that have none of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

_QUEUE = {
    "timeout_action": "REJECT: a request whose time is over fails at that moment; DELAY: it goes behind the others",
    "default_timeout_microseconds": "how long a request may wait in the queue; 0 = any time",
    "allow_timeout_override": "whether a request's own `timeout` may shorten that",
    "max_queue_size": "requests that may wait; one more is 503; 0 = any number",
}

HONOURED: Mapping[str, str] = {
    "name": "the model's name; where it is given it has to be the folder's",
    "platform": "onnxruntime_onnx, pytorch_libtorch, torch_aoti, ensemble; filled in from `backend` or the files",
    "backend": "onnxruntime, pytorch, python, a folder of --backend-directory; filled in from `platform` or the version's files",
    "runtime": '"model.py" makes backend "pytorch" eager; filled in for a Python-based one; Triton\'s own library is accepted; '
    "others are refused",
    "version_policy.latest.num_versions": "so many of the highest versions are served; without a policy the highest one",
    "version_policy.all": "all versions are served",
    "version_policy.specific.versions": "these versions are served; one that has no folder is named in the log",
    "max_batch_size": "most rows of a batch; 0 = no batch axis; filled in from an ONNX file where inputs are left out",
    "input.name": "name of the input; the model's own where inputs are left out",
    "input.data_type": "datatype; a request with another one is refused",
    "input.dims": "shape without the batch axis, -1 = any size; a request that does not fit is refused",
    "input.reshape.shape": "the shape that the model gets in place of `dims`",
    "input.allow_ragged_batch": "requests of different shapes share a batch; a backend that stacks runs it shape by shape",
    "input.optional": "requests may leave the input out",
    "output.name": "name of the output",
    "output.data_type": "datatype; a model that answers with another one fails the request",
    "output.dims": "shape without the batch axis, -1 = any size",
    "output.reshape.shape": "the shape that the model gives; clients get `dims`",
    "output.label_filename": "labels for classification and codecs: a file of the model's folder, a label a line",
    "optimization.graph.level": "ONNX Runtime: 0 all, 1 extended, -1 basic, 2 none",
    "optimization.execution_accelerators": "ONNX Runtime: `cuda` with its parameters as provider "
    "options; one that Triton does not know is refused; without effect on other backends",
    "dynamic_batching.preferred_batch_size": "as soon as the largest reached one of these waits, it leaves",
    "dynamic_batching.max_queue_delay_microseconds": "a batch leaves when it is full, or so long after its oldest "
    "request arrived; 0 = what waits leaves when a worker is idle",
    "dynamic_batching.preserve_ordering": "answers leave in the order of arrival",
    "dynamic_batching.priority_levels": "levels of `priority`, 1 the most urgent; 0 = none",
    "dynamic_batching.default_priority_level": "level of requests that name none",
    **{f"dynamic_batching.default_queue_policy.{name}": text for name, text in _QUEUE.items()},
    "dynamic_batching.priority_queue_policy": "the same for each level that has one of its own",
    "sequence_batching.direct.max_queue_delay_microseconds": "how long a batch waits for more of its slots",
    "sequence_batching.direct.minimum_slot_utilization": "share of the slots that fill a batch before the delay is over",
    "sequence_batching.oldest.max_candidate_sequences": "sequences that are batched at once; 0 = `max_batch_size`",
    "sequence_batching.oldest.preferred_batch_size": "as in `dynamic_batching`",
    "sequence_batching.oldest.max_queue_delay_microseconds": "as in `dynamic_batching`",
    "sequence_batching.oldest.preserve_ordering": "answers leave in the order of arrival",
    "sequence_batching.max_sequence_idle_microseconds": "a sequence without a request for so long gives its slot away; 0 = 1 s",
    "sequence_batching.control_input": "tensors that tell the model of start, end, readiness and correlation id",
    "sequence_batching.state": "implicit state, kept by the worker from one request of a sequence to the next",
    "sequence_batching.state.initial_state": "zeros, or a file of the model's folder `initial_state`",
    "ensemble_scheduling.step": "the steps of an ensemble: model, version, and which tensors go where",
    "instance_group.name": "name of the group; filled in",
    "instance_group.kind": "KIND_CPU, KIND_GPU; KIND_AUTO: GPUs where the framework can; KIND_MODEL: the model decides",
    "instance_group.count": "workers, each a process, on each of `gpus`; not given: 2 for ONNX Runtime on CPU, else 1",
    "instance_group.gpus": "ids of the GPUs; all that there are where not given",
    "default_model_filename": "the file in the version's folder; filled in from the backend",
    "metric_tags": "labels of the model's metrics under Triton's names",
    "parameters": "the backend's and the codec's, see [parameters.md](parameters.md); Python models get them all",
    "model_warmup": "requests that run before the model is ready, `count` times; files lie in its folder `warmup`",
    "model_transaction_policy.decoupled": "a request may have any number of responses; Python models",
    "response_cache.enable": "answers are kept for equal requests, where the server has a cache (`cache_config`)",
}

#: Refused unless they are false or absent: Triton refuses them outside TensorRT too.
TENSORRT_ONLY: Mapping[str, str] = {
    "input.is_shape_tensor": "shape tensors are TensorRT's",
    "input.is_non_linear_format_io": "non-linear formats are TensorRT's",
    "output.is_shape_tensor": "shape tensors are TensorRT's",
    "output.is_non_linear_format_io": "non-linear formats are TensorRT's",
    "instance_group.profile": "optimization profiles are TensorRT's",
}
