"""Every parameter of a model that the tensor backends and image codecs read, in one table.

`docs/parameters.md` repeats `TABLE`; a test compares the two, and the table with what the code asks for. Values are strings, as
`parameters { key: "channels_last" value { string_value: "true" } }` in `config.pbtxt` has them; switches take true, false, 1, 0,
on, off. Names in capitals and `cudnn_conv_algo_search` and its like are Triton's, with Triton's values.

A parameter of this table that a model's backend does not read is told in the log when the model loads. Any other key is the
user's own and left alone, as Triton does.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig

TABLE = """
| parameter | backends | default | what it does |
|---|---|---|---|
| `warmup` | all | on | run batches before the model is ready |
| `batch_sizes` | all | any | the model sees these sizes only, others are padded: "1,4,16", powers_of_two, any |
| `cuda_graphs` | all | false | GPU: one recorded graph for each of `batch_sizes` (then powers_of_two by default) |
| `normalize_on_device` | image codecs | auto | images stay bytes until the worker normalises the batch: auto, true, false |
| `decode` | image codecs | host | device: pictures are decoded on the GPU by nvJPEG, a batch at once; eager, torchscript |
| `INFERENCE_MODE` | torch | true | false: `no_grad` instead, for models that refuse inference tensors |
| `INTRA_OP_THREAD_COUNT`, `NUM_THREADS` | torch | share of the cores | threads of one operator |
| `INTER_OP_THREAD_COUNT`, `NUM_INTEROP_THREADS` | torch | 1 | operators side by side |
| `channels_last` | eager, torchscript | false | 4-D weights and inputs in NHWC order |
| `autocast` | eager, torchscript | off | bf16, fp16: what torch deems safe runs in that precision; outputs stay as declared |
| `overlap_copies` | torch | true | GPU: rows are copied on a stream of their own while the batch is being stacked |
| `cudnn_benchmark` | torch | false | GPU: cuDNN measures its algorithms for each shape; best with fixed `batch_sizes` |
| `DISABLE_CUDNN` | torch | false | run without cuDNN |
| `ENABLE_CACHE_CLEANING` | torch | false | GPU: give cached memory back after each batch |
| `model_class` | eager | the only one | which module class of model.py |
| `compile` | eager | false | run through torch.compile; needs a C++ compiler on the machine |
| `TORCH_COMPILE_OPTIONAL_PARAMETERS` | eager | {} | JSON object of torch.compile's arguments; its presence means compile |
| `fuse` | eager, torchscript | false | fold BatchNorm into the layer before it, checked against the model as it came |
| `freeze` | torchscript | false | fold weights into the graph as constants |
| `optimize_for_inference` | torchscript | false | freeze, and let torch fuse for this device |
| `DISABLE_OPTIMIZED_EXECUTION` | torchscript | false | run the graph as it is |
| `ENABLE_JIT_EXECUTOR`, `ENABLE_JIT_PROFILING`, `ENABLE_TENSOR_FUSER` | torchscript | torch's | switches of torch's executor |
| `intra_op_thread_count` | onnxruntime | share of the cores | threads of one operator |
| `inter_op_thread_count` | onnxruntime | 1 | operators side by side (needs `execution_mode` 1) |
| `execution_mode` | onnxruntime | 0 | 0 sequential, 1 parallel |
| `io_binding` | onnxruntime | true on GPU | bind inputs and outputs to memory; not with BYTES tensors |
| `enable_mem_arena`, `enable_mem_pattern` | onnxruntime | 1 | 0: memory is taken from the system for each run |
| `memory.enable_memory_arena_shrinkage` | onnxruntime | never | such as "cpu:0;gpu:0", after each run |
| `cudnn_conv_algo_search` | onnxruntime | 0 | GPU: 0 exhaustive, 1 heuristic, 2 default; 0 makes each new shape slow once |
| `gpu_mem_limit` | onnxruntime | none | GPU: bytes of the memory arena |
| `arena_extend_strategy` | onnxruntime | 0 | GPU: 0 next power of two, 1 same as requested |
| `do_copy_in_default_stream` | onnxruntime | 1 | GPU: 0 copies on streams of their own |
| `session.*` | onnxruntime | ONNX Runtime's | any session configuration entry; spinning of idle threads is off unless set here |
| `codec` | all | json | what TorchServe's routes decode ([predictions.md](predictions.md)): image_classifier, …, or codec.py |
| `image_mode` | image codecs | RGB | RGB or L |
| `resize`, `crop` | image codecs | 256, 224 | "256" or "height,width"; 0 = off (object_detector: off) |
| `mean`, `std` | image codecs | ImageNet's | one number or one for each channel (object_detector: 0 and 1) |
| `max_image_pixels` | image codecs | 89478485 | larger images are refused |
| `topk`, `softmax` | image_classifier | 5, true | how many classes; whether scores become probabilities |
| `threshold` | object_detector | 0.5 | lowest score of a box that is answered |
""".strip()

GROUPS = {
    "all": ("eager", "torchscript", "exported", "onnxruntime"),
    "torch": ("eager", "torchscript", "exported"),
    "image codecs": ("image_classifier", "image_segmenter", "object_detector"),
}
_log = logging.getLogger(__name__)


def readers() -> dict[str, tuple[str, ...]]:
    """Each parameter of the table and the backends or codecs that read it."""
    found = {}
    for line in TABLE.splitlines()[2:]:
        names, group, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
        for name in names.split(", "):
            found[name.strip("` ")] = GROUPS.get(group, tuple(group.split(", ")))
    return found


def unread(model: ModelConfig) -> list[str]:
    """The model's parameters that mean something to another backend or codec, but not to its own."""
    known = readers()
    return sorted(key for key in model.parameters if key in known and not {model.backend, model.codec} & set(known[key]))


def tell_unread(model: ModelConfig) -> None:
    """Logs the parameters that will have no effect."""
    for key in unread(model):
        _log.warning(
            "model '%s': parameter %s has no effect with backend '%s' and codec '%s'; it is read by %s",
            model.name, key, model.backend, model.codec, ", ".join(readers()[key]),
        )  # fmt: skip
