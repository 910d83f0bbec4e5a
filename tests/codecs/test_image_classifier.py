"""image_classifier: what comes in, what goes out, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jitney.codecs import create
from jitney.codecs.base import Codec
from jitney.codecs.image import MAX_PIXELS
from jitney.codecs.transforms import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, Normalize, Resize
from jitney.core.errors import InvalidConfig, InvalidRequest, ModelFailed, Unsupported
from jitney.core.model_config import HandlerSpec, TensorSpec
from jitney.core.request import Part, Response
from jitney.core.tensor import Tensor


def reference(data: bytes, mode: str = "RGB") -> np.ndarray:
    image = CenterCrop(224)(Resize(256)(Image.open(io.BytesIO(data)).convert(mode)))
    return Normalize(IMAGENET_MEAN, IMAGENET_STD)(image)


def decode(codec: Codec, data: Any, content_type: str = "", name: str = "body") -> Tensor:
    (tensor,) = codec.decode([Part(name, data, content_type)], {})
    return tensor


def scores(*values: float, shape: tuple[int] | None = None) -> Response:
    array = np.array(values, np.float32)
    return Response(tensors=[Tensor.from_numpy("scores", array.reshape(shape or (1, -1)))])


class TestDecode:
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
    def test_image_bytes(self, classifier_config: Callable[..., Any], picture: Callable[..., Any], form: str) -> None:
        data = picture(300, 270, form=form)
        tensor = decode(create(classifier_config()), data)
        assert (tensor.name, tensor.datatype, tensor.shape) == ("pixels", "FP32", (1, 3, 224, 224))
        assert np.array_equal(tensor.numpy()[0], reference(data))

    def test_views_of_memory_and_the_data_field(
        self, classifier_config: Callable[..., Any], picture: Callable[..., Any]
    ) -> None:
        data = picture(230, 230)
        tensor = decode(create(classifier_config()), memoryview(bytearray(data)), name="data")
        assert np.array_equal(tensor.numpy()[0], reference(data))

    def test_base64_as_text_and_as_json_string(
        self, classifier_config: Callable[..., Any], picture: Callable[..., Any]
    ) -> None:
        data, codec = picture(230, 230), create(classifier_config())
        text = base64.encodebytes(data)
        for tensor in (
            decode(codec, text, "text/plain"),
            decode(codec, json.dumps(text.decode()).encode(), "application/json"),
        ):
            assert np.array_equal(tensor.numpy()[0], reference(data))

    def test_a_json_list_is_the_tensor(self, classifier_config: Callable[..., Any]) -> None:
        codec = create(classifier_config((1, 2, 2), parameters={"image_mode": "L", "resize": "0", "crop": "2"}))
        tensor = decode(codec, b"[[[1, 2.5], [3, 4]]]", "application/json")
        assert tensor.numpy().tolist() == [[[[1, 2.5], [3, 4]]]]

    @pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
    def test_other_modes_become_rgb(
        self, classifier_config: Callable[..., Any], picture: Callable[..., Any], mode: str
    ) -> None:
        data = picture(230, 240, mode, "TIFF")
        assert np.array_equal(decode(create(classifier_config()), data).numpy()[0], reference(data))

    def test_palette_with_transparency(self, classifier_config: Callable[..., Any], picture: Callable[..., Any]) -> None:
        out = io.BytesIO()
        image = Image.open(io.BytesIO(picture(230, 230))).convert("P")
        image.save(out, "PNG", transparency=bytes([10] * 256))
        tensor = decode(create(classifier_config()), out.getvalue())
        assert np.array_equal(tensor.numpy()[0], reference(_png(image.convert("RGB"))))

    def test_sixteen_bit_grey_is_scaled_not_clipped(self, classifier_config: Callable[..., Any]) -> None:
        codec = create(classifier_config((1, 1, 2), parameters={"image_mode": "L", "resize": "0", "crop": "1,2"}))
        image = Image.fromarray(np.array([[0x0100, 0xFF00]], np.uint16))
        assert np.allclose(decode(codec, _png(image)).numpy(), [[[[1 / 255, 1.0]]]])

    def test_grey_models_and_sizes_from_parameters(
        self, classifier_config: Callable[..., Any], picture: Callable[..., Any]
    ) -> None:
        parameters = {"image_mode": "L", "resize": "8", "crop": "0", "mean": "0", "std": "0.0625"}
        tensor = decode(create(classifier_config((1, 8, 8), parameters=parameters)), _png(Image.new("L", (28, 28), 255)))
        assert tensor.shape == (1, 1, 8, 8)
        assert np.allclose(tensor.numpy(), 16.0)

    def test_without_a_batch_axis_and_in_half_precision(
        self, classifier_config: Callable[..., Any], picture: Callable[..., Any]
    ) -> None:
        config = classifier_config(max_batch_size=0, inputs=(TensorSpec("pixels", "FP16", (3, -1, -1)),))
        tensor = decode(create(config), picture(230, 230))
        assert (tensor.datatype, tensor.shape) == ("FP16", (3, 224, 224))

    def test_an_archive_that_declares_nothing(
        self, classifier_config: Callable[..., Any], picture: Callable[..., Any]
    ) -> None:
        assert decode(create(classifier_config(inputs=(), outputs=())), picture(9, 9)).name == "INPUT__0"


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "content_type", "words"),
        [
            (b"not an image", "", "cannot decode the image: 12 bytes"),
            (b"", "", "body is empty"),
            (b"!", "text/plain", "not base64"),
            (b"caf\xe9", "text/plain", "cannot decode the image"),
            (b'{"a": 1}', "application/json", "found a JSON dict"),
            (b"[1, 2]", "application/json", "of shape [2]"),
            (b"[[[1], [2, 3]]]", "application/json", "ragged"),
            (b'[[["a"]]]', "application/json", "expected numbers"),
            (b"[" * 100_000, "application/json", "not valid JSON"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "", "cannot decode the image"),
        ],
    )
    def test_input_is_named(self, classifier_config: Callable[..., Any], data: bytes, content_type: str, words: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            decode(create(classifier_config()), data, content_type)
        assert words in str(caught.value)

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_truncated_images(self, classifier_config: Callable[..., Any], picture: Callable[..., Any], form: str) -> None:
        data = picture(300, 300, form=form)
        with pytest.raises(InvalidRequest, match="cannot decode the image"):
            decode(create(classifier_config()), data[: len(data) // 2])

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks about damaged TIFF tags
    def test_every_truncation_is_an_invalid_request_or_an_image(
        self, classifier_config: Callable[..., Any], picture: Callable[..., Any]
    ) -> None:
        codec, refused = create(classifier_config()), 0
        for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF"):
            data = picture(12, 10, form=form)
            for end in range(1, len(data), 5):
                try:
                    decode(codec, data[:end])
                except InvalidRequest:
                    refused += 1
        assert refused > 50

    def test_no_part_of_a_known_name(self, classifier_config: Callable[..., Any]) -> None:
        with pytest.raises(InvalidRequest, match="'data', found fields: 'file'"):
            create(classifier_config()).decode([Part("file", b"x")], {})
        with pytest.raises(InvalidRequest, match=r"found fields: none; curl -d"):
            create(classifier_config()).decode([], {})

    @pytest.mark.parametrize("side", [9_500, 20_000])
    def test_decompression_bomb(self, classifier_config: Callable[..., Any], side: int) -> None:
        with pytest.raises(InvalidRequest, match=r"pixels|bomb"):
            decode(create(classifier_config()), _png_header(side, side))

    def test_max_image_pixels(self, classifier_config: Callable[..., Any], picture: Callable[..., Any]) -> None:
        codec = create(classifier_config(parameters={"max_image_pixels": "100"}))
        with pytest.raises(InvalidRequest, match="11 x 10 pixels; at most 100"):
            decode(codec, picture(11, 10))

    def test_extreme_proportions(self, classifier_config: Callable[..., Any]) -> None:
        with pytest.raises(InvalidRequest, match="would be resized to 256 x 12800000"):
            decode(create(classifier_config()), _png(Image.new("L", (1, 50_000))))

    def test_limit_can_be_lifted_as_in_torchserve(
        self, classifier_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        create(classifier_config(handler=HandlerSpec("image_classifier", limit_max_image_pixels=False)))
        assert Image.MAX_IMAGE_PIXELS is None
        with pytest.raises(InvalidRequest, match=f"at most {MAX_PIXELS}"):  # other models keep theirs
            decode(create(classifier_config()), _png_header(20_000, 20_000))

    def test_explanations(self, classifier_config: Callable[..., Any], picture: Callable[..., Any]) -> None:
        with pytest.raises(Unsupported, match="explanations"):
            create(classifier_config()).decode([Part("body", picture(9, 9))], {"explain": "True"})

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"parameters": {"image_mode": "BGR"}}, "'image_mode' is 'BGR'; expected RGB or L"),
            ({"parameters": {"topk": "0"}}, "'topk' is '0'"),
            ({"parameters": {"topk": "x"}}, "'topk' is 'x'"),
            ({"parameters": {"resize": "1,2,3"}}, "'resize'"),
            ({"parameters": {"mean": "nan,0,0"}}, "'mean'"),
            ({"parameters": {"std": "0"}}, "other than 0"),
            ({"parameters": {"softmax": "yes"}}, "true or false"),
            ({"parameters": {"crop": "100"}}, "makes tensors of [3, 100, 100]"),
            ({"parameters": {"image_mode": "L"}}, "makes tensors of [1, 224, 224]"),
            ({"inputs": (TensorSpec("x", "INT64", (3, 224, 224)),)}, "input 'x' is INT64"),
            ({"inputs": (TensorSpec("x", "FP32", (-1,)), TensorSpec("y", "FP32", (-1,)))}, "needs exactly one input"),
            ({"codec": "image_clasifier"}, "unknown codec 'image_clasifier'"),
        ],
    )
    def test_configuration_is_named(
        self, classifier_config: Callable[..., Any], changes: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(InvalidConfig) as caught:
            create(classifier_config(**changes))
        assert words in str(caught.value)


class TestEncode:
    def test_top_five_best_first_with_two_spaces(self, classifier_config: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "index_to_name.json").write_text('{"0": "cat", "1": ["n01", "dög"]}')
        codec = create(classifier_config(directory=str(tmp_path)))
        response = codec.encode(scores(1.0, 3.0, 2.0, -1.0, 0.0, -5.0))
        body = json.loads(bytes(response.body or b""))
        assert list(body) == ["dög", "2", "cat", "4", "3"]
        total = sum(math.exp(x) for x in (1, 3, 2, -1, 0, -5))
        assert body["cat"] == pytest.approx(math.exp(1) / total, rel=1e-6)
        assert bytes(response.body or b"") == json.dumps(body, indent=2).encode()
        assert response.headers == {}

    def test_fewer_classes_than_topk_without_softmax(self, classifier_config: Callable[..., Any]) -> None:
        codec = create(classifier_config(parameters={"softmax": "false", "topk": "9"}, max_batch_size=0))
        assert json.loads(bytes(codec.encode(scores(0.25, 0.75, shape=(2,))).body or b"")) == {"1": 0.75, "0": 0.25}

    def test_labels_of_the_output(self, classifier_config: Callable[..., Any]) -> None:
        outputs = (TensorSpec("scores", "FP32", (2,), labels=("no", "yes")),)
        answer = create(classifier_config(outputs=outputs)).encode(scores(0, 1))
        assert list(json.loads(bytes(answer.body or b""))) == [
            "yes",
            "no",
        ]

    def test_object_type_names(self, classifier_config: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "index_to_name.json").write_text('{"object_type_names": ["a", "b"]}')
        codec = create(classifier_config(version_directory=str(tmp_path)))
        assert list(json.loads(bytes(codec.encode(scores(0, 1)).body or b""))) == ["b", "a"]

    @pytest.mark.parametrize("text", ["[1]", "{", '{"x": "cat"}', '{"0": {}}', '{"0": []}'])
    def test_bad_label_files_are_refused(self, classifier_config: Callable[..., Any], tmp_path: Path, text: str) -> None:
        (tmp_path / "index_to_name.json").write_text(text)
        with pytest.raises(InvalidConfig, match=r"index_to_name\.json"):
            create(classifier_config(directory=str(tmp_path)))

    @pytest.mark.parametrize(
        "response",
        [
            Response(),
            Response(tensors=[Tensor.from_numpy("other", np.zeros((1, 2), np.float32))]),
            Response(tensors=[Tensor.from_numpy("scores", np.zeros((1, 2, 3), np.float32))]),
            Response(tensors=[Tensor.from_numpy("scores", np.array([["a"]]))]),
        ],
    )
    def test_outputs_that_do_not_fit(self, classifier_config: Callable[..., Any], response: Response) -> None:
        with pytest.raises(ModelFailed) as caught:
            create(classifier_config()).encode(response)
        assert caught.value.code == "BAD_OUTPUT"


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")
