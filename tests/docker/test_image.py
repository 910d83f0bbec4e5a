"""The image itself, built and run without a registry: `make image-test`. Takes some minutes, root, and Debian's packages.

The base is made by mmdebstrap, wheels come from the package index, buildah builds, podman runs. Containers have the network of a
namespace of this test's own, in which there is nothing but loopback: their 0.0.0.0 reaches nobody else.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from jitney.tests.fakes.containers import Container, Engine
from jitney.tests.fakes.torchserve_server import archive
from jitney.tools.bench.served import wait_until

ROOT = Path(__file__).parents[2]
TOOLS = ("mmdebstrap", "buildah", "podman", "runc", "unshare", "nsenter", "git", "curl")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("JITNEY_IMAGE_TESTS"), reason="builds an image for minutes; `make image-test` runs it"
    ),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and the base's tree need root"),
    pytest.mark.timeout(600),
]
PAGE_CONFIG = """\
inference_address=http://0.0.0.0:8080
management_address=http://0.0.0.0:8081
metrics_address=http://0.0.0.0:8082
number_of_netty_threads=32
job_queue_size=1000
model_store=/home/model-server/model-store
load_models=resnet-152-batch_v2.mar
models={\\
  "resnet-152-batch_v2": {\\
    "2.0": {\\
        "defaultVersion": true,\\
        "marName": "resnet-152-batch_v2.mar",\\
        "minWorkers": 1,\\
        "maxWorkers": 1,\\
        "batchSize": 3,\\
        "maxBatchDelay": 100,\\
        "responseTimeout": 120\\
    }\\
  }\\
}
"""
KSERVE_CONFIG = """\
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8085
metrics_address=http://0.0.0.0:8082
grpc_inference_port=7070
grpc_management_port=7071
enable_envvars_config=true
metrics_format=prometheus
NUM_WORKERS=1
job_queue_size=10
model_store=/mnt/models/model-store
model_snapshot={"name":"startup.cfg","modelCount":1,"models":{"mnist":{"1.0":{"defaultVersion":true,"marName":"mnist.mar",\
"minWorkers":1,"maxWorkers":5,"batchSize":5,"maxBatchDelay":20,"responseTimeout":60}}}}
"""
#: In the place of ResNet-152, whose framework the tested image has not: the size of the picture, after a second where asked.
PICTURES = """
import io, json, time
from PIL import Image

def handle(data, context):
    if data is None:
        return None
    answers = []
    for row in data:
        body = bytes(row["body"])
        if body == b"slow":
            print("begun", flush=True)
            time.sleep(2.0)
            answers.append("slept")
        else:
            answers.append({"size": Image.open(io.BytesIO(body)).size})
    return answers
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With the image jitney:latest-cpu, which has no torch: what is tested does not depend on it."""
    folder = tmp_path_factory.mktemp("image")
    made = Engine(folder)
    try:
        include = "--include=python3,python3-venv,ca-certificates,tini"
        made.call("mmdebstrap", "--variant=minbase", include, "bookworm", str(folder / "base.tar"))
        made.podman("import", str(folder / "base.tar"), "localhost/debian:bookworm")
        context = folder / "context"
        listed = made.call("git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
        for name in filter(lambda name: (ROOT / name).is_file(), listed):
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
        wheels = [
            "--wheel-dir",
            str(context / "docker" / "wheelhouse"),
            "setuptools>=68",
            "wheel",
            f"{context}[onnx,grpc,tls]",
        ]
        made.call(sys.executable, "-m", "pip", "wheel", "--quiet", *wheels)
        buildah = folder / "build"
        buildah.write_text(
            f'#!/bin/sh\nshift\nexec buildah {" ".join(made.store)} bud --isolation chroot --pull-never "$@"\n'
        )
        buildah.chmod(0o755)
        script = ["docker/build_image.sh", "-bi", "localhost/debian:bookworm", "--extras", "onnx,grpc,tls"]
        made.call("env", f"DOCKER={buildah}", *(str(context / script[0]), *script[1:]), "--pip-options", "--no-index")
        yield made
    finally:
        made.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The page's files: an archive in `model_store`, `config.properties`, `kitten.jpg`."""
    archive(tmp_path / "model_store", "resnet-152-batch_v2", PICTURES, "2.0")
    (tmp_path / "config.properties").write_text(PAGE_CONFIG)
    from PIL import Image

    Image.new("RGB", (64, 48), "orange").save(tmp_path / "kitten.jpg")
    return tmp_path


def page(store: Path) -> list[str]:
    """The page's `docker run`, but for the image's name."""
    return [
        *("--rm", "-it", "-p", "8080:8080", "-p", "8081:8081", "-v", f"{store}/model_store:/home/model-server/model-store"),
        *("-v", f"{store}/config.properties:/home/model-server/config.properties", "jitney:latest-cpu"),
    ]


def test_size_and_contents(engine: Engine) -> None:
    size = int(engine.podman("image", "inspect", "--format", "{{.Size}}", "jitney:latest-cpu"))
    assert size < 600_000_000
    shell = "id -u; command -v gcc cc g++ ld || echo none; torchserve --version; which tritonserver torch-model-archiver"
    said = engine.podman("run", "--rm", "--network", "host", "--ulimit", "nofile=8192:8192", "--ulimit", "nproc=8192:8192",
                         "jitney:latest-cpu", "sh", "-c", shell).splitlines()  # fmt: skip
    assert said[:2] == ["1000", "none"] and said[2].startswith("TorchServe Version is 0.12.0")
    assert said[3:] == ["/opt/jitney/bin/tritonserver", "/opt/jitney/bin/torch-model-archiver"]


def test_the_pages_docker_section(engine: Engine, store: Path) -> None:
    with Container(engine, *page(store)) as container:
        (model,) = json.loads(engine.curl("http://localhost:8081/models/resnet-152-batch_v2"))
        assert (model["modelVersion"], model["batchSize"], model["maxBatchDelay"]) == ("2.0", 3, 100)
        assert model["workers"][0]["status"] == "READY"
        answer = engine.curl("http://localhost:8080/predictions/resnet-152-batch_v2", "-T", str(store / "kitten.jpg"))
        assert json.loads(answer) == {"size": [64, 48]}
        assert any("Requests need no token" in line for line in container.server.lines)


def test_stopping_answers_what_was_accepted(engine: Engine, store: Path) -> None:
    with Container(engine, *page(store)[1:]) as container, ThreadPoolExecutor() as pool:
        asked = pool.submit(
            engine.curl, "http://localhost:8080/predictions/resnet-152-batch_v2", "-d", "slow", "-H", "content-type:"
        )
        wait_until(lambda: any("begun" in line for line in container.server.lines), 20, "the handler")
        engine.podman("stop", "--time", "30", "mar")
        assert asked.result() == "slept"
        assert container.server.process.wait(30) == 0


def test_any_user_and_a_read_only_root(engine: Engine, store: Path) -> None:
    for folder in (store, store / "model_store"):
        folder.chmod(0o755)
    arguments = ["--rm", "--read-only", "--user", "1000650000:0", "--cap-drop", "ALL", *page(store)[2:]]
    with Container(engine, *arguments):
        answer = engine.curl("http://localhost:8080/predictions/resnet-152-batch_v2", "-T", str(store / "kitten.jpg"))
        assert json.loads(answer) == {"size": [64, 48]}


def test_torchserve_asks_for_tokens(engine: Engine, store: Path) -> None:
    command = ["torchserve", "--start", "--ncs", "--model-store", "model-store", "--models", "all"]
    with Container(engine, *page(store)[:1], *page(store)[2:], *command):
        assert "InvalidKeyException" in engine.curl("http://localhost:8081/models")
        keys = json.loads(engine.podman("exec", "mar", "cat", "key_file.json"))
        bearer = f"Authorization: Bearer {keys['management']['key']}"
        assert "resnet-152-batch_v2" in engine.curl("-H", bearer, "http://localhost:8081/models")


def test_tritonserver_is_on_its_ports(engine: Engine) -> None:
    mounted = ["--rm", "-v", f"{ROOT}/tools/starter:/models:ro", "jitney:latest-cpu"]
    with Container(engine, *mounted, "tritonserver", "--model-repository=/models") as container:
        assert json.loads(engine.curl("http://localhost:8000/v2/models/digits"))["name"] == "digits"
        assert "nv_inference_count" in engine.curl("http://localhost:8002/metrics")
        bound = [line.split(" bind to: ")[1] for line in container.server.lines if " bind to: " in line]
        assert bound == ["http://0.0.0.0:8000", "http://127.0.0.1:8081", "http://0.0.0.0:8002", "0.0.0.0:8001"]


def test_kserve_starts_it_as_torchserve(engine: Engine, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "config").mkdir(parents=True)
    (models / "config" / "config.properties").write_text(KSERVE_CONFIG)
    archive(models / "model-store", "mnist", "def handle(data, context):\n    return data and [3] * len(data)\n")
    for folder in (tmp_path, models, models / "config", models / "model-store"):
        folder.chmod(0o755)
    arguments = [
        "--rm",
        "--read-only",
        "--cap-drop",
        "ALL",
        "--env",
        "TS_SERVICE_ENVELOPE=",
        "-v",
        f"{models}:/mnt/models:ro",
    ]
    command = ["--model-store=/mnt/models/model-store", "--ts-config=/mnt/models/config/config.properties"]
    with Container(engine, *arguments, "jitney:latest-cpu", "torchserve", "--start", *command) as container:
        bound = {line.split(" bind to: ")[1] for line in container.server.lines if " bind to: " in line}
        assert bound == {
            *("http://0.0.0.0:8085", "http://0.0.0.0:8082", "http://0.0.0.0:8080"),
            *("0.0.0.0:8081", "0.0.0.0:7070", "127.0.0.1:7071"),
        }
        for port in (8080, 8085):
            assert engine.curl(f"http://localhost:{port}/v1/models/mnist:predict", "-d", '{"instances": [1]}') == "3"
        assert json.loads(engine.curl("http://localhost:8080/v1/models")) == {"models": ["mnist"]}


def test_kubernetes_starts_it(engine: Engine) -> None:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text())
    spec = next(documents)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    user = f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    env = [f"--env={entry['name']}={entry['value']}" for entry in container["env"] if "value" in entry]
    rights = ["--rm", "--read-only", "--tmpfs", "/tmp", "--user", user, "--cap-drop", "ALL"]
    mounted = ["-v", f"{ROOT}/tools/starter:/models:ro", "jitney:latest-cpu"]
    with Container(engine, *rights, *env, *mounted, *container["args"]) as started:
        bound = {line.split(" bind to: ")[1] for line in started.server.lines if " bind to: " in line}
        opened = {"http://0.0.0.0:8080", "http://127.0.0.1:8081", "http://0.0.0.0:8082", "0.0.0.0:8001"}
        assert bound == opened
        for probe in ("startupProbe", "readinessProbe"):
            engine.curl("--fail", f"http://localhost:8080{container[probe]['httpGet']['path']}")
        assert not any("cannot be written" in line for line in started.server.lines)
        engine.podman("exec", "mar", *container["lifecycle"]["preStop"]["exec"]["command"][:1], "0")
        engine.podman("stop", "--time", str(spec["terminationGracePeriodSeconds"]), "mar")
        assert started.server.process.wait(30) == 0
