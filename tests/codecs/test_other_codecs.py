"""image_segmenter, object_detector, text_classifier and the text steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.codecs import create
from jitney.codecs.base import Codec
from jitney.codecs.text import ngrams, words_of
from jitney.core.errors import InvalidConfig, InvalidRequest, ModelFailed
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Part, Response
from jitney.core.tensor import Tensor


def response(**arrays: Any) -> Response:
    return Response(tensors=[Tensor.from_numpy(name, np.asarray(array)) for name, array in arrays.items()])


class TestSegmenter:
    def test_class_and_probability_of_each_pixel(self, classifier_config: Callable[..., Any]) -> None:
        scores = np.zeros((1, 3, 1, 2), np.float32)
        scores[0, 2, 0, 0] = np.log(2)
        scores[0, 1, 0, 1] = 100
        body = json.loads(
            bytes(create(classifier_config(codec="image_segmenter")).encode(response(scores=scores)).body or b"")
        )
        assert body == [[[2.0, pytest.approx(0.5)], [1.0, pytest.approx(1.0)]]]

    def test_other_shapes(self, classifier_config: Callable[..., Any]) -> None:
        with pytest.raises(ModelFailed, match="expected shape"):
            create(classifier_config(codec="image_segmenter")).encode(response(scores=np.zeros((1, 3), np.float32)))


class TestDetector:
    def make(self, classifier_config: Callable[..., Any], **changes: Any) -> Codec:
        return create(classifier_config((3, -1, -1), codec="object_detector", outputs=(), **changes))

    def test_the_image_keeps_its_size(self, classifier_config: Callable[..., Any], picture: Callable[..., Any]) -> None:
        (tensor,) = self.make(classifier_config).decode([Part("body", picture(31, 17))], {})
        assert tensor.shape == (1, 3, 17, 31)
        assert tensor.numpy().min() >= 0
        assert tensor.numpy().max() <= 1

    @pytest.mark.parametrize("batched", [True, False])
    def test_boxes_over_the_threshold(self, classifier_config: Callable[..., Any], tmp_path: Path, batched: bool) -> None:
        (tmp_path / "index_to_name.json").write_text('{"1": "dog"}')
        arrays = {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]], "labels": [1, 7, 1], "scores": [0.75, 0.5, 0.25]}
        if batched:
            arrays = {name: [array] for name, array in arrays.items()}
        codec = self.make(classifier_config, directory=str(tmp_path), max_batch_size=8 if batched else 0)
        assert json.loads(bytes(codec.encode(response(**arrays)).body or b"")) == [
            {"dog": [1, 2, 3, 4], "score": 0.75},
            {"7": [5, 6, 7, 8], "score": 0.5},
        ]

    @pytest.mark.parametrize(
        "arrays",
        [
            {"boxes": [[1, 2, 3, 4]], "labels": [1]},
            {"boxes": [[1, 2, 3]], "labels": [1], "scores": [1.0]},
            {"boxes": [[1, 2, 3, 4]], "labels": [1, 2], "scores": [1.0, 2.0]},
            {"boxes": [[1, 2, 3, 4]], "labels": ["a"], "scores": [1.0]},
        ],
    )
    def test_outputs_that_do_not_fit(self, classifier_config: Callable[..., Any], arrays: dict[str, Any]) -> None:
        with pytest.raises(ModelFailed) as caught:
            self.make(classifier_config, max_batch_size=0).encode(response(**arrays))
        assert caught.value.code == "BAD_OUTPUT"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<p>Hello, <b>World</b>!</p>", ["hello", "world"]),
        ("It won't; they’ve said I'm café-bound", ["it", "will", "not", "they", "have", "said", "i", "am", "cafebound"]),
        ("couldn't've the dog's CAN'T", ["could", "not", "have", "the", "dogs", "cannot"]),
        ("Y'all ain't &quot;here&#39;s&quot; &#x27;", ["you", "all", "is", "not", "heres"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[Any]) -> None:
    assert words_of(text) == words


def test_ngrams() -> None:
    assert list(ngrams(["a", "b", "c"], 2)) == ["a", "b", "c", "a b", "b c"]
    assert list(ngrams(["a"], 3)) == ["a"]


VOCABULARY = {"<unk>": 9, "hello": 1, "world": 2, "hello world": 3}


class TestText:
    def make(self, tmp_path: Path, *inputs: TensorSpec, batch: int = 0, **parameters: str) -> Codec:
        (tmp_path / "source_vocab.json").write_text(json.dumps(VOCABULARY))
        return create(
            ModelConfig(
                "t",
                "1",
                "torchscript",
                directory=str(tmp_path),
                max_batch_size=batch,
                inputs=inputs,
                codec="text_classifier",
                parameters=parameters,
            )
        )

    def test_words_and_offsets(self, tmp_path: Path) -> None:
        codec = self.make(tmp_path, TensorSpec("words", "INT64", (-1,)), TensorSpec("offsets", "INT64", (1,)))
        words, offsets = codec.decode([Part("data", b"Hello, world! New")], {})
        assert words.numpy().tolist() == [1, 2, 9, 3, 9]
        assert (offsets.name, offsets.numpy().tolist()) == ("offsets", [0])

    def test_batched_words_from_a_text_file(self, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("<unk>\nhello\n")
        codec = self.make(tmp_path, TensorSpec("w", "INT32", (-1,)), batch=4, vocabulary="vocab.txt", ngrams="1")
        (words,) = codec.decode([Part("body", b'"hello you"', "application/json")], {})
        assert (words.datatype, words.numpy().tolist()) == ("INT32", [[1, 0]])

    def test_words_of_a_text_file_end_with_their_lines_alone(self, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_bytes("\ufeff<unk>\r\n\x85\r\n\u2028\r\nhello\r\n".encode())
        codec = self.make(tmp_path, TensorSpec("w", "INT32", (-1,)), batch=4, vocabulary="vocab.txt", ngrams="1")
        (words,) = codec.decode([Part("body", b"hello", "")], {})
        assert words.numpy().tolist() == [[3]]

    def test_all_classes_in_order(self, tmp_path: Path) -> None:
        body = json.loads(
            bytes(self.make(tmp_path).encode(response(scores=np.array([[0.0, np.log(3)]], np.float32))).body or b"")
        )
        assert list(body.items()) == [("0", pytest.approx(0.25)), ("1", pytest.approx(0.75))]

    @pytest.mark.parametrize(
        ("data", "kind", "words"), [(b"\xff", "", "UTF-8"), (b"[1]", "application/json", "list"), (b"?!", "", "no words")]
    )
    def test_refused(self, tmp_path: Path, data: bytes, kind: str, words: str) -> None:
        with pytest.raises(InvalidRequest, match=words):
            self.make(tmp_path).decode([Part("body", data, kind)], {})

    def test_unfit_models(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidConfig, match="INT32 or INT64"):
            self.make(tmp_path, TensorSpec("w", "FP32", (-1,)))
        with pytest.raises(InvalidConfig, match="max_batch_size must be 0"):
            self.make(tmp_path, TensorSpec("w", "INT64", (-1,)), TensorSpec("o", "INT64", (-1,)), batch=2)
        with pytest.raises(InvalidConfig, match=r"no vocabulary 'x\.txt'"):
            self.make(tmp_path, vocabulary="x.txt")
        (tmp_path / "latin1.txt").write_bytes("Düne".encode("latin-1"))
        with pytest.raises(InvalidConfig, match=r"latin1\.txt: not UTF-8"):
            self.make(tmp_path, vocabulary="latin1.txt")
        (tmp_path / "bad.json").write_text('{"a": "b"}')
        with pytest.raises(InvalidConfig, match="from word to index"):
            self.make(tmp_path, vocabulary="bad.json")
