"""Models of Triton's other backends: what they are called, how they are recognised, and how to serve them here all the same.

Platforms, backends and file names are those of Triton's own backends (core's constants.h and each backend's default file).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_PYTHON = 'in a Python model (backend: "python")'
#: For a backend that is none of Triton's.
OWN = f"write what it computes {_PYTHON}, or name the folder of its Python-based backend with --backend-directory"


@dataclass(frozen=True)
class Format:
    """One kind of model. `names`: platforms and backends that say so; `files`: names in a version's folder that do."""

    what: str
    way_out: str
    names: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()


def _format(what: str, way_out: str, names: str = "", files: str = "") -> Format:
    return Format(what, way_out, frozenset(names.split()), tuple(files.split()))


FORMATS = (
    _format(
        "a TensorRT plan",
        "a plan runs on one kind of GPU only, with one version of TensorRT: serve the ONNX file that it was built from as "
        f"model.onnx (or export the model to ONNX anew), or run the plan yourself {_PYTHON}",
        "tensorrt tensorrt_plan",
        "model.plan model.engine model.trt",
    ),
    _format(
        "a TensorFlow SavedModel",
        f"convert it to ONNX (python -m tf2onnx.convert --saved-model model.savedmodel --output model.onnx) and serve that as "
        f"model.onnx, or call TensorFlow {_PYTHON}",
        "tensorflow_savedmodel",
        "model.savedmodel saved_model.pb",
    ),
    _format(
        "a TensorFlow GraphDef",
        "convert it to ONNX (python -m tf2onnx.convert --graphdef model.graphdef --inputs … --outputs … --output model.onnx) "
        f"and serve that as model.onnx, or call TensorFlow {_PYTHON}",
        "tensorflow_graphdef",
        "model.graphdef",
    ),
    _format(
        "a TensorFlow model",
        f"convert it to ONNX (python -m tf2onnx.convert) and serve that as model.onnx, or call TensorFlow {_PYTHON}",
        "tensorflow",
        "model.h5 model.keras model.pb",
    ),
    _format(
        "a TensorFlow Lite model",
        f"convert it to ONNX (python -m tf2onnx.convert --tflite model.tflite) or run it {_PYTHON}",
        "armnn_tflite tflite",
        "model.tflite",
    ),
    _format(
        "an OpenVINO model",
        f"export it to ONNX from the framework it was made with and serve that as model.onnx, or call openvino {_PYTHON}",
        "openvino",
        "model.xml",
    ),
    _format(
        "a DALI pipeline",
        "images are decoded before the batch by the parameter codec (image_classifier, image_segmenter, object_detector); "
        f"write other steps {_PYTHON}",
        "dali",
        "model.dali dali.py",
    ),
    _format(
        "a TensorRT-LLM engine",
        f"run the original weights {_PYTHON}, with transformers for example, or TensorRT-LLM itself in one",
        "tensorrtllm tensorrt_llm inflight_batcher_llm fastertransformer",
        "rank0.engine",
    ),
    _format(
        "a vLLM model",
        "name the folder that holds Triton's vLLM backend as vllm/model.py with --backend-directory, "
        f"call vllm {_PYTHON} with model_transaction_policy {{ decoupled: true }}, or run vLLM's own server",
        "vllm",
    ),
    _format(
        "a model of decision trees (FIL)",
        "convert it to ONNX (onnxmltools, skl2onnx) and serve that as model.onnx, or call xgboost, lightgbm or sklearn "
        + _PYTHON,
        "fil rapids",
        "xgboost.json xgboost.ubj xgboost.model checkpoint.tl model.txt",
    ),
    _format(
        "a Caffe2 NetDef",
        f"export it to ONNX and serve that as model.onnx, or run it {_PYTHON}",
        "caffe2 caffe2_netdef",
        "model.netdef init_model.netdef",
    ),
    _format("a Paddle model", f"convert it with paddle2onnx and serve that as model.onnx, or run it {_PYTHON}", "paddle"),
    _format(
        "a pickled Python object",
        f"load it {_PYTHON}, or convert it to ONNX (skl2onnx) and serve that as model.onnx",
        "",
        "model.pkl model.pickle model.joblib",
    ),
    _format(
        "a backend of your own in C++",
        OWN,
        "custom identity square repeat",
        "libcustom.so",
    ),
)


def of_names(*names: str) -> Format | None:
    """The format that a platform or backend of the configuration stands for; None where it is none of Triton's."""
    return next((each for each in FORMATS if each.names & set(names)), None)


def of_files(names: Iterable[str]) -> Format | None:
    """The format that one of these files or folders is."""
    found = set(names)
    return next((each for each in FORMATS if found & set(each.files)), None)
