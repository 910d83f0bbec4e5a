"""The codec of examples/own_codec: served from a copy, asked over HTTP; docs/predictions.md shows it as it is."""

from __future__ import annotations

import io
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from jitney.tools.bench.served import ServedProcess, serving, wait_until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_codec"


def picture(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module", params=[1, 2])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    """One process that answers, and two front ends which have the codec each."""
    folder = tmp_path_factory.mktemp("example") / "models"
    shutil.copytree(EXAMPLE, folder)
    delay = "dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: [ 3 ] }"
    config = folder / "colours" / "config.pbtxt"
    config.write_text(config.read_text().replace("dynamic_batching { }", delay))
    polling = ["--model-control-mode=poll", "--repository-poll-secs=1"]
    with serving(folder, properties=f"front_ends={request.param}\n", flags=polling) as server:
        server.folder = folder  # type: ignore[attr-defined]
        yield server


def ask(server: ServedProcess, body: bytes, **headers: str) -> tuple[int, str, bytes]:
    named = {"Content-Type": "image/png"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{server.inference}/predictions/colours", body, named)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_the_page_shows_the_file() -> None:
    assert (
        f"```python\n{(EXAMPLE / 'colours' / 'codec.py').read_text()}```" in (ROOT / "docs" / "predictions.md").read_text()
    )


def test_pictures_of_several_clients_are_one_batch(server: ServedProcess) -> None:
    with ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(lambda colour: ask(server, picture(colour)), ("red", "lime", "blue")))
    assert [(status, kind) for status, kind, _ in answers] == [(200, "application/json")] * 3
    assert [json.loads(body)["colour"] for _, _, body in answers] == ["red", "green", "blue"]
    assert json.loads(answers[0][2])["mean"] == [255, 0, 0]
    (stats,) = server.get_json("/v2/models/colours/stats")["model_stats"]
    assert {entry["batch_size"]: entry["compute_infer"]["count"] for entry in stats["batch_stats"]} == {3: 1}


def test_the_answer_takes_the_form_that_was_asked_for(server: ServedProcess) -> None:
    assert ask(server, picture("blue"), Accept="text/plain") == (200, "text/plain; charset=utf-8", b"blue")


def test_what_the_codec_refuses(server: ServedProcess) -> None:
    status, _, body = ask(server, b"no picture")
    told = "codec 'codec.py' of model 'colours': expected a picture as the body or in the form field 'data'"
    assert (status, json.loads(body)["message"]) == (400, told)


def test_a_codec_that_changes_is_read_anew_and_one_that_is_broken_changes_nothing(server: ServedProcess) -> None:
    path: Path = server.folder / "colours" / "codec.py"  # type: ignore[attr-defined]
    source = path.read_text()
    path.write_text(source.replace('"red", ', '"rouge", '))
    wait_until(lambda: b"rouge" in ask(server, picture("red"))[2], 30, "the new codec answers")
    path.write_text(source.replace("def encode", "def encode_not"))

    def refused() -> bool:
        return any("it has no 'encode'" in line for line in server.lines)

    wait_until(refused, 30, "the broken codec is refused")
    assert b"rouge" in ask(server, picture("red"))[2]
    path.write_text(source)
    wait_until(lambda: b'"red"' in ask(server, picture("red"))[2], 30, "the old codec answers again")
