"""Which instances a model's workers are: their names, devices and shares of the cores, and how many batches each may hold. Pure.

Facts (Triton's model configuration): a group without a name is called `<model>_<group>`; its instances are numbered, giving
`<model>_0_0`; KIND_GPU without `gpus` means `count` instances on each GPU; KIND_AUTO is KIND_GPU where its GPUs exist, else
KIND_CPU. TorchServe instead has a number of workers, spread over the GPUs in turn: asking for more instances than the groups
declare starts over with the first device.

Instances of a `worker_group` share a process with those of other models that have the same number. They have one thread each, if
nothing else is said: there are many of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...core.errors import InvalidConfig
from ...core.model_config import CPU_TOO, TENSOR_BACKENDS, TORCH_BACKENDS, InstanceGroup, ModelConfig
from ...core.request import Instance

#: Parameters that set a worker's threads: Triton's PyTorch backend, its lower-case spelling, and the Python backends' habit.
THREAD_PARAMETERS = ("INTRA_OP_THREAD_COUNT", "intra_op_thread_count", "NUM_THREADS")

#: Batches that a worker may hold where nothing else is said: of a model that answers when it pleases; of tensors on a GPU, so
#: that the next one is there when the present one is over; of anything else.
OPEN, ON_GPU, ALONE = 256, 2, 1


def declared(config: ModelConfig, gpus: Sequence[int]) -> int:
    """The number of instances that the model's groups ask for on a machine with these GPUs."""
    return sum(group.count * len(_devices(config, group, gpus)) for group in config.instance_groups)


def instances(config: ModelConfig, count: int, *, gpus: Sequence[int], cores: int, threads: int = 0) -> list[Instance]:
    """The first `count` instances. `threads` is the operator's own choice for each (OMP_NUM_THREADS), 0 = none.

    InvalidConfig where a group wants a GPU that is not there, a thread count is no positive number, or an instance with a GPU is
    to share its process.
    """
    places, share = _places(config, gpus), _threads(config, count, cores, threads)
    made = [_instance(places, n, share) for n in range(count)]
    return [_sharing(config, instance, n) for n, instance in enumerate(made)] if config.worker_group else made


def in_flight(config: ModelConfig, instance: Instance) -> int:
    """How many batches the worker of an instance may hold."""
    if config.max_in_flight:
        return config.max_in_flight
    if config.overlaps:
        return OPEN
    return ON_GPU if instance.gpu is not None and config.backend in TENSOR_BACKENDS else ALONE


def launches(config: ModelConfig) -> bool:
    """Whether a worker on a GPU queues its batches there, and may begin the next one before the last one is over."""
    return config.backend in TORCH_BACKENDS and config.sequence is None


def _sharing(config: ModelConfig, instance: Instance, number: int) -> Instance:
    if instance.gpu is not None:
        raise InvalidConfig(
            f"model '{config.name}' is in worker_group '{config.worker_group}', but instance '{instance.name}' is placed on GPU "
            f"{instance.gpu}: only models on the CPU can share a process. Write kind: KIND_CPU (for an archive deviceType: cpu), "
            "or leave the group out"
        )
    return replace(instance, shared=f"{config.worker_group}_{number}")


def _instance(places: Sequence[tuple[str, str, int | None]], n: int, threads: int) -> Instance:
    name, kind, gpu = places[n % len(places)]
    group, _, number = name.rpartition("_")
    again = n // len(places)
    if again:
        size = sum(other.rpartition("_")[0] == group for other, _, _ in places)
        name = f"{group}_{int(number) + again * size}"
    return Instance(name, kind, gpu, threads)


def _places(config: ModelConfig, gpus: Sequence[int]) -> list[tuple[str, str, int | None]]:
    places: list[tuple[str, str, int | None]] = []
    for number, group in enumerate(config.instance_groups or (InstanceGroup(),)):
        name = group.name or f"{config.name}_{number}"
        devices = [device for device in _devices(config, group, gpus) for _ in range(group.count)]
        places += [(f"{name}_{n}", kind, gpu) for n, (kind, gpu) in enumerate(devices)]
    if not places:
        raise InvalidConfig(f"model '{config.name}' declares no instance: every instance_group has count 0")
    return places


def _devices(config: ModelConfig, group: InstanceGroup, gpus: Sequence[int]) -> list[tuple[str, int | None]]:
    """Kind and GPU of each device that the group covers."""
    wanted = list(group.gpus or gpus)
    missing = [gpu for gpu in wanted if gpu not in gpus]
    if group.kind == "KIND_GPU" or (group.kind == "KIND_AUTO" and wanted and not missing):
        if not wanted:
            raise InvalidConfig(
                f"instance group of model '{config.name}' has kind KIND_GPU but no GPUs are available; {CPU_TOO}"
            )
        if missing:
            raise InvalidConfig(
                f"instance group of model '{config.name}' wants GPU {missing[0]}; this machine has {list(gpus) or 'none'}; "
                f"leave 'gpus' out, or {CPU_TOO}"
            )
        return [("KIND_GPU", gpu) for gpu in wanted]
    return [("KIND_MODEL" if group.kind == "KIND_MODEL" else "KIND_CPU", None)]


def _threads(config: ModelConfig, total: int, cores: int, threads: int) -> int:
    for name in THREAD_PARAMETERS:
        if name in config.parameters:
            text = config.parameters[name]
            if not text.strip().isdecimal() or int(text) < 1:
                raise InvalidConfig(f"model '{config.name}': parameter {name} must be a positive number, got '{text}'")
            return int(text)
    return threads or (1 if config.worker_group else max(1, cores // max(1, total)))
