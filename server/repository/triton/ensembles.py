"""Triton's validation of ensembles: the data flow of one configuration, then its fit to the models it names.

The first needs the configuration alone (model_config_utils.cc), the second the loaded steps (ensemble_utils.cc).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ....core.errors import InvalidConfig
from ....core.model_config import ModelConfig, TensorSpec
from .pbtxt import Message, Source

# -- the configuration alone -----------------------------------------------------------------------------------------------


def check_ensemble(config: Message, source: Source) -> None:
    """Raises InvalidConfig for fields that an ensemble has not, incomplete steps, and tensors unused, unwritten or circular."""
    name = config.name
    if config.platform != "ensemble":
        text = f"ensemble scheduling cannot be set for model '{name}' whose platform is not ensemble"
        raise source.error(text, "ensemble_scheduling")
    for field, text in (
        ("instance_group", f"instance group should not be specified for ensemble '{name}'"),
        ("optimization", f"optimization should not be specified for ensemble '{name}'"),
        ("model_warmup", f"model_warmup can not be specified for ensemble '{name}'"),
    ):
        if config.HasField(field) if field == "optimization" else len(getattr(config, field)):
            raise source.error(text, field)
    if not config.ensemble_scheduling.step:
        raise source.error(f"must specify 'step' for ensemble '{name}'", "ensemble_scheduling")
    needs = _links(config, source)
    _check_flow(config, needs, source)


def _links(config: Message, source: Source) -> dict[str, set[str]]:
    """Ensemble tensor -> the tensors that its step needs; tensors that no step writes are keys with nothing."""
    name = config.name
    needs: dict[str, set[str]] = {}
    written: set[str] = set()
    for index, step in enumerate(config.ensemble_scheduling.step):
        for field in ("model_name", "input_map", "output_map"):
            if not getattr(step, field):
                raise source.error(f"must specify '{field}' in step {index} of ensemble '{name}'", "ensemble_scheduling")
        for tensor in step.output_map.values():
            if tensor in written:
                text = f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' step {index}"
                raise source.error(text, "ensemble_scheduling", f'"{tensor}"')
            written.add(tensor)
            needs.setdefault(tensor, set()).update(step.input_map.values())
        for tensor in step.input_map.values():
            needs.setdefault(tensor, set())
    return needs


def _check_flow(config: Message, needs: Mapping[str, set[str]], source: Source) -> None:
    name = config.name
    inputs, outputs = [tensor.name for tensor in config.input], [tensor.name for tensor in config.output]
    for kind, names in (("input", inputs), ("output", outputs)):
        for tensor in names:
            if tensor not in needs:
                raise source.error(f"ensemble {kind} '{tensor}' for ensemble {name}' is not used", kind, f'"{tensor}"')
    ready = _reachable(inputs, needs)
    for tensor in outputs:
        if tensor not in ready:
            raise source.error(_not_written(tensor, name, needs, ready), "output", f'"{tensor}"')
    used = set().union(*needs.values())
    for tensor in sorted(set(needs) - set(outputs)):
        if tensor not in ready or tensor not in used:
            raise source.error(
                f"ensemble tensor '{tensor}' is unused in ensemble '{name}'", "ensemble_scheduling", f'"{tensor}"'
            )


def _reachable(inputs: Sequence[str], needs: Mapping[str, set[str]]) -> set[str]:
    """The tensors that will exist, given the inputs: each is visited once, whatever the order of the steps."""
    makes: dict[str, list[str]] = {}
    for tensor, needed in needs.items():
        for each in needed:
            makes.setdefault(each, []).append(tensor)
    missing = {tensor: len(needed) for tensor, needed in needs.items()}
    ready, visit = set(inputs), list(inputs)
    while visit:
        for tensor in makes.get(visit.pop(), ()):
            missing[tensor] -= 1
            if missing[tensor] == 0 and tensor not in ready:
                ready.add(tensor)
                visit.append(tensor)
    return ready


def _not_written(tensor: str, name: str, needs: Mapping[str, set[str]], ready: set[str]) -> str:
    """The sentence for an output that never comes, with the tensor at which its chain breaks."""
    last, seen = tensor, {tensor}
    while missing := sorted(needs[last] - ready - seen):
        last = missing[0]
        seen.add(last)
    because = f": at least one of its depending tensors, '{last}', is not connected" if last != tensor else ""
    return f"output '{tensor}' for ensemble '{name}' is not written{because}"


# -- the configuration and its steps ---------------------------------------------------------------------------------------


def dependencies(ensemble: ModelConfig) -> list[tuple[str, str]]:
    """The models that an ensemble's steps name, as (name, version); version "" is the served default. [] for other models."""
    steps = (ensemble.ensemble or {}).get("step", [])
    return [(step["model_name"], "" if step["model_version"] < 0 else str(step["model_version"])) for step in steps]


def connect(ensemble: ModelConfig, steps: Sequence[ModelConfig]) -> ModelConfig:
    """Checks that datatypes, shapes and batch sizes of the steps' models fit; `steps` are in the order of `dependencies`.

    Returns the ensemble with its `decoupled` known: it is when a step's model is, and that shows in the config route.
    """
    tensors: dict[str, _Tensor] = {}
    for spec in (*ensemble.inputs, *ensemble.outputs):
        shape = spec.dims if spec.reshape is None else spec.reshape
        tensors.setdefault(spec.name, _Tensor(ensemble.name, spec.datatype, shape, ensemble.batches))
    origin: dict[str, int] = dict.fromkeys((spec.name for spec in ensemble.inputs), 0)
    for index, (step, model) in enumerate(zip((ensemble.ensemble or {})["step"], steps, strict=True), 1):
        if 0 < model.max_batch_size < ensemble.max_batch_size:
            raise InvalidConfig(
                f"ensemble {ensemble.name} allows maximum batch size {ensemble.max_batch_size}, but it contains model "
                f"{model.name} which only allows maximum batch size to be {model.max_batch_size}"
            )
        _connect_step(ensemble.name, step, model, tensors)
        if model.decoupled:
            origin |= dict.fromkeys(step["output_map"].values(), index)
    _check_origins(ensemble, steps, origin)
    decoupled = any(model.decoupled for model in steps)
    document = {**ensemble.config_json, "model_transaction_policy": {"decoupled": decoupled}}
    return dataclasses.replace(ensemble, decoupled=decoupled, config_json=document)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """What is known of an ensemble tensor, and from which model."""

    model: str
    datatype: str
    dims: tuple[int, ...]
    batches: bool

    @property
    def full(self) -> tuple[int, ...]:
        return (-1, *self.dims) if self.batches else self.dims


def _connect_step(
    ensemble: str, step: Mapping[str, Mapping[str, str]], model: ModelConfig, tensors: dict[str, _Tensor]
) -> None:
    where = f"in ensemble {ensemble}, "
    inputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in model.inputs}
    outputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in model.outputs}
    for name, tensor in step["input_map"].items():
        if name not in inputs:
            raise InvalidConfig(
                f"{where}ensemble tensor {tensor} is mapping to non-existing input {name} in model {model.name}"
            )
        _connect_tensor(where, tensor, _Tensor(model.name, inputs[name].datatype, inputs[name].dims, model.batches), tensors)
    for name, spec in inputs.items():
        if name not in step["input_map"] and not spec.optional:
            raise InvalidConfig(f"{where}input {name} in model {model.name} is not mapped to any ensemble tensors")
    for name, tensor in step["output_map"].items():
        if name not in outputs:
            raise InvalidConfig(
                f"{where}ensemble tensor {tensor} is mapped from non-existing output {name} in model {model.name}"
            )
        _connect_tensor(
            where, tensor, _Tensor(model.name, outputs[name].datatype, outputs[name].dims, model.batches), tensors
        )


def _connect_tensor(where: str, name: str, new: _Tensor, tensors: dict[str, _Tensor]) -> None:
    old = tensors.setdefault(name, new)
    message = f"{where}ensemble tensor {name}: "
    if old.datatype != new.datatype:
        kinds = [each.datatype.replace("BYTES", "STRING") for each in (old, new)]
        raise InvalidConfig(
            f"{message}inconsistent data type: TYPE_{kinds[0]} is inferred from model {old.model} while "
            f"TYPE_{kinds[1]} is inferred from model {new.model}"
        )
    if not _compatible(old.dims, new.dims) and not _compatible(old.full, new.full):
        raise InvalidConfig(
            f"{message}inconsistent shape: {_shape(old.full)} is inferred from model {old.model} while "
            f"{_shape(new.full)} is inferred from model {new.model}"
        )


def _compatible(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _shape(dims: Sequence[int]) -> str:
    return f"[{','.join(map(str, dims))}]"


def _check_origins(ensemble: ModelConfig, models: Sequence[ModelConfig], origin: dict[str, int]) -> None:
    """Follows the data from the inputs; a step may not join tensors whose responses come from different decoupled models."""
    waiting = list(zip((ensemble.ensemble or {})["step"], models, strict=True))
    while ready := [pair for pair in waiting if all(tensor in origin for tensor in pair[0]["input_map"].values())]:
        for step, model in ready:
            origins = {origin[tensor] for tensor in step["input_map"].values()}
            if len(origins) > 1:
                raise InvalidConfig(
                    f"in ensemble {ensemble.name}, step of model '{model.name}' receives inputs originated from different "
                    "decoupled models"
                )
            for tensor in step["output_map"].values():
                origin.setdefault(tensor, *origins)
        waiting = [pair for pair in waiting if pair not in ready]
