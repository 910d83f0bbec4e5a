"""A model that takes t0 + a * rows as a device would, without the cores: `python -m jitney.tools.dev.device_model DIR`.

It sleeps that long and answers each row with its sum. What a server adds to it is the server's own; on a machine whose cores
the model itself keeps busy, server, model and load generator also take time from each other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "device"
_CONFIG = """backend: "python"
max_batch_size: {rows}
dynamic_batching {{ {batching}}}
input [ {{ name: "INPUT" data_type: TYPE_FP32 dims: [ 64 ] }} ]
output [ {{ name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ count: {workers} kind: KIND_CPU }} ]
"""
_MODEL = """import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy() for request in requests]
        time.sleep({t0!r} + {a!r} * sum(len(rows) for rows in inputs))
        sums = [rows.sum(axis=1, keepdims=True, dtype=np.float32) for rows in inputs]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", rows)]) for rows in sums]
"""


def build(
    repository: Path, t0: float, a: float, *, rows: int = 32, workers: int = 1, delay_us: int = 0, name: str = NAME
) -> Path:
    """Writes the model into the repository; times in seconds. Returns the model's folder."""
    folder = repository / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    batching = f"max_queue_delay_microseconds: {delay_us} " if delay_us else ""
    (folder / "config.pbtxt").write_text(_CONFIG.format(rows=rows, workers=workers, batching=batching))
    (folder / "1" / "model.py").write_text(_MODEL.format(t0=t0, a=a))
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.device_model", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("repository", type=Path)
    parser.add_argument("--t0-ms", type=float, default=3.0)
    parser.add_argument("--a-ms", type=float, default=0.2)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(argv)
    if not (options.t0_ms >= 0 and options.a_ms >= 0 and options.max_batch >= 1 and options.workers >= 1):
        parser.error("times must be at least 0, --max-batch and --workers at least 1")
    t0, a = options.t0_ms / 1000, options.a_ms / 1000
    print(build(options.repository, t0, a, rows=options.max_batch, workers=options.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
