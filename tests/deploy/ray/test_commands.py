"""`serve run` on a cluster, and the file for `serve deploy`: `make ray-test`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from jitney.deploy.ray.status import is_ready

from .cluster import HTTP_PORT, ray_cluster, servers, wait_until, write_models

pytestmark = [
    pytest.mark.skipif(os.environ.get("JITNEY_RAY_TESTS") != "1", reason="started by make ray-test"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(200),
]


def test_serve_run_answers_below_a_prefix_and_large_bodies(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'jitney[ray]'")
    write_models(tmp_path)
    with ray_cluster(nodes=1) as cluster:
        run(cluster.address, tmp_path)


def run(address: str, models: Path) -> None:
    command = [str(Path(sys.executable).parent / "serve"), "run", "--address", address, "--name", "second"]
    command += ["--route-prefix", "/second", "jitney.deploy.ray:app", f"model_repository={models}", "num_cpus=0.1"]
    url = f"http://127.0.0.1:{HTTP_PORT}/second/v2/models/double/infer"
    tensor = {"name": "x", "datatype": "FP32", "shape": [16, 1], "data": [0.5] * 16}
    body = json.dumps({"inputs": [tensor], "padding": " " * (20 << 20)}).encode()  # longer than what the ingress keeps
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            wait_until(lambda: is_ready(url.partition("models")[0] + "health/ready"), 60, "the application")
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
                assert json.load(answer)["outputs"][0]["data"] == [1.0] * 16
        finally:
            running.send_signal(signal.SIGINT)  # ends the application, too
            running.wait(60)
    wait_until(lambda: not servers(), 60, "the end of its jitney")


def test_the_file_for_serve_deploy_says_what_there_is() -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'jitney[ray]'")
    from ray.serve.schema import ServeDeploySchema

    from jitney.deploy.ray.application import Options

    file = yaml.safe_load((Path(__file__).parents[3] / "deploy/ray/serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(file).applications
    assert application.import_path == "jitney.deploy.ray:app"
    assert Options.model_validate(application.args).num_replicas == "auto"
    with pytest.raises(ValueError, match="expected model_repository=FOLDER"):
        Options()
    with pytest.raises(ValueError, match="above max_replicas"):
        Options(model_repository="m", min_replicas=9)
