"""SageMaker's contract, with the configuration that is meant for it: `/ping` and `/invocations` on the inference port."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from jitney.tests.fakes.metrics import STARTER
from jitney.tests.fakes.running import command_running
from jitney.tools.bench.ports import free_port

ROOT = Path(__file__).parents[2]


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
