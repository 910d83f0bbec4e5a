"""What Ray Serve's way to a jitney costs, and what the same models give in a plain Ray Serve deployment with `@serve.batch`.

    RAY_SERVE_ENABLE_HA_PROXY=1 python -m jitney.tools.dev.bench_ray        # without the variable: Ray's proxy in Python

Needs `pip install 'jitney[ray]' onnx`. Everything, the load generator too, shares this machine's cores. Where a machine has no
way out, Ray waits for it: `unshare --map-root-user --net sh -c 'ip link set lo up && …'`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..bench import load
from ..bench.ports import free_port

STARTER = Path(__file__).parents[1] / "starter"
WIDTH = 150_528  # an image of 224 x 224 x 3: 602,112 bytes
MEAN_CONFIG = f"""
platform: "onnxruntime_onnx"
max_batch_size: 32
input {{ name: "x" data_type: TYPE_FP32 dims: [ {WIDTH} ] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }}
dynamic_batching {{ }}
"""


def write_mean(folder: Path) -> None:
    """`mean`: as little work as a model can have for 602,112 bytes."""
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)
    graph = helper.make_graph([node], "mean", [x], [y])
    (folder / "mean" / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "mean" / "1" / "model.onnx"))
    (folder / "mean" / "config.pbtxt").write_text(MEAN_CONFIG)


def plain(repository: Path) -> Any:
    """The usual way to write it for Ray Serve: a deployment that decodes each request and runs batches of at most 32."""
    import numpy as np
    import onnxruntime
    from PIL import Image
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    class Plain:
        def __init__(self) -> None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._sessions = {
                name: onnxruntime.InferenceSession(str(repository / name / "1" / "model.onnx"), options)
                for name in ("digits", "mean")
            }

        def _run(self, name: str, rows: list[Any]) -> list[Any]:
            session = self._sessions[name]
            return list(session.run(None, {session.get_inputs()[0].name: np.stack(rows)})[0])

        @serve.batch(max_batch_size=32, batch_wait_timeout_s=0)
        async def digits(self, rows: list[Any]) -> list[Any]:
            return self._run("digits", rows)

        @serve.batch(max_batch_size=32, batch_wait_timeout_s=0)
        async def mean(self, rows: list[Any]) -> list[Any]:
            return self._run("mean", rows)

        async def __call__(self, request: Request) -> Any:
            body = await request.body()
            if request.url.path.endswith("digits"):
                pixels = np.asarray(Image.open(io.BytesIO(body)).convert("L").resize((8, 8)), np.float32)
                logits = await self.digits((pixels[None] / 255 - 0.3) / 0.35)
                odds = np.exp(logits - logits.max())
                best = np.argsort(-odds)[:5]
                return JSONResponse({str(label): float(odds[label] / odds.sum()) for label in best})
            return JSONResponse({"y": (await self.mean(np.frombuffer(body, np.float32))).tolist()})

    return serve.deployment(Plain).options(
        name="plain",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0.5},
        logging_config={"enable_access_log": False},
    )


def subjects(port: int, models: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """What is measured, one after the other, with the URL of each workload; each is up while it is asked for."""
    from ray import serve

    from ...deploy.ray.application import Options, app
    from ...deploy.ray.directory import Directory

    paths = {"digits": "/predictions/digits", "mean": "/v2/models/mean/infer"}
    options = Options(model_repository=f"{STARTER},{models}", num_cpus=0.5, flags="--http-max-input-size 1000000")
    serve.run(app(options), name="jitney")
    (record,) = Directory("jitney").all().values()
    yield "jitney, asked directly", {name: f"http://{record.host}:{record.port}{path}" for name, path in paths.items()}
    yield "jitney on Ray Serve", {name: f"http://127.0.0.1:{port}{path}" for name, path in paths.items()}
    serve.delete("jitney")
    both = models.parent / "both"
    both.mkdir()
    (both / "mean").symlink_to(models / "mean")
    (both / "digits").symlink_to(STARTER / "digits")
    serve.run(plain(both).bind(), name="plain")
    yield "plain Ray Serve, @serve.batch", {name: f"http://127.0.0.1:{port}/{name}" for name in paths}
    serve.delete("plain")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.bench_ray", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, after 1 s of warming up")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32, 128])
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    ray.init(
        num_cpus=4, _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False, object_store_memory=500 << 20
    )
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    print(f"HAProxy: {'yes' if os.environ.get('RAY_SERVE_ENABLE_HA_PROXY') == '1' else 'no'}; Ray {ray.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mean(folder / "models")
        small, large = folder / "seven.png", folder / "row"
        small.write_bytes((STARTER.parent / "starter" / "seven.png").read_bytes())
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "parameters": {"binary_data_size": 4 * WIDTH}}
        head = json.dumps({"inputs": [tensor]}).encode()
        large.write_bytes(bytes(4 * WIDTH))
        binary = folder / "binary"
        binary.write_bytes(head + bytes(4 * WIDTH))
        for subject, urls in subjects(port, folder / "models"):
            for workload, url in urls.items():
                kserve = url.endswith("/infer")
                body = small if workload == "digits" else binary if kserve else large
                headers = {"Inference-Header-Content-Length": str(len(head))} if kserve else {}
                for connections in args.connections:
                    result = load.measure(url, body, headers, connections, args.seconds)
                    told = "" if set(result.statuses) == {"200"} else f"  {result.statuses}"
                    print(
                        f"{subject:<32} {workload:<8} {connections:>4}  {result.rate:>8,.0f}/s  p50 {result.p50:7.2f}  "
                        f"p99 {result.p99:7.2f} ms{told}",
                        flush=True,
                    )
    serve.shutdown()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
