"""The status page in a browser, over real workers: what its tests open and how models are kept busy meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jitney.server.http.app import Services
from jitney.server.http.middleware.tokens import Tokens
from jitney.server.metrics import Metrics
from jitney.server.web import Web
from jitney.tests.fakes.frontends import settings
from jitney.tests.fakes.plane import LoadedPlane
from jitney.tests.fakes.raw_http import ask

ROWS = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}'
#: Answers with two classes by how bright a grey picture is.
SHADES = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            bright = x.reshape(len(x), -1).mean(axis=1)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.stack([bright, -bright], 1).astype(np.float32))]))
        return answers
"""


def shades(folder: Path) -> None:
    """A classifier of pictures of 8 by 8 pixels."""
    (folder / "shades" / "1").mkdir(parents=True)
    (folder / "shades" / "1" / "model.py").write_text(SHADES)
    (folder / "shades" / "labels.txt").write_text("light\ndark\n")
    (folder / "shades" / "config.pbtxt").write_text(
        """backend: "python" max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1, 8, 8 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
instance_group [ { kind: KIND_CPU } ]
parameters { key: "codec" value { string_value: "image_classifier" } }
parameters { key: "image_mode" value { string_value: "L" } }
parameters { key: "resize" value { string_value: "8" } }
parameters { key: "crop" value { string_value: "8" } }
parameters { key: "mean" value { string_value: "0.5" } }
parameters { key: "std" value { string_value: "0.5" } }
"""
    )


class Browser:
    """A page that notes what its console says; `port` is the management port's."""

    def __init__(self, page: Any, web: Web, plane: LoadedPlane) -> None:
        self.page, self.web, self.plane = page, web, plane
        self.complaints: list[str] = []
        page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: str = "/") -> Any:
        self.page.goto(f"http://127.0.0.1:{self.web.address('management').port}{path}")
        self.page.wait_for_selector("#models, #key")
        return self.page

    def keep(self, name: str) -> None:
        if folder := os.environ.get("STATUS_PICTURES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@contextmanager
def browsing(
    chromium: Any, plane: LoadedPlane, tokens: Tokens | None = None, values: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[Browser]:
    web = Web(
        Services(
            plane,
            plane.control,
            Metrics(plane.registry.deployments),
            settings(front_ends=1, **(values or {})),
            tokens,
            plane.io,
        )
    )
    web.start()
    context = chromium.new_context(**options)
    try:
        yield Browser(context.new_page(), web, plane)
    finally:
        context.close()
        web.close(5)


def load(web: Web, count: int, at_once: int = 4) -> None:
    """Sends requests to the doubling model, several at once."""

    def send() -> None:
        for _ in range(count):
            assert ask(web.address("inference"), "POST", "/v2/models/double/infer", ROWS, timeout=30).status == 200

    senders = [threading.Thread(target=send) for _ in range(at_once)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
