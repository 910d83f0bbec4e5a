"""What `jitney tune` tries: settings of a model that may make it faster, and ways to share the cores. Pure.

A variant is a set of parameters on top of the plain model, which has none of the tunable ones. Only variants that can work with
this backend, on this device and on these inputs are made; those that need something that is not there are named with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...core.model_config import ModelConfig

#: Tunable parameters and the value that means "not used", which is written where a file says otherwise.
NEUTRAL = {
    "channels_last": "false",
    "autocast": "off",
    "compile": "false",
    "fuse": "false",
    "freeze": "false",
    "optimize_for_inference": "false",
    "cudnn_benchmark": "false",
    "cuda_graphs": "false",
    "overlap_copies": "true",
    "batch_sizes": "any",
    "io_binding": "false",
    "execution_mode": "0",
    "inter_op_thread_count": "1",
    "cudnn_conv_algo_search": "0",
    "do_copy_in_default_stream": "1",
    "normalize_on_device": "auto",
}
#: Parameters that set a worker's threads; the number of threads is tuned beside the number of workers.
THREADS = ("INTRA_OP_THREAD_COUNT", "NUM_THREADS", "intra_op_thread_count")
IMAGE_CODECS = ("image_classifier", "image_segmenter", "object_detector")


@dataclass(frozen=True)
class Variant:
    """`parameters` on top of the plain model's. `slow_start`: it compiles for a long time before it runs."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    slow_start: bool = False

    @property
    def fewer_bits(self) -> bool:
        """Whether it computes in fewer bits than the model's weights have."""
        return self.parameters.get("autocast", "off") != "off"


@dataclass(frozen=True)
class Arrangement:
    """`workers` side by side with `threads` each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers} × {self.threads}"


PLAIN = Variant("plain")

_CHANNELS_LAST = {"channels_last": "true"}
_BF16, _FP16 = {"autocast": "bf16"}, {"autocast": "fp16"}
_OPTIMIZED = {"optimize_for_inference": "true"}
_GRAPHS = {"cuda_graphs": "true"}
_FROZEN = {"freeze": "true"}
_FUSED = {"fuse": "true"}


def plain_parameters(config: ModelConfig) -> dict[str, str]:
    """The model's parameters without those that are tuned here."""
    tuned = {*NEUTRAL, *THREADS, "TORCH_COMPILE_OPTIONAL_PARAMETERS"}
    return {key: value for key, value in config.parameters.items() if key not in tuned}


def variants(config: ModelConfig, on_gpu: bool, compiler: bool, bf16: bool = True) -> tuple[list[Variant], list[str]]:
    """Variants to try, the plain model first and the simpler before the others; and what is left out, with reasons.

    `compiler`: whether there is a C++ compiler for torch.compile. `bf16`: whether the processor has instructions for it, without
    which it is slower than float32.
    """
    makers = {"eager": _eager, "torchscript": _torchscript, "exported": _exported, "onnxruntime": _onnx}
    if config.backend not in makers:
        return [PLAIN], [f"parameters: backend '{config.backend}' runs the model's own code"]
    found = [PLAIN, *makers[config.backend](_has_images(config), on_gpu)]
    left_out = []
    if not (bf16 or on_gpu) and any(variant.fewer_bits for variant in found):
        found = [variant for variant in found if not variant.fewer_bits]
        left_out.append("bf16: this processor has no instructions for it (avx512_bf16, amx_bf16)")
    if config.backend == "eager" and compiler:
        options = config.parameters.get("TORCH_COMPILE_OPTIONAL_PARAMETERS")
        given = {"compile": "true"} | ({"TORCH_COMPILE_OPTIONAL_PARAMETERS": options} if options else {})
        found.append(Variant("compile", given, slow_start=True))
    elif config.backend == "eager":
        left_out.append("compile: there is no C++ compiler (g++ or clang++)")
    if config.codec in IMAGE_CODECS and config.parameters.get("decode") != "device":
        found.append(Variant("codec normalises", {"normalize_on_device": "false"}))
    return [*found, *_as_configured(config, found)], left_out


def _as_configured(config: ModelConfig, found: Sequence[Variant]) -> list[Variant]:
    """The model as it is now, where that is none of the others."""
    now = {key: value for key, value in config.parameters.items() if key in NEUTRAL and value != NEUTRAL[key]}
    if any(now == dict(variant.parameters) for variant in found):
        return []
    return [Variant("as configured", now)]


def _has_images(config: ModelConfig) -> bool:
    """Whether a tensor of the model's inputs has the four axes that memory formats are about."""
    return any(len(spec.dims) + config.batches == 4 for spec in config.inputs)


def _eager(images: bool, on_gpu: bool) -> list[Variant]:
    found = [Variant("channels_last", _CHANNELS_LAST)] if images else []
    found.append(Variant("fused", _FUSED))
    found += [Variant("fused channels_last", _FUSED | _CHANNELS_LAST)] if images else []
    found.append(Variant("bf16", _BF16))
    found += [Variant("bf16 channels_last", _BF16 | _CHANNELS_LAST)] if images else []
    return found + (_torch_on_gpu(images) if on_gpu else [])


def _torchscript(images: bool, on_gpu: bool) -> list[Variant]:
    found = [Variant("frozen", _FROZEN), Variant("optimized", _OPTIMIZED)]
    found += [Variant("optimized channels_last", _OPTIMIZED | _CHANNELS_LAST)] if images else []
    found.append(Variant("bf16 frozen", _BF16 | _FROZEN))
    found += [Variant("bf16 frozen channels_last", _BF16 | _FROZEN | _CHANNELS_LAST)] if images else []
    return found + (_torch_on_gpu(images) if on_gpu else [])


def _torch_on_gpu(images: bool) -> list[Variant]:
    layout = _CHANNELS_LAST if images else {}
    words = " channels_last" if images else ""
    found = [
        Variant("cuda_graphs", _GRAPHS),
        Variant(f"fp16{words}", _FP16 | layout),
        Variant(f"fp16{words} cuda_graphs", _FP16 | layout | _GRAPHS),
        Variant(f"bf16{words} cuda_graphs", _BF16 | layout | _GRAPHS),
        Variant("copies not overlapped", {"overlap_copies": "false"}),
    ]
    if images:
        fixed = {"cudnn_benchmark": "true", "batch_sizes": "powers_of_two"}
        found.append(Variant("cudnn_benchmark", fixed))
        found.append(Variant("cudnn_benchmark channels_last cuda_graphs", fixed | layout | _GRAPHS))
    return found


def _exported(images: bool, on_gpu: bool) -> list[Variant]:
    """None: a program has the layout, precision and fusions that it was exported or compiled with."""
    return []


def _onnx(images: bool, on_gpu: bool) -> list[Variant]:
    if not on_gpu:
        side_by_side = {"execution_mode": "1", "inter_op_thread_count": "2"}
        return [Variant("io_binding", {"io_binding": "true"}), Variant("operators side by side", side_by_side)]
    found = [Variant("cuda_graphs", _GRAPHS), Variant("copies on own streams", {"do_copy_in_default_stream": "0"})]
    if images:
        searches = [Variant(f"conv search {word}", {"cudnn_conv_algo_search": n}) for n, word in _SEARCHES.items()]
        found += [*searches, Variant("conv search heuristic cuda_graphs", {"cudnn_conv_algo_search": "1"} | _GRAPHS)]
    return found


_SEARCHES = {"1": "heuristic", "2": "default"}


def arrangements(cores: int, on_gpu: bool) -> list[Arrangement]:
    """Ways to use all cores: one worker, one for each core, and powers of two between. On a GPU: one worker, two, three."""
    if on_gpu:
        return [Arrangement(workers, max(1, cores // workers)) for workers in (1, 2, 3)]
    counts = sorted({1, cores, *(1 << power for power in range(1, cores.bit_length()) if cores % (1 << power) == 0)})
    return [Arrangement(workers, max(1, cores // workers)) for workers in counts]
