"""A codec of the user's own: what it sees, what it may return, and how its mistakes are told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.codecs import Codec, create
from jitney.codecs.own import with_source
from jitney.core.call import HEAVY, Call
from jitney.core.errors import InvalidConfig, InvalidRequest, ModelFailed, Unsupported
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Part, Response
from jitney.core.tensor import Tensor

X, TEXT = TensorSpec("x", "FP32", (2,)), TensorSpec("text", "BYTES", (1,))
SEES = """
def decode(request):
    return [len(request.body), len(request.fields)]

def encode(outputs, request):
    return {"body": request.body.decode(), "type": request.content_type, "a": request.headers.get("a"),
            "fields": {name: [field.data.decode(), field.content_type] for name, field in request.fields.items()}}
"""
Make = Callable[..., Codec]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(
        source: str, *inputs: TensorSpec, batch: int = 8, codec: str = "codec.py", file: str = "m/1/codec.py"
    ) -> Codec:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(source)
        (tmp_path / "m/1").mkdir(parents=True, exist_ok=True)
        folders: dict[str, Any] = {"directory": str(tmp_path / "m"), "version_directory": str(tmp_path / "m/1")}
        return create(ModelConfig("m", "1", "python", max_batch_size=batch, inputs=inputs or (X,), codec=codec, **folders))

    return build


def functions(decode: str = "[1, 2]", encode: str = "None", before: str = "") -> str:
    return f"{before}\ndef decode(request):\n    return {decode}\ndef encode(outputs, request):\n    return {encode}\n"


def decoded(codec: Codec, body: bytes = b"abc") -> dict[str, Any]:
    return {tensor.name: tensor.numpy().tolist() for tensor in codec.decode([Part("body", body)], {})}


def answered(codec: Codec, *tensors: Tensor) -> Response:
    _, encode = codec.read([Part("body", b"abc")], {})
    return encode(Response(tensors=list(tensors)))


class TestRequest:
    def test_a_body(self, make: Make) -> None:
        tensors, encode = make(SEES).read([Part("body", memoryview(b"abc"), "text/plain")], {"a": "b"})
        assert tensors[0].numpy().tolist() == [[3, 0]]
        seen = json.loads(bytes(encode(Response()).body or b""))
        assert seen == {"body": "abc", "type": "text/plain", "a": "b", "fields": {}}

    def test_a_form(self, make: Make) -> None:
        _, encode = make(SEES).read([Part("data", b"d", "image/png"), Part("k", b"3")], {})
        seen = json.loads(bytes(encode(Response()).body or b""))
        assert (seen["body"], seen["type"]) == ("d", "image/png")
        assert seen["fields"] == {"data": ["d", "image/png"], "k": ["3", ""]}

    def test_explanations_are_refused(self, make: Make) -> None:
        with pytest.raises(Unsupported):
            make(SEES).decode([Part("body", b"x")], {"explain": "True"})


class TestDecode:
    @pytest.mark.parametrize(
        ("returned", "expected"),
        [
            ("[1, 2]", {"x": [[1, 2]]}),
            ("np.array([1, 2], np.uint8)", {"x": [[1, 2]]}),
            ("{'x': np.ones((3, 2))}", {"x": [[1, 1]] * 3}),
            ("[np.ones(2), (0, 0)]", {"x": [[1, 1], [0, 0]]}),
        ],
    )
    def test_numbers(self, make: Make, returned: str, expected: dict[str, Any]) -> None:
        assert decoded(make(functions(returned, before="import numpy as np"))) == expected

    @pytest.mark.parametrize(
        ("returned", "expected"),
        [
            ("request.body", [[b"abc"]]),
            ("'é'", [["é".encode()]]),
            ("{'text': [request.body, 'b']}", [[b"abc"], [b"b"]]),
            ("np.array([['a'], ['b']])", [[b"a"], [b"b"]]),
            ("memoryview(b'ab')", [[b"ab"]]),
        ],
    )
    def test_texts_and_bytes(self, make: Make, returned: str, expected: Any) -> None:
        assert decoded(make(functions(returned, before="import numpy as np"), TEXT)) == {"text": expected}

    @pytest.mark.parametrize(
        ("returned", "words"),
        [
            ("[1, 2, 3]", "expected [-1, 2]"),
            ("{'y': [1, 2]}", "unexpected input 'y'"),
            ("{}", "input 'x' is missing"),
            ("None", "found null"),
            ("'text'", "found text"),
        ],
    )
    def test_a_misfit_is_the_codecs_mistake(self, make: Make, returned: str, words: str) -> None:
        with pytest.raises(ModelFailed) as caught:
            decoded(make(functions(returned)))
        assert "codec 'codec.py'" in str(caught.value) and words in str(caught.value)

    def test_a_value_error_refuses_the_request(self, make: Make) -> None:
        source = "def decode(request):\n    raise ValueError('no picture')\ndef encode(outputs, request):\n    pass\n"
        with pytest.raises(InvalidRequest, match=r"codec 'codec\.py' of model 'm': no picture"):
            decoded(make(source))

    @pytest.mark.parametrize("raised", ["KeyError('k')", "SystemExit(2)"])
    def test_any_other_error_is_named(self, make: Make, caplog: pytest.LogCaptureFixture, raised: str) -> None:
        source = f"def decode(request):\n    raise {raised}\ndef encode(outputs, request):\n    pass\n"
        with pytest.raises(ModelFailed) as caught:
            decoded(make(source))
        assert str(caught.value).startswith(f"codec 'codec.py' of model 'm' failed in decode: {raised.split('(')[0]}: ")
        assert caught.value.by_model and "Traceback" in caplog.text


class TestEncode:
    Y = Tensor.from_numpy("y", np.array([[1.5, 2]], np.float32))

    @pytest.mark.parametrize(
        ("returned", "body", "kind"),
        [
            ("outputs['y']", b"[[1.5,2.0]]", "application/json"),
            ("{'n': outputs['y'][0, 0], 't': (1, None)}", b'{"n":1.5,"t":[1,null]}', "application/json"),
            ("[float('nan')]", b"[NaN]", "application/json"),
            ("'é'", "é".encode(), "text/plain; charset=utf-8"),
            ("b'\\xff'", b"\xff", "application/octet-stream"),
            ("(b'\\x89PNG', 'image/png')", b"\x89PNG", "image/png"),
        ],
    )
    def test_answers(self, make: Make, returned: str, body: bytes, kind: str) -> None:
        response = answered(make(functions(encode=returned)), self.Y)
        assert (response.body, response.headers["content-type"]) == (body, kind)

    def test_outputs_of_every_kind(self, make: Make) -> None:
        texts = Tensor.from_numpy("t", np.array([[b"\xff"]], object))
        half = Tensor("b", "BF16", (1,), np.array([0x3FC0], "<u2").tobytes())
        source = functions(encode="[outputs['t'][0, 0][0], outputs['b'].tolist()]")
        assert answered(make(source), texts, half).body == b"[255,[1.5]]"

    @pytest.mark.parametrize("returned", ["object()", "(1, 'image/png')", "'\\ud800'", "{1: b''}"])
    def test_what_cannot_be_sent_is_named(self, make: Make, returned: str) -> None:
        with pytest.raises(ModelFailed, match=r"codec 'codec\.py' of model 'm': what encode returned") as caught:
            answered(make(functions(encode=returned)), self.Y)
        assert caught.value.code == "BAD_OUTPUT"

    def test_an_error_is_named(self, make: Make) -> None:
        with pytest.raises(ModelFailed, match=r"codec 'codec\.py' of model 'm' failed in encode: KeyError: 'z'"):
            answered(make(functions(encode="outputs['z']")), self.Y)

    def test_it_never_runs_on_the_thread_of_all_connections(self, make: Make) -> None:
        call = Call(None)  # type: ignore[arg-type]
        assert call.weight(7) == 7
        call.encode = make(functions()).read([Part("body", b"abc")], {})[1]
        assert call.weight(7) == HEAVY


class TestLoading:
    def test_the_versions_file_comes_before_the_models(self, make: Make) -> None:
        assert decoded(make(functions("[1, 1]"), file="m/codec.py")) == {"x": [[1, 1]]}
        assert decoded(make(functions("[2, 2]"), file="m/1/codec.py")) == {"x": [[2, 2]]}

    def test_a_folder_and_a_link_inside_of_the_model(self, make: Make, tmp_path: Path) -> None:
        assert decoded(make(functions(), codec="lib/a.py", file="m/lib/a.py")) == {"x": [[1, 2]]}
        (tmp_path / "m/1/link.py").symlink_to("../lib/a.py")
        assert decoded(make(functions(), codec="link.py", file="m/lib/a.py")) == {"x": [[1, 2]]}

    @pytest.mark.parametrize("codec", ["../outside.py", "/tmp/outside.py", "a/../../outside.py", "link.py"])
    def test_nothing_outside_of_the_model_runs(self, make: Make, tmp_path: Path, codec: str) -> None:
        (tmp_path / "m/1").mkdir(parents=True)
        (tmp_path / "m/1/link.py").symlink_to("../../outside.py")
        with pytest.raises(InvalidConfig, match="invalid path"):
            make("raise RuntimeError('ran')", codec=codec, file="outside.py")

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("def decode(request):\n    return 1\n", "it has no 'encode'"),
            ("decode = 1\n", "it has no 'decode'"),
            ("def decode(:\n", "SyntaxError"),
            ("import nosuchmodule\n", "ModuleNotFoundError: No module named 'nosuchmodule'"),
            ("import argparse; argparse.ArgumentParser().parse_args(['--x'])\n", "SystemExit: 2"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_named(self, make: Make, source: str, words: str) -> None:
        with pytest.raises(InvalidConfig) as caught:
            make(source)
        assert "codec 'codec.py'" in str(caught.value) and words in str(caught.value)

    def test_a_missing_file(self, make: Make) -> None:
        with pytest.raises(InvalidConfig, match="there is no such file in"):
            make("", codec="codex.py")

    def test_dataclasses_work_and_nothing_is_written(self, make: Make, tmp_path: Path) -> None:
        before = (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    b: int = 1\n"
        )
        assert decoded(make(functions("[A().b, 2]", before=before))) == {"x": [[1, 2]]}
        assert {path.name for path in tmp_path.rglob("*")} == {"m", "1", "codec.py"}

    def test_a_reloaded_file_is_read_anew_beside_the_old_one(self, make: Make) -> None:
        old = make(functions("[n, n]", before="n = 1"))
        new = make(functions("[n, n]", before="n = 2"))
        assert decoded(old) == {"x": [[1, 1]]} and decoded(new) == {"x": [[2, 2]]}

    def test_several_threads_share_one(self, make: Make) -> None:
        source = "import threading\ngate = threading.Barrier(2)\n" + functions("[gate.wait(10), 1]")
        codec, found = make(source), []
        threads = [threading.Thread(target=lambda: found.append(decoded(codec)["x"][0][0])) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(found) == [0, 1]


def test_what_was_read_at_the_load_is_what_runs(make: Make, tmp_path: Path) -> None:
    config = with_source(make(SEES, X).config)
    (tmp_path / "m/1/codec.py").write_text("no Python")
    codec = create(config)  # as a front end makes it, later and in another process
    assert codec.read([Part("body", b"abc")], {})[0][0].numpy().tolist() == [[3.0, 0.0]]
    with pytest.raises(InvalidConfig, match="SyntaxError"):
        create(with_source(config))
