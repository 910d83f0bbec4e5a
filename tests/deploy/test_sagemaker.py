"""SageMaker's contract, with the configuration that is meant for it: `/ping` and `/invocations` on the inference port."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from jitney.server.settings.addresses import Address
from jitney.tests.fakes.metrics import STARTER
from jitney.tests.fakes.raw_http import ask
from jitney.tests.fakes.running import command_running
from jitney.tools.bench.ports import free_port

ROOT = Path(__file__).parents[2]
#: What SageMaker's toolkit for PyTorch writes for endpoints with several models; `{}` is the port. Two of its lines are joined.
SEVERAL_MODELS = """
vmargs=-XX:-UseContainerSupport
enable_envvars_config=true
model_store=/
default_service_handler=$$SAGEMAKER_HANDLER$$
default_workers_per_model=1
async_logging=true
decode_input_request=false
disable_token_authorization=true
enable_model_api=truedefault_response_timeout=60
inference_address=http://127.0.0.1:{0}
management_address=http://127.0.0.1:{0}
"""
#: A handler service like the toolkit's: its class is found by what it defines, the user's script in the model's folder `code`.
SERVICE = """
import sys
from pathlib import Path

class HandlerService:
    def initialize(self, context):
        sys.path.append(str(Path(context.system_properties["model_dir"]) / "code"))

    def handle(self, data, context):
        import inference
        context.set_response_content_type(0, "text/csv")
        return [inference.transform(row["body"]) for row in data]
"""


def test_it_answers_what_sagemaker_asks(tmp_path: Path) -> None:
    text, port = (ROOT / "deploy" / "sagemaker" / "config.properties").read_text(), free_port()
    for address, free in (("0.0.0.0:8080", port), ("127.0.0.1:8081", free_port()), ("0.0.0.0:8082", free_port())):
        assert address in text
        text = text.replace(address, f"127.0.0.1:{free}")
    config = tmp_path / "config.properties"
    config.write_text(text.replace("=/opt/ml/model\n", f"={STARTER}\n"))
    command = [str(Path(sys.executable).parent / "jitney"), "--start", "--foreground", "--ts-config", str(config)]
    with command_running(command, tmp_path, {"JITNEY_DEFAULTS": str(ROOT / "docker" / "defaults" / "open.properties")}):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10) as answer:
            assert answer.status == 200
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            (STARTER.parent / "starter" / "seven.png").read_bytes(),
            {"Content-Type": "application/x-image"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            odds = json.load(answer)
    assert max(odds, key=odds.__getitem__) == "7"


def test_it_answers_what_an_endpoint_with_several_models_is_asked(tmp_path: Path) -> None:
    where, folder = Address("http", "127.0.0.1", free_port()), tmp_path / "models" / "m" / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text("def transform(body): return bytes(body)[::-1]\n")
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "config.properties").write_text(SEVERAL_MODELS.format(where.port) + "allow_grpc=false\n")
    command = [str(Path(sys.executable).parent / "jitney"), "--start", "--foreground", "--ncs", "--model-store", "/"]
    environ = {"SAGEMAKER_HANDLER": str(tmp_path / "service.py"), "TS_ENABLE_MODEL_API": "true"}
    model = json.dumps({"model_name": "m", "url": str(folder)}).encode()
    nowhere = json.dumps({"model_name": "n", "url": str(folder.with_name("nowhere"))}).encode()
    asked = [
        ("POST", "/models", model, 200),
        ("POST", "/models", model, 409),
        ("POST", "/models", nowhere, 404),
        ("POST", "/models/n/invoke", b"abc", 404),
        ("POST", "/models/m/invoke", b"abc", 200),
        ("GET", "/models/m", None, 200),
        ("DELETE", "/models/m", None, 200),
        ("DELETE", "/models/m", None, 404),
    ]
    with command_running(command, tmp_path, environ):
        answers = [
            ask(where, method, path, body, {"Content-Type": "application/json"}, timeout=60)
            for method, path, body, _ in asked
        ]
    assert [answer.status for answer in answers] == [status for *_, status in asked]
    invoked = answers[4]
    assert invoked.body == b"cba" and invoked.header("content-type") == "text/csv"
