"""The handlers of examples/torchserve: packed with the command that their own text gives, served, asked over HTTP."""

from __future__ import annotations

import ast
import io
import json
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jitney.server.cli import main as cli
from jitney.tests.fakes.torchserve_server import Site, running

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples" / "torchserve"
HANDLERS = ("colour_classifier", "topics_handler", "micro_batching_handler")


def archive_command(source: str) -> list[str]:
    """The arguments of the `jitney archive` in a handler's docstring."""
    text = (ast.get_docstring(ast.parse(source)) or "").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.strip().startswith("jitney archive"))
    return shlex.split(line)[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples with weights and a store of the three archives."""
    folder = tmp_path_factory.mktemp("examples")
    for path in EXAMPLES.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    subprocess.run([sys.executable, "make_weights.py"], cwd=folder, check=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in HANDLERS:
            assert cli.main(archive_command((folder / f"{name}.py").read_text())) == 0
    (folder / "model_store").rename(folder / "store")
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Any:
    with running(folder, load_models="all", default_workers_per_model="1") as site:
        yield site


def picture(red: int, green: int, blue: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (300, 280), (red, green, blue)).save(out, "PNG")
    return out.getvalue()


def ask_all(site: Site, model: str, bodies: list[tuple[bytes, str]]) -> list[Any]:
    """All at once, so that they may share batches."""
    with ThreadPoolExecutor(len(bodies)) as clients:
        answers = clients.map(lambda item: site.predict(model, item[0], Content_Type=item[1]), bodies)
    return [json.loads(answer.body) for answer in answers]


def test_a_subclass_of_image_classifier(site: Site) -> None:
    pictures = [
        (picture(250, 10, 10), "image/png"),
        (picture(10, 250, 10), "image/png"),
        (picture(10, 10, 250), "image/png"),
    ]
    answers = ask_all(site, "colours", pictures)
    assert [answer["colour"] for answer in answers] == ["red", "green", "blue"]
    assert all(answer["share"] > 0.9 for answer in answers)


def test_a_generalized_text_handler_answers_a_mixed_batch_as_its_model_does(site: Site, folder: Path) -> None:
    query = "url=topics.mar&model_name=many&batch_size=4&max_batch_delay=3000&initial_workers=1"
    assert site.manage("POST", f"/models?{query}")[0] == 200
    texts = ["the judge and the court", "goal", "a star in a galaxy far away " * 10, "LAW"]
    kinds = ["text/plain", "application/octet-stream", "text/plain", "application/json"]
    bodies = [(json.dumps(t).encode() if k.endswith("json") else t.encode(), k) for t, k in zip(texts, kinds, strict=True)]
    answers = ask_all(site, "many", bodies)
    for answer, text in zip(answers, texts, strict=True):
        assert list(answer) == ["law", "sport", "space"]
        assert list(answer.values()) == pytest.approx(alone(folder, text), abs=1e-5)
    stats = json.loads(site.ask("inference", "GET", "/v2/models/many/versions/1.0/stats").body)["model_stats"][0]
    assert stats["batch_stats"][0]["batch_size"] == 4  # all four in one batch, padded to the longest


def alone(folder: Path, text: str) -> list[float]:
    """What the model says of one text, without padding."""
    names: dict[str, Any] = {}
    exec((folder / "topics_model.py").read_text(), names)
    model = names["Topics"]()
    model.load_state_dict(torch.load(folder / "topics.pth", weights_only=True))
    words = json.loads((folder / "words.json").read_text())
    ids = torch.tensor([[words.get(word, 1) for word in text.lower().split()[:32]]])
    with torch.inference_mode():
        found: list[float] = model(ids, torch.ones_like(ids)).softmax(1)[0].tolist()
    return found


def test_a_micro_batching_handler(site: Site) -> None:
    pictures = [(picture(40 * n, 0, 0), "image/png") for n in range(5)]
    answers = ask_all(site, "pieces", pictures)
    reds = [answer["logits"][0] for answer in answers]
    assert reds == sorted(reds) and len(set(reds)) == 5  # each request has its own answer
    assert sorted(answer["piece"] for answer in answers) == [1, 2, 2, 2, 2]
