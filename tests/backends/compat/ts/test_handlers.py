"""The default handlers with real small models, in this process; the image handlers against the server's codecs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from jitney.backends.compat.ts.context import Context, RequestProcessor
from jitney.backends.compat.ts.metrics import sink
from jitney.backends.compat.ts.torch_handler import loading
from jitney.backends.compat.ts.torch_handler.base_handler import BaseHandler
from jitney.backends.compat.ts.torch_handler.image_classifier import ImageClassifier
from jitney.backends.compat.ts.torch_handler.image_segmenter import ImageSegmenter
from jitney.backends.compat.ts.torch_handler.insights import IntegratedGradients, LayerIntegratedGradients
from jitney.backends.compat.ts.torch_handler.object_detector import ObjectDetector
from jitney.backends.compat.ts.torch_handler.text_classifier import TextClassifier
from jitney.backends.compat.ts.torch_handler.text_handler import CONTRACTION_MAP, CONTRACTIONS_PATTERN
from jitney.codecs import create
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Part, Response
from jitney.core.tensor import Tensor
from jitney.tests.fakes.handler_metrics import made_metrics

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def metrics(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(sink, "_emit", sent.append)
    return sent


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Any]:
    def make(model: dict[str, str], yaml: dict[str, Any] | None = None, *headers: dict[str, str]) -> Context:
        made = Context("net", str(tmp_path), {"model": model}, 8, None, "0.12.0", True, made_metrics("net"), yaml)
        made.request_processor = [RequestProcessor(each) for each in headers or ({},)]
        return made

    return make


@pytest.fixture
def jpeg() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((500, 333)).save(out, "JPEG", quality=90)
    return out.getvalue()


def script(path: Any, module: torch.nn.Module) -> None:
    torch.jit.script(module.eval()).save(str(path))  # type: ignore[no-untyped-call]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 7, stride=4)
        self.fc = torch.nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.fc(torch.relu(self.conv(x)).mean((2, 3))) * 20
        return scores


class Pixels(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": x[:, :, :2, :3]}


class Boxes(torch.nn.Module):
    def forward(self, x: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found: list[dict[str, torch.Tensor]] = []
        for image in x:
            size = torch.tensor([[0.0, 0.0, float(image.size(2)), float(image.size(1))]])
            found.append(
                {"boxes": torch.cat([size, size]), "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.3])}
            )
        return found


class Bag(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = torch.nn.EmbeddingBag(10, 4)
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, words: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.fc(self.embedding(words, offsets))
        return scores


SOURCE = """
import torch

class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(2, 3)
    def forward(self, x):
        return self.fc(x)
"""


EXPLAINED = """
import torch

class Topics(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.LAYER(10, 4)
        self.fc = torch.nn.Linear(4, 3)
    def forward(self, words, offsets):
        found = self.embedding(words, offsets) if "LAYER" == "EmbeddingBag" else self.embedding(words)
        return self.fc(found.tanh().sum(0, keepdim=True))
"""


class TestImages:
    def test_classifier_and_codec_give_the_same_answer(
        self, context: Callable[..., Any], tmp_path: Path, jpeg: bytes
    ) -> None:
        script(tmp_path / "model.pt", Net())
        (tmp_path / "index_to_name.json").write_text(json.dumps({str(i): [f"n{i}", f"name {i}"] for i in range(9)}))
        handler = ImageClassifier()
        handler.initialize(context({"serializedFile": "model.pt"}))
        (answer,) = handler.handle([{"data": bytearray(jpeg)}], handler.context)
        config = ModelConfig(
            "net",
            "1",
            "torchscript",
            directory=str(tmp_path),
            max_batch_size=8,
            codec="image_classifier",
            inputs=(TensorSpec("x", "FP32", (3, 224, 224)),),
            outputs=(TensorSpec("y", "FP32", (10,)),),
            parameters={"normalize_on_device": "false"},
        )
        codec = create(config)
        (tensor,) = codec.decode([Part("body", jpeg)], {})
        assert np.array_equal(handler.preprocess([{"body": jpeg}]).numpy(), tensor.numpy())
        with torch.inference_mode():
            scores = Net()(torch.from_numpy(tensor.numpy().copy()))
        encoded = json.loads(bytes(codec.encode(Response(tensors=[Tensor.from_numpy("y", scores.numpy())])).body or b""))
        assert list(answer) == list(encoded)
        assert len(answer) == 5
        assert list(answer.values()) == pytest.approx(list(encoded.values()), abs=1e-6)

    def test_base64_lists_grey_images_and_topk(self, context: Callable[..., Any], tmp_path: Path, jpeg: bytes) -> None:
        import base64

        script(tmp_path / "model.pt", Net())
        handler = ImageClassifier()
        handler.initialize(context({"serializedFile": "model.pt"}))
        handler.set_max_result_classes(2)
        out = io.BytesIO()
        Image.open(io.BytesIO(jpeg)).convert("L").save(out, "PNG")
        tensor = handler.preprocess([{"body": jpeg}])[0]
        rows = [
            {"data": jpeg},
            {"body": base64.b64encode(jpeg).decode()},
            {"body": tensor.tolist()},
            {"body": out.getvalue()},
        ]
        answers = handler.handle(rows, handler.context)
        assert [len(answer) for answer in answers] == [2] * 4
        assert answers[1] == answers[0]
        assert answers[2] == pytest.approx(answers[0], abs=1e-6)
        assert handler.get_max_result_classes() == 2

    def test_explanations_without_captum(self, context: Callable[..., Any], tmp_path: Path, jpeg: bytes) -> None:
        script(tmp_path / "model.pt", Net())
        handler = ImageClassifier()
        handler.initialize(context({"serializedFile": "model.pt"}, None, {"explain": "True"}))
        (insights,) = handler.handle([{"data": jpeg, "target": bytearray(b"3")}], handler.context)
        x = handler.preprocess([{"data": jpeg}])
        model = Net()
        difference = float((model(x) - model(x * 0)).detach()[0, 3])  # what integrated gradients sum up to
        assert np.shape(insights) == (3, 224, 224)
        assert np.sum(insights) == pytest.approx(difference, rel=0.05)

    def test_segmenter(self, context: Callable[..., Any], tmp_path: Path, jpeg: bytes) -> None:
        script(tmp_path / "model.pt", Pixels())
        handler = ImageSegmenter()
        handler.initialize(context({"serializedFile": "model.pt"}))
        (answer,) = handler.handle([{"data": jpeg}], handler.context)
        assert np.shape(answer) == (2, 3, 2)
        scores = handler.preprocess([{"data": jpeg}])[0, :, 1, 2]
        assert answer[1][2] == [float(scores.argmax()), pytest.approx(float(scores.softmax(0).max()))]

    def test_detector_takes_images_of_different_sizes(
        self, context: Callable[..., Any], tmp_path: Path, jpeg: bytes
    ) -> None:
        script(tmp_path / "model.pt", Boxes())
        (tmp_path / "index_to_name.json").write_text('{"1": "dog"}')
        handler = ObjectDetector()
        handler.initialize(context({"serializedFile": "model.pt"}))
        out = io.BytesIO()
        Image.new("RGB", (7, 5)).save(out, "PNG")
        answers = handler.handle([{"data": jpeg}, {"data": out.getvalue()}], handler.context)
        assert answers == [
            [{"dog": [0, 0, 500, 333], "score": pytest.approx(0.9)}],
            [{"dog": [0, 0, 7, 5], "score": pytest.approx(0.9)}],
        ]


def test_integrated_gradients_of_a_linear_function_are_exact() -> None:
    weights = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    found = IntegratedGradients(lambda x: x @ weights.T).attribute(torch.tensor([[5.0, 7.0]]), target=1, n_steps=3)
    assert found.tolist() == [[pytest.approx(15.0), pytest.approx(-28.0)]]


class TestText:
    def test_every_request_of_a_batch(self, context: Callable[..., Any], tmp_path: Path) -> None:
        script(tmp_path / "model.pt", Bag())
        torch.save({"<unk>": 0, "good": 1, "film": 2, "good film": 3, "bad": 4}, tmp_path / "source_vocab.pt")
        (tmp_path / "index_to_name.json").write_text('{"0": "no", "1": "yes"}')
        handler = TextClassifier()
        handler.initialize(context({"serializedFile": "model.pt"}))
        answers = handler.handle([{"data": b"A <b>good</b> film!"}, {"body": "bad"}], handler.context)
        assert [list(answer) for answer in answers] == [["no", "yes", "2"]] * 2
        model = Bag()
        for answer, words in zip(answers, ([0, 1, 2, 0, 3], [4]), strict=True):
            expected = model(torch.tensor(words), torch.tensor([0])).softmax(1)[0].tolist()
            assert list(answer.values()) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(("layer", "rows"), [("EmbeddingBag", 1), ("Embedding", 3)])
    def test_explanations(self, context: Callable[..., Any], tmp_path: Path, layer: str, rows: int) -> None:
        """The documented kind sums its words up (one row of importances); another gives a row for each word and pair."""
        (tmp_path / "explained.py").write_text(EXPLAINED.replace("LAYER", layer))
        torch.save({"<unk>": 0, "quiet": 1, "market": 2, "quiet market": 3}, tmp_path / "source_vocab.pt")
        handler = TextClassifier()
        handler.initialize(context({"modelFile": "explained.py"}, None, {"explain": "True"}))
        (answer,) = handler.handle([{"data": "Quiet market!", "target": "1"}], handler.context)
        assert (answer["words"], np.shape(answer["importances"])) == (["quiet", "market"], (rows, 4))
        found = handler.lig.attribute(
            torch.tensor([1, 2, 3]), torch.zeros(3, dtype=torch.int64), 1, additional_forward_args=torch.tensor([0])
        )
        scores = [handler.model(torch.tensor(words), torch.tensor([0]))[0, 1] for words in ([1, 2, 3], [0, 0, 0])]
        assert float(found.sum()) == pytest.approx((scores[0] - scores[1]).item(), rel=1e-4)
        shares = found.softmax(1)
        assert np.allclose(answer["importances"], (shares / shares.sum(-1).norm()).tolist(), atol=1e-6)
        del sys.modules["explained"]

    def test_explanations_need_the_layer_to_be_called(self, context: Callable[..., Any], tmp_path: Path) -> None:
        script(tmp_path / "model.pt", Net())
        torch.save(["<unk>"], tmp_path / "source_vocab.pt")
        handler = TextClassifier()
        handler.initialize(context({"serializedFile": "model.pt"}, None, {"explain": "True"}))
        with pytest.raises(RuntimeError, match="layer 'embedding'"):
            handler.handle([{"data": b"good"}], handler.context)
        unused = LayerIntegratedGradients(lambda words: words, torch.nn.Embedding(2, 2))
        with pytest.raises(RuntimeError, match="Embedding was not called by the model"):
            unused.attribute(torch.tensor([1]))

    def test_steps_of_a_text(self, context: Callable[..., Any]) -> None:
        handler = TextClassifier()
        steps = (handler._remove_html_tags, handler._expand_contractions, handler._remove_puncutation, handler._tokenize)
        text: Any = "<b>Don't</b> &amp; can't've, it's"
        for step in steps:
            text = step(text)
        assert text == ["do", "not", "cannot", "have", "it", "is"]
        assert CONTRACTION_MAP["shan't've"] == "shall not have" and CONTRACTION_MAP["I'd"] == "I would"
        assert CONTRACTIONS_PATTERN.sub("_", "we can't've it") == "we _ it"

    def test_vocabulary_is_required(self, context: Callable[..., Any], tmp_path: Path) -> None:
        script(tmp_path / "model.pt", Bag())
        with pytest.raises(FileNotFoundError, match=r"source_vocab\.pt"):
            TextClassifier().initialize(context({"serializedFile": "model.pt"}))


class TestLoading:
    @pytest.mark.parametrize("form", ["w.pt", "w.pth", "w.safetensors"])
    def test_module_and_state_dict(self, context: Callable[..., Any], tmp_path: Path, form: str) -> None:
        (tmp_path / "linear_source.py").write_text(SOURCE)
        state = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.tensor([0.0, 1.0, 2.0])}
        save_file(state, tmp_path / form) if form.endswith("safetensors") else torch.save(state, tmp_path / form)
        handler = BaseHandler()
        handler.initialize(context({"modelFile": "linear_source.py", "serializedFile": form}))
        assert handler.handle([[1.0, 2.0], [0.0, 0.0]], handler.context) == [[3, 4, 5], [0, 1, 2]]
        assert (handler.initialized, handler.mapping, str(handler.device)) == (True, None, "cpu")

    def test_a_pickle_of_code_is_refused(self, context: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "linear_source.py").write_text(SOURCE)
        torch.save(Net(), tmp_path / "w.pth")
        with pytest.raises(RuntimeError, match="holds more than tensors"):
            BaseHandler().initialize(context({"modelFile": "linear_source.py", "serializedFile": "w.pth"}))

    def test_one_class_is_expected(self, context: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "two_source.py").write_text("class A: pass\nclass B: pass\n")
        with pytest.raises(ValueError, match=r"Expected only one class.*A, B"):
            BaseHandler().initialize(context({"modelFile": "two_source.py"}))
        with pytest.raises(RuntimeError, match="lacks its modelFile"):
            BaseHandler().initialize(context({"modelFile": "none.py"}))

    def test_nothing_to_load(self, context: Callable[..., Any]) -> None:
        with pytest.raises(RuntimeError, match=r"No model weights could be loaded: serializedFile is 'x\.bin'"):
            BaseHandler().initialize(context({"serializedFile": "x.bin"}))

    def test_onnx_runs_in_the_base_handler(self, context: Callable[..., Any], tmp_path: Path) -> None:
        def values(name: str) -> Any:
            return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 2])

        nodes = [onnx.helper.make_node("Add", ["a", "a"], ["c"]), onnx.helper.make_node("Neg", ["a"], ["d"])]
        for name, outputs in (("one.onnx", ["c"]), ("two.onnx", ["c", "d"])):
            graph = onnx.helper.make_graph(nodes, "g", [values("a")], [values(each) for each in outputs])
            onnx.save(
                onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9),
                tmp_path / name,
            )
        handler = BaseHandler()
        handler.initialize(context({"serializedFile": "one.onnx"}))
        assert handler.handle([[1.0, 2.0]], handler.context) == [[2, 4]]
        handler.initialize(context({"serializedFile": "two.onnx"}))
        outputs = handler.inference({"a": torch.ones(1, 2)})
        assert [output.tolist() for output in outputs] == [[[2, 2]], [[-1, -1]]]
        with pytest.raises(ValueError, match=r"1 inputs \(a\), got 2"):
            handler.inference([torch.ones(1, 2)] * 2)

    @pytest.mark.parametrize(
        ("yaml", "expected"),
        [
            ({}, None),
            ({"pt2": "inductor"}, {"backend": "inductor"}),
            ({"pt2": {"backend": "eager", "mode": "x"}}, {"backend": "eager", "mode": "x"}),
            ({"pt2": {"compile": {"enable": True, "backend": "eager"}}}, {"backend": "eager"}),
            ({"pt2": {"compile": {"enable": True}}}, {}),
            ({"pt2": {"compile": {"enable": False, "backend": "eager"}}}, None),
            ({"pt2": {"export": {"aot_compile": True}}}, None),
            ({"pt2": "nonsense"}, None),
        ],
    )
    def test_compile_arguments(self, yaml: dict[Any, Any], expected: dict[Any, Any] | None) -> None:
        assert loading.compile_arguments(yaml) == expected

    def test_compiled_model(self, context: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "linear_source.py").write_text(SOURCE)
        handler = BaseHandler()
        handler.initialize(
            context({"modelFile": "linear_source.py"}, {"pt2": {"compile": {"enable": True, "backend": "eager"}}})
        )
        assert type(handler.model).__name__ == "OptimizedModule"
        assert np.shape(handler.handle([[1.0, 2.0]], handler.context)) == (1, 3)

    def test_a_compilation_that_fails_leaves_the_model(self) -> None:
        model = torch.nn.Linear(1, 1)
        assert loading.compile_model(model, {"pt2": {"backend": "eager", "no_such_argument": 1}}) is model


def test_profiled_steps_are_metrics(context: Callable[..., Any], tmp_path: Path, metrics: list[Any]) -> None:
    (tmp_path / "linear_source.py").write_text(SOURCE)
    handler = BaseHandler()
    handler.initialize(context({"modelFile": "linear_source.py"}, {"handler": {"profile": True}}))
    handler.handle([[1.0, 2.0]], handler.context)
    steps = ("preprocess", "inference", "postprocess")
    assert [metric["name"] for metric in metrics] == [*(f"ts_handler_{step}" for step in steps), "HandlerTime"]


def test_descriptions_and_missing_explanations(context: Callable[..., Any]) -> None:
    handler = BaseHandler()
    assert handler.handle([{}], context({}, None, {"describe": "True"})) == [None]
    handler.device = "cpu"
    with pytest.raises(NotImplementedError, match="get_insights"):
        handler.handle([1.0], context({}, None, {"explain": "True"}))


class Busy(ImageClassifier):
    """Has no constructor of TorchServe's, and methods and attributes with names that come to mind."""

    def __init__(self) -> None:
        self._image = self._offsets = self._words = self._boxes = "mine"

    def initialize(self, context: Any) -> None:
        self._model_name = "mine"
        super().initialize(context)
        self.opened = self._load("labels.txt")

    def _load(self, path: str) -> str:
        return path

    def _answer(self, question: str) -> str:
        return question


def test_a_handler_may_use_any_name_for_itself(context: Callable[..., Any], tmp_path: Path, jpeg: bytes) -> None:
    script(
        tmp_path / "net.pt", torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    )
    handler, made = Busy(), context({"serializedFile": "net.pt", "modelName": "net"})
    handler.initialize(made)
    assert handler.opened == "labels.txt"
    (answer,) = handler.handle([{"data": jpeg}], made)
    assert len(answer) == 5
