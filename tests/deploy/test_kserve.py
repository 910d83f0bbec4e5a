"""KServe's runtimes: valid against its resource definitions, the same arguments as its own, and a server that answers KServe.

Servers are started by the image's entrypoint with a runtime's arguments and environment. /mnt/models is a folder, addresses are
loopback's, and ports are free ones: the file of defaults and the arguments are rewritten so, nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jitney.tests.fakes.metrics import STARTER
from jitney.tests.fakes.running import command_running
from jitney.tests.fakes.torchserve_server import archive
from jitney.tools.bench.ports import free_port

ROOT = Path(__file__).parents[2]
KSERVE = ROOT / "deploy" / "kserve"
FILES = sorted(KSERVE.rglob("*.yaml"))
CRDS = Path(os.environ.get("KSERVE_CRDS", ROOT.parent / "shared" / "kserve"))
#: What KServe's own runtimes have.
THEIRS = {
    "kserve-torchserve": (
        "torchserve --start --model-store=/mnt/models/model-store --ts-config=/mnt/models/config/config.properties",
        [{"name": "TS_SERVICE_ENVELOPE", "value": "{{.Labels.serviceEnvelope}}"}],
        "8082",
    ),
    "kserve-tritonserver": (
        "tritonserver --model-store=/mnt/models --grpc-port=9000 --http-port=8080 --allow-grpc=true --allow-http=true",
        [],
        "8002",
    ),
}
#: KServe's configuration of TorchServe, with the folder in place of /mnt/models and ports that are free.
CONFIG = """\
inference_address=http://127.0.0.1:{inference}
management_address=http://127.0.0.1:{inference}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc}
grpc_management_port={management}
enable_envvars_config=true
install_py_dep_per_model=true
enable_metrics_api=true
metrics_format=prometheus
NUM_WORKERS=1
number_of_netty_threads=4
job_queue_size=10
model_store={models}/model-store
model_snapshot={{"name":"startup.cfg","modelCount":1,"models":{{"mnist":{{"1.0":{{"defaultVersion":true,"marName":"mnist.mar",\
"minWorkers":1,"maxWorkers":5,"batchSize":5,"maxBatchDelay":20,"responseTimeout":60}}}}}}}}
"""
#: Twice the number of each row, whatever the envelope makes of the request.
DOUBLES = """
from ts.torch_handler.base_handler import BaseHandler

class Doubles(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        rows = [row.get("data") or row.get("body") if isinstance(row, dict) else row for row in data]
        return [[2 * value for value in row] if isinstance(row, list) else 2 * row for row in rows]
"""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def runtime(name: str) -> Any:
    return next(found for path in (KSERVE / "runtimes").glob("*.yaml") if (found := read(path))["metadata"]["name"] == name)


def container(name: str) -> Any:
    (found,) = runtime(name)["spec"]["containers"]
    return found


def strict(schema: Any) -> Any:
    """The schema, in which names that it does not know are errors."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_what_kserve_defines(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    document = read(path)
    group, version = document["apiVersion"].split("/")
    definition = CRDS / f"{group}_{document['kind'].lower()}s.yaml"
    if not definition.is_file():
        pytest.skip(f"{definition.name} is not there; KSERVE_CRDS names the folder of KServe's resource definitions")
    (schema,) = [
        found["schema"]["openAPIV3Schema"] for found in read(definition)["spec"]["versions"] if found["name"] == version
    ]
    specification = strict(schema["properties"]["spec"])
    jsonschema.Draft202012Validator(specification).validate(document["spec"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(specification).validate({**document["spec"], "misspelt": 1})


@pytest.mark.parametrize("name", THEIRS)
def test_what_takes_the_place_of_kserves_own_has_its_arguments(name: str) -> None:
    arguments, env, port = THEIRS[name]
    assert " ".join(container(name)["args"]) == arguments
    assert container(name).get("env", []) == env
    assert runtime(name)["spec"]["annotations"]["prometheus.kserve.io/port"] == port


def test_examples_name_runtimes_and_formats_that_there_are() -> None:
    formats = {
        (read(path)["metadata"]["name"], found["name"])
        for path in (KSERVE / "runtimes").glob("*.yaml")
        for found in read(path)["spec"]["supportedModelFormats"]
    }
    for path in (KSERVE / "examples").glob("*.yaml"):
        model = read(path)["spec"]["predictor"]["model"]
        assert (model.get("runtime", "kserve-torchserve"), model["modelFormat"]["name"]) in formats


def ask(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    return json.loads(text) if text.startswith(("{", "[")) else text


def image(folder: Path) -> Path:
    """A copy of the image's files; PATH has the project's own `jitney`."""
    copied = folder / "image"
    shutil.copytree(ROOT / "docker", copied)
    return copied


def started(folder: Path, image: Path, arguments: list[str], env: dict[str, str]) -> Any:
    path = f"{Path(sys.executable).parent}:{image / 'bin'}:{os.environ['PATH']}"
    return command_running([str(image / "entrypoint.sh"), *arguments], folder, {**env, "PATH": path})


def torchserve(folder: Path, envelope: str) -> Any:
    """The runtime `kserve-torchserve` over an archive, and its ports."""
    models = folder / "models"
    (models / "config").mkdir(parents=True)
    archive(models / "model-store", "mnist", DOUBLES, entry="")
    ports = {name: free_port() for name in ("inference", "metrics", "grpc", "management", "kserve", "v2")}
    (models / "config" / "config.properties").write_text(CONFIG.format(models=models, **ports))
    copied = image(folder)
    for path in (copied / "bin" / "torchserve", copied / "defaults" / "kserve-8085.properties"):
        text = path.read_text().replace("/mnt/models/", f"{models}/").replace("0.0.0.0:8080", f"127.0.0.1:{ports['kserve']}")
        text = text.replace(r"http://0\.0\.0\.0:8085", f"http://127.0.0.1:{ports['inference']}").replace(
            "0.0.0.0", "127.0.0.1"
        )
        path.write_text(text.replace("grpc_port=8081", f"grpc_port={ports['v2']}"))
    arguments = [argument.replace("/mnt/models", str(models)) for argument in container("kserve-torchserve")["args"]]
    (entry,) = container("kserve-torchserve")["env"]
    return started(folder, copied, arguments, {entry["name"]: envelope}), ports


@pytest.fixture
def v1(tmp_path: Path) -> Iterator[dict[str, int]]:
    server, ports = torchserve(tmp_path, "kserve")
    with server:
        yield ports


def test_torchserves_place_with_v1(v1: dict[str, int]) -> None:
    kserve = f"http://127.0.0.1:{v1['kserve']}"
    assert ask(f"{kserve}/v1/models") == {"models": ["mnist"]}
    assert ask(f"{kserve}/v1/models/mnist")["ready"] in (True, "True", "true")
    assert ask(f"{kserve}/v1/models/mnist:predict", {"instances": [{"data": 3}, {"data": 4}]}) == {"predictions": [6, 8]}
    assert ask(f"{kserve}/v2/health/live") == {"live": True} and ask(f"{kserve}/v2/health/ready") == {"ready": True}
    own = f"http://127.0.0.1:{v1['inference']}"  # what is 8085 in a cluster
    assert ask(f"{own}/v1/models/mnist:predict", {"instances": [{"data": 5}]}) == {"predictions": [10]}
    assert ask(f"{own}/models/mnist")[0]["batchSize"] == 5
    assert "ts_inference_requests_total" in ask(f"http://127.0.0.1:{v1['metrics']}/metrics")


def test_torchserves_place_with_v2_and_grpc(tmp_path: Path) -> None:
    server, ports = torchserve(tmp_path, "kservev2")
    with server:
        kserve = f"http://127.0.0.1:{ports['kserve']}"
        tensor = {"name": "input-0", "shape": [3], "datatype": "INT64", "data": [1, 2, 3]}
        answer = ask(f"{kserve}/v2/models/mnist/infer", {"id": "one", "inputs": [tensor]})
        assert answer["outputs"][0]["data"] == [2, 4, 6]
        triton = pytest.importorskip("tritonclient.grpc", reason="grpcio is not installed")
        given = triton.InferInput("input-0", [3], "INT64")
        given.set_data_from_numpy(np.array([1, 2, 3]))
        with triton.InferenceServerClient(f"127.0.0.1:{ports['v2']}") as client:
            assert client.is_model_ready("mnist")
            answer = client.infer("mnist", [given])
            (output,) = answer.get_response().outputs
            assert answer.as_numpy(output.name).tolist() == [2, 4, 6]
        grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
        with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            call = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping")
            assert b"Healthy" in call(b"", timeout=30)


def infer(address: str) -> np.ndarray[Any, Any]:
    """`digits` asked over grpc-v2."""
    triton = pytest.importorskip("tritonclient.grpc", reason="grpcio is not installed")
    with triton.InferenceServerClient(address) as client:
        assert client.is_model_ready("digits")
        about = client.get_model_metadata("digits")
        (given,) = about.inputs
        shape = [1 if size < 0 else size for size in given.shape]
        tensor = triton.InferInput(given.name, shape, given.datatype)
        tensor.set_data_from_numpy(np.zeros(shape, np.float32))
        result: np.ndarray[Any, Any] = client.infer("digits", [tensor]).as_numpy(about.outputs[0].name)
        return result


def v2_over_http(url: str) -> Any:
    """`digits` asked over v2."""
    about = ask(f"{url}/v2/models/digits")
    (given,) = about["inputs"]
    shape = [1 if size < 0 else size for size in given["shape"]]
    tensor = {"name": given["name"], "shape": shape, "datatype": given["datatype"], "data": [0.0] * int(np.prod(shape))}
    return ask(f"{url}/v2/models/digits/infer", {"inputs": [tensor]})["outputs"][0]


def ports_of(arguments: list[str]) -> tuple[list[str], dict[str, int]]:
    """Arguments with loopback, free ports and the starter's models, and the ports."""
    ports = {name: free_port() for name in ("http", "grpc", "metrics", "management")}
    kept = [argument for argument in arguments if not argument.startswith(("--http-port", "--grpc-port"))]
    kept = [argument.replace("0.0.0.0", "127.0.0.1").replace("=/mnt/models", f"={STARTER}") for argument in kept]
    hosts = [f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")]
    return [*kept, *hosts, *(f"--{name}-port={port}" for name, port in ports.items())], ports


@pytest.mark.parametrize("name", ["kserve-tritonserver", "jitney"])
def test_models_of_a_repository(name: str, tmp_path: Path) -> None:
    arguments, ports = ports_of(container(name)["args"])
    with started(tmp_path, image(tmp_path), arguments, {}):
        url = f"http://127.0.0.1:{ports['http']}"
        over_http = v2_over_http(url)
        over_grpc = infer(f"127.0.0.1:{ports['grpc']}")
        assert over_http["shape"] == list(over_grpc.shape) and np.allclose(np.ravel(over_grpc), over_http["data"], atol=1e-5)
        assert "nv_inference_count" in ask(f"http://127.0.0.1:{ports['metrics']}/metrics")
        if name == "jitney":
            probe = container(name)["readinessProbe"]["httpGet"]
            assert ask(f"{url}{probe['path']}") == ""
            assert ask(f"{url}/v1/models/digits")["name"] == "digits"
