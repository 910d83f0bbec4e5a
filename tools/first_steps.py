"""A newcomer's first minute, with what is installed already: `jitney demo`.

Serves the small model that comes with jitney, a network trained on handwritten digits, sends it a picture as a client would, and
shows each request with its answer. The status is 0 only if all of it was right. Nothing is downloaded, built or left behind.

Model and picture are those of `digits` (Alpaydin and Kaynak's optical recognition data, as scikit-learn bundles it): the folder
`starter/digits` is model_repository/digits_onnx with the weights that tools/dev/build_models.py trains.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from .bench.served import ServedProcess, ServerFailed, serving
from .steps import NotAsPromised, expect, heading

STARTER = Path(__file__).resolve().parent / "starter"
PICTURE = STARTER / "seven.png"
CLIENTS, REQUESTS = 16, 64
#: Brightness as characters, from nothing to full.
SHADES = " .:-=+*#%@"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="jitney demo", description=(__doc__ or "").partition("\n\n")[2])
    made.add_argument("--keep", action="store_true", help="go on serving afterwards, until Ctrl-C")
    return made


def main(arguments: Sequence[str] = ()) -> int:
    options = parser().parse_args(list(arguments))
    if importlib.util.find_spec("onnxruntime") is None:
        print("jitney demo serves an ONNX model and onnxruntime is missing: pip install 'jitney[onnx]'", file=sys.stderr)
        return 1
    try:
        run(options.keep)
    except (NotAsPromised, ServerFailed) as error:
        print(f"\nThe demo ended early: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if options.keep else 130
    return 0


def run(keep: bool = False) -> None:
    heading(f"Starting the server: jitney serve --model-repository {STARTER}")
    with serving(STARTER, echo=True) as server:
        one_picture(server)
        one_tensor(server)
        many_at_once(server)
        mistake(server)
        if keep:
            heading(f"Serving at {server.inference}, until Ctrl-C")
            threading.Event().wait()
        heading("Stopping the server")
        expect(server.stop() == 0, "it answered what it had accepted and ended with status 0")
    print(f"\nAll of it was right. What was served is a folder of models: {STARTER}")
    print("Copy it, put models of your own beside `digits`, and: jitney serve --model-repository YOUR-COPY")


def ask(url: str, body: bytes, kind: str = "image/png") -> tuple[int, str]:
    """`POST` on this machine, whatever proxy the environment names: status and body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, body, {"Content-Type": kind}), timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def show(command: str, status: int, answer: str) -> None:
    print(f"$ {command}\n  " + answer.rstrip().replace("\n", "\n  ") + f"   [{status}]", flush=True)


def one_picture(server: ServedProcess) -> None:
    heading("A picture of a handwritten seven, as it would come from a phone")
    print("\n".join("  " + "".join(SHADES[value * 9 // 255] * 2 for value in row) for row in _pixels()), flush=True)
    url = f"{server.inference}/predictions/digits"
    status, answer = ask(url, PICTURE.read_bytes())
    show(f"curl {url} -T {PICTURE}", status, answer)
    expect(status == 200 and next(iter(json.loads(answer))) == "7", "the likeliest class is 7")


def _pixels() -> list[list[int]]:
    """The picture's 8 x 8 grey values, 0 to 255, row by row."""
    with Image.open(PICTURE) as image:
        small = image.convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    data = small.tobytes()
    return [list(data[start : start + 8]) for start in range(0, 64, 8)]


def one_tensor(server: ServedProcess) -> None:
    heading("The same as a tensor, in the Open Inference Protocol (KServe v2, Triton)")
    values = [round((value / 255 - 0.3) / 0.35, 3) for row in _pixels() for value in row]
    tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": values}
    url = f"{server.inference}/v2/models/digits/infer"
    status, answer = ask(url, json.dumps({"inputs": [tensor]}).encode(), "application/json")
    shown = json.dumps({"inputs": [{**tensor, "data": ["…"]}]}, ensure_ascii=False)
    show(f"curl {url} -d '{shown}'", status, answer)
    logits: list[float] = json.loads(answer)["outputs"][0]["data"] if status == 200 else []
    expect(bool(logits) and logits.index(max(logits)) == 7, "the largest of the ten numbers is that of class 7")


def many_at_once(server: ServedProcess) -> None:
    heading(f"{REQUESTS} pictures from {CLIENTS} clients at once: what waits together leaves as one batch")
    url, picture = f"{server.inference}/predictions/digits", PICTURE.read_bytes()
    before = _batches(server)
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda _: ask(url, picture), range(REQUESTS)))
    expect(all(status == 200 and next(iter(json.loads(answer))) == "7" for status, answer in answers), "all are answered")
    grown = {size: count - before.get(size, 0) for size, count in _batches(server).items()}
    print("  pictures in a batch   batches   (GET /v2/models/digits/stats)", flush=True)
    for size, count in sorted(grown.items()):
        if count:
            print(f"  {size:19}   {count:7}", flush=True)
    expect(sum(size * count for size, count in grown.items()) == REQUESTS, "every picture was in exactly one batch")


def _batches(server: ServedProcess) -> dict[int, int]:
    """How many batches of each size have run."""
    found: dict[str, Any] = server.get_json("/v2/models/digits/stats")["model_stats"][0]
    return {entry["batch_size"]: entry["compute_infer"]["count"] for entry in found["batch_stats"]}


def mistake(server: ServedProcess) -> None:
    heading("A mistake, and what a client hears")
    url = f"{server.inference}/predictions/digits"
    status, answer = ask(url, Path(__file__).read_bytes(), "application/octet-stream")
    show(f"curl {url} -T {Path(__file__).name}", status, answer)
    expect(status == 400, "400, with what is wrong")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
