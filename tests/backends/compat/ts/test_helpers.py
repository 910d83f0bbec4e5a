"""Helpers that handlers import beside the base classes: streams of text, words, engines, environments, old services."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import types
import venv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from jitney.backends.compat.ts.context import Context
from jitney.backends.compat.ts.handler_utils.distributed.deepspeed import create_checkpoints_json, get_ds_engine
from jitney.backends.compat.ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch
from jitney.backends.compat.ts.handler_utils.micro_batching import WorkerThread, execute_call
from jitney.backends.compat.ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from jitney.backends.compat.ts.model_service.model_service import SingleNodeService
from jitney.backends.compat.ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler
from jitney.backends.compat.ts.utils import hf_utils, setup_model_venv
from jitney.backends.compat.ts.utils.timeit_decorator import timeit
from jitney.backends.compat.ts.utils.util import deprecated

# -- streams -------------------------------------------------------------------------------------------------------------------


class Tokenizer:
    """Token n is the n-th of these."""

    PIECES = ("a", "b ", "line\n", "中", "<end>")

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        text = "".join(self.PIECES[token] for token in tokens)
        return text.replace("<end>", "") if skip_special_tokens else text


def texts(streamer: TextIteratorStreamerBatch) -> list[list[str]]:
    return [[row["text"] for row in step] for step in streamer]


def test_a_batch_is_streamed_in_whole_words() -> None:
    streamer = TextIteratorStreamerBatch(Tokenizer(), 2, skip_special_tokens=True)
    for step in ([[0, 1], [0, 0]], [0, 2], [3, 3], [0, 4]):
        streamer.put(torch.tensor(step))
    streamer.end()
    assert texts(streamer) == [["ab ", ""], ["", "aaline\n"], ["a中", "中"], ["", ""], ["a", ""]]


def test_a_prompt_can_be_left_out_and_a_streamer_used_again() -> None:
    streamer = TextIteratorStreamerBatch(Tokenizer(), 1, skip_prompt=True)
    for _ in range(2):
        streamer.put(torch.tensor([[0, 0, 0]]))
        streamer.put(torch.tensor([1]))
        streamer.end()
        assert texts(streamer) == [["b "], [""]]


def test_a_stream_is_read_while_it_is_written() -> None:
    streamer = TextIteratorStreamerBatch(Tokenizer(), 1, timeout=10)
    read: list[Any] = []
    reader = threading.Thread(target=lambda: read.extend(streamer))
    reader.start()
    streamer.put(torch.tensor([1]))
    streamer.end()
    reader.join(10)
    assert read == [[{"text": "b "}], [{"text": ""}]]
    with pytest.raises(ValueError, match=r"batches of 1, got tokens of shape \[2\]"):
        streamer.put(torch.tensor([1, 1]))
    with pytest.raises(queue.Empty):
        next(TextIteratorStreamerBatch(Tokenizer(), 1, timeout=0.001))


# -- words ---------------------------------------------------------------------------------------------------------------------


def test_words_and_runs_of_words() -> None:
    assert list(ngrams_iterator(["here", "we", "are"], 3)) == ["here", "we", "are", "here we", "we are", "here we are"]
    basic = get_tokenizer("basic_english")
    assert basic('It\'s (a) "test";\n yes:<br />no, end.') == [
        "it", "'", "s", "(", "a", ")", "test", "yes", "no", ",", "end", "."
    ]  # fmt: skip
    assert get_tokenizer(None)("A b") == ["A", "b"]
    assert get_tokenizer(str.split) is str.split
    with pytest.raises(ValueError, match="'spacy' is not known"):
        get_tokenizer("spacy")
    with pytest.raises(ValueError, match="not 'de'"):
        get_tokenizer("basic_english", "de")


# -- engines and models ----------------------------------------------------------------------------------------------------------


def test_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed itself is not installed: what it would be called with is compared."""
    (tmp_path / "weights").mkdir()
    for name in ("a.bin", "b.json"):
        (tmp_path / "weights" / name).touch()
    section = {
        "deepspeed": {"config": "ds.json", "checkpoint": "c.json"},
        "handler": {"model_path": str(tmp_path / "weights")},
    }
    context = Context("m", str(tmp_path), None, 1, None, "", model_yaml_config=section)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ImportError, match="pip install deepspeed"):
        get_ds_engine("model", context)
    asked = types.SimpleNamespace(init_inference=lambda model, **named: (model, named))
    monkeypatch.setitem(sys.modules, "deepspeed", asked)
    with pytest.raises(ValueError, match=r"no deepspeed config file .*ds\.json"):
        get_ds_engine("model", context)
    (tmp_path / "ds.json").write_text("{}")
    checkpoint = str(tmp_path / "c.json")
    named = {"config": str(tmp_path / "ds.json"), "base_dir": str(tmp_path / "weights"), "checkpoint": checkpoint}
    assert get_ds_engine("model", context) == ("model", named)
    written = {"type": "ds_model", "checkpoints": [str(tmp_path / "weights/a.bin")], "version": 1.0}
    assert json.loads(Path(checkpoint).read_text()) == written
    create_checkpoints_json(str(tmp_path / "none"), checkpoint)
    assert json.loads(Path(checkpoint).read_text())["checkpoints"] == []
    with pytest.raises(ValueError, match="m has no section 'deepspeed'"):
        get_ds_engine("model", Context("m", "", None, 1, None, "", model_yaml_config={"handler": {"model_path": ""}}))
    handler = BaseDeepSpeedHandler()
    handler.initialize(Context("m", "", None, 1, 3, ""))
    assert handler.device == 3


def test_a_model_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        hf_utils.download_model("a/b")
    hub = types.SimpleNamespace(snapshot_download=lambda **named: named)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    asked: Any = hf_utils.download_model("a/b", model_path="cache", use_auth_token="t")
    assert (asked["repo_id"], asked["revision"], asked["cache_dir"], asked["token"]) == ("a/b", "main", "cache", "t")
    assert "*.safetensors" in asked["allow_patterns"]


class Old(SingleNodeService):
    def ping(self) -> Any:
        return "healthy"

    def _preprocess(self, data: list[Any]) -> Any:
        return data[0]

    def _inference(self, data: Any) -> Any:
        return data


def test_a_service_of_the_multi_model_server(tmp_path: Path) -> None:
    signature = {"input_type": "application/json", "inputs": [{"data_name": "x"}]}
    context = Context("m", str(tmp_path), {"Model": {"Signature": "s.json"}}, 1, None, "")
    service = Old("m", str(tmp_path), None)
    with pytest.raises(ValueError, match=r"s\.json: the signature file is not found"):
        service.initialize(context)
    (tmp_path / "s.json").write_text(json.dumps(signature))
    service.initialize(context)
    assert service.signature() == signature
    assert service.handle([{"x": b'{"a": true}'}], context) == [{"a": True}]
    assert service.handle([{"body": b"[1, None]"}], context) == [1, None]
    assert service.handle([{"data": "text"}], context) == ["text"]


# -- small things ----------------------------------------------------------------------------------------------------------------


def test_an_environment_inherits_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made without pip, which takes seconds and says nothing about what is inherited."""
    monkeypatch.setattr(setup_model_venv, "create_venv", lambda path: venv.create(path, with_pip=False))
    folder = tmp_path / "env"
    assert setup_model_venv.main([str(folder)]) == 0
    done = subprocess.run([str(folder / "bin/python"), "-c", "import numpy"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(FileNotFoundError, match="is no virtual environment"):
        setup_model_venv.inherit_site_packages(str(tmp_path))
    assert setup_model_venv.main([]) == 2


def test_decorators(capsys: pytest.CaptureFixture[str]) -> None:
    @timeit
    def timed_function(value: int) -> int:
        return value + 1

    assert timed_function(1) == 2
    assert capsys.readouterr().out.startswith("func: timed_function took 0.0")

    @deprecated("1.0", replacement="new_name", klass=DeprecationWarning)
    def old_name(value: int) -> int:
        return value

    with pytest.warns(DeprecationWarning, match=r"old_name is deprecated in 1\.0; use new_name"):
        assert old_name(3) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert old_name(4) == 4


def test_stages_on_threads_of_their_own() -> None:
    calls: queue.Queue[Any] = queue.Queue()
    answers: queue.Queue[Any] = queue.Queue()
    local, end = threading.local(), threading.Event()
    handle = lambda data: (local.micro_batch_idx, data * 2)  # noqa: E731
    worker = WorkerThread(end, threading.Thread(target=execute_call, args=(calls, answers, handle, local, end)))
    worker.thread.start()
    calls.put((7, 4))
    assert answers.get(timeout=10) == (7, (7, 8))
    worker.event.set()
    worker.thread.join(10)
    assert not worker.thread.is_alive()
