"""What people send to Python models of a repository, over a real server: bodies as they come, forms, scalars, KServe v1."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jitney.tests.fakes.serving import write_model
from jitney.tools.bench.served import ServedProcess, serving

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256))
#: Says of each row what it got.
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            if b"fail" in texts:
                raise KeyError("no such word")
            times = pb_utils.get_input_tensor_by_name(request, "times")
            counts = np.ones(len(texts), int) if times is None else times.as_numpy().reshape(-1)
            said = [["%d %d" % (len(text) * count, text[0])] for text, count in zip(texts.reshape(-1), counts)]
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("said", np.array(said, object))]))
        return answers
"""
TEXT = '{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }'
TIMES = '{ name: "times" data_type: TYPE_INT32 dims: [ 1 ] }'
SAID = 'output [ { name: "said" data_type: TYPE_STRING dims: [ 1 ] } ]'
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module", params=["", "front_ends=2\n"], ids=["one process", "front ends"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    folder = tmp_path_factory.mktemp("models")
    batches = 'backend: "python" max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 200000 }'
    write_model(folder, "one", f"{batches} input [ {TEXT} ] {SAID}", MODEL)
    write_model(folder, "two", f"{batches} input [ {TEXT}, {TIMES} ] {SAID}", MODEL)
    with serving(folder, properties=request.param) as server:
        yield server


def ask(
    server: ServedProcess,
    model: str,
    body: bytes,
    kind: str | None = None,
    method: str = "POST",
    path: str = "/predictions/{}",
) -> Any:
    """The answer's JSON, with its status where that is an error. `kind` None: no content type, which urllib cannot leave out."""
    request = urllib.request.Request(
        server.inference + path.format(model), body, {"Content-Type": kind or ""}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def multipart(*fields: tuple[str, str, bytes]) -> tuple[bytes, str]:
    """A form's body and content type; of each field its name, content type (of files) and data."""
    parts = []
    for name, kind, data in fields:
        file = f'; filename="f"\r\nContent-Type: {kind}' if kind else ""
        parts.append(f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n")
    return b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


SEEN = [[f"{len(JPEG)} 255"]]


@pytest.mark.parametrize(
    ("body", "kind", "method"),
    [
        (JPEG, None, "PUT"),
        (JPEG, "image/jpeg", "POST"),
        (JPEG, "application/octet-stream", "POST"),
        (JPEG, FORM, "POST"),
        (*multipart(("data", "image/jpeg", JPEG)), "POST"),
        (*multipart(("text", "image/jpeg", JPEG)), "POST"),
        (*multipart(("file", "application/octet-stream", JPEG)), "POST"),
    ],
)
def test_a_picture(server: ServedProcess, body: bytes, kind: str | None, method: str) -> None:
    for _ in range(2):
        assert ask(server, "one", body, kind, method) == SEEN


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"hi you", "text/plain"), (b"hi you", "text/plain; charset=utf-8"), (b"hi you", FORM), (b"text=hi+you", FORM),
        (b'{"text": "hi you"}', FORM), (b'{"text": "hi you"}', "application/json"), (b'"hi you"', "application/json"),
        (b'["hi you"]', None), multipart(("text", "", b"hi you")),
    ],
)  # fmt: skip
def test_a_text(server: ServedProcess, body: bytes, kind: str | None) -> None:
    assert ask(server, "one", body, kind) == [["6 104"]]


def test_each_request_is_a_row_of_one_batch(server: ServedProcess) -> None:
    (before,) = server.get_json("/v2/models/one/stats")["model_stats"]
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda n: ask(server, "one", b"x" * n, "text/plain"), (1, 2, 3, 4)))
    assert answers == [[[f"{n} 120"]] for n in (1, 2, 3, 4)]
    (after,) = server.get_json("/v2/models/one/stats")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] < 4


def test_several_inputs(server: ServedProcess) -> None:
    assert ask(server, "two", b'{"text": "ab", "times": 3}', "application/json") == [["6 97"]]
    assert ask(server, "two", b"text=ab&times=3", FORM) == [["6 97"]]
    assert ask(server, "two", *multipart(("text", "image/jpeg", JPEG), ("times", "", b"1"))) == SEEN
    status, told = ask(server, "two", JPEG, "image/jpeg")
    assert status == 400 and "Model 'two' takes 'text', 'times' as JSON" in told["message"]


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (*multipart(("text", "image/jpeg", JPEG), ("text", "image/jpeg", b"2")), "the form's field 'text' is given twice"),
        (b"text=a&text=b", FORM, "the form's field 'text' is given twice"),
        (multipart(("text", "", b"hi"))[0], "multipart/form-data", "multipart/form-data names no boundary"),
        (multipart(("text", "", b"hi"))[0], "multipart/form-data; boundary=y", "does not have the boundary 'y'"),
        (multipart(("text", "", b"hi"))[0][:-8], "multipart/form-data; boundary=x", "ends before its last boundary, --x--"),
        (b"E = mc2", FORM, "found fields: 'E '; curl -d sends a form, use -T FILE, or -H"),
    ],
)
def test_forms_of_which_something_would_be_lost(server: ServedProcess, body: bytes, kind: str, reason: str) -> None:
    status, told = ask(server, "one", body, kind)
    assert status == 400 and reason in told["message"]


@pytest.mark.parametrize("path", ["/v1/models/{}:predict", "/predictions/{}"])
def test_kserve_v1(server: ServedProcess, path: str) -> None:
    rows = [{"text": "a", "times": 1}, {"text": "b", "times": 2}]
    asked = ("two", json.dumps({"instances": rows}).encode()), ("one", b'{"instances": ["a", "bc"]}')
    assert [ask(server, model, body, "application/json", path=path) for model, body in asked] == [
        {"predictions": [["1 97"], ["2 98"]]},
        {"predictions": [["1 97"], ["2 98"]]},
    ]


def test_the_reason_of_a_model_s_error_stands_in_the_body(server: ServedProcess) -> None:
    for path in ("/predictions/{}", "/v1/models/{}:predict"):
        status, told = ask(server, "one", b"fail", "text/plain", path=path)
        assert status == 503 and "no such word" in told["message"]
        assert told.get("error", told["message"]) == told["message"]


def test_a_codec_that_does_not_exist_fails_the_load(tmp_path: Path) -> None:
    for name, codec in (("typo", "image_clasifier"), ("gone", "codec.py")):
        parameter = f'parameters {{ key: "codec" value {{ string_value: "{codec}" }} }}'
        write_model(tmp_path, name, f'backend: "python" max_batch_size: 8 input [ {TEXT} ] {SAID} {parameter}', MODEL)
    with serving(tmp_path) as server:
        said = "\n".join(server.lines)
        assert "typo: FAILED" in said.replace("typo 1:", "typo:") and "did you mean 'image_classifier'" in said
        assert "codec 'codec.py': there is no such file in" in said
