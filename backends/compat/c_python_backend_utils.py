"""What models import as `c_python_backend_utils`: the part of pb_utils that is C++ in Triton (pb_stub.cc).

Triton's own helpers and some models import classes from there instead of from `triton_python_backend_utils`; here both are
the same objects.
"""

from triton_python_backend_utils import (  # type: ignore[import-not-found,unused-ignore]
    TRITONSERVER_MEMORY_CPU,
    TRITONSERVER_MEMORY_GPU,
    InferenceRequest,
    InferenceResponse,
    InferenceResponseSender,
    InferenceTrace,
    Logger,
    Metric,
    MetricFamily,
    PreferredMemory,
    Tensor,
    TritonError,
    TritonModelException,
    is_model_ready,
    load_model,
    unload_model,
)
from triton_python_backend_utils._metrics import (  # type: ignore[import-not-found,unused-ignore]
    COUNTER,
    GAUGE,
    HISTOGRAM,
    MetricKind,
)
from triton_python_backend_utils._request import (  # type: ignore[import-not-found,unused-ignore]
    MemoryType,
    ResponseIterator,
)

__all__ = [
    "COUNTER",
    "GAUGE",
    "HISTOGRAM",
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "InferenceTrace",
    "Logger",
    "MemoryType",
    "Metric",
    "MetricFamily",
    "MetricKind",
    "PreferredMemory",
    "ResponseIterator",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "is_model_ready",
    "load_model",
    "unload_model",
]
