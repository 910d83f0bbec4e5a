"""KServe's requests, in JSON and with binary tensors behind it: read or refused with a reason, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import JitneyError
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.tensor import DATATYPES
from jitney.server.http.kserve.errors import describe
from jitney.server.http.kserve.request import Reader, header_length, read_raw
from jitney.server.http.kserve.shm import ClientRegions
from jitney.server.serving.validation import validate

from .mutations import mutated

ODD: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-2, 3), max_size=3),
    st.just({}),
)
SIZES = st.lists(st.one_of(st.integers(0, 4), st.sampled_from((-1, 2**31, 2**32, 2**62, 2**63, 2**64))), max_size=4)


def nearly(**fields: Any) -> Any:
    """An object with these fields, some of which are missing or hold something else."""
    return st.fixed_dictionaries({}, optional={name: st.one_of(value, value, value, ODD) for name, value in fields.items()})


NAMES, TYPES = st.sampled_from(("x", "x", "x", "y", "")), st.sampled_from((*sorted(DATATYPES), "FP32", "FP32", "nonsense"))
PLACES = nearly(
    binary_data_size=st.sampled_from((0, 4, 8, 12, 2**40, -1)),
    shared_memory_region=st.just("r"),
    shared_memory_offset=st.integers(-1, 9),
    shared_memory_byte_size=st.integers(-1, 9),
)
VALUES = st.recursive(
    st.one_of(st.integers(-3, 300), st.floats(), st.text(max_size=3), st.booleans()), st.lists, max_leaves=9
)
DOCUMENTS = nearly(
    id=st.text(max_size=3),
    inputs=st.lists(nearly(name=NAMES, shape=SIZES, datatype=TYPES, data=VALUES, parameters=PLACES), max_size=3),
    outputs=st.lists(
        nearly(name=NAMES, parameters=nearly(classification=st.integers(-1, 5), binary_data=st.booleans())), max_size=2
    ),
    parameters=nearly(
        timeout=st.integers(-1, 2**70), priority=st.integers(-1, 2**70), sequence_id=st.integers(), own=st.text()
    ),
)
MODEL = ModelConfig(
    name="m",
    version="1",
    backend="python",
    max_batch_size=4,
    inputs=(TensorSpec("x", "FP32", (-1,)),),
    outputs=(TensorSpec("y", "FP32", (-1,)),),
)


def check(body: bytes, length: int | None) -> None:
    """Reads a request and checks it against a model; whatever is wrong is an error that has a status below 500."""
    try:
        found = Reader("m", body, length, ClientRegions()).read()
        for tensor in found.request.tensors:
            assert memoryview(tensor.data).nbytes <= len(body) * 16 + 64, "a tensor that is larger than what was sent"
        rows = validate(MODEL, found.request)
    except JitneyError as error:
        status, text = describe(error)
        assert 400 <= status < 500 and text
        return
    (tensor,) = found.request.tensors
    assert tensor.nbytes == int(np.prod(tensor.shape)) * 4 and rows == tensor.shape[0] <= 4


@given(DOCUMENTS, st.binary(max_size=16))
def test_a_document_that_is_nearly_right(document: Any, tail: bytes) -> None:
    head = json.dumps(document).encode()
    check(head, None)
    check(head + tail, len(head))


RIGHT = st.builds(
    lambda values: json.dumps(
        {"inputs": [{"name": "x", "shape": [1, len(values)], "datatype": "FP32", "data": values}]}
    ).encode(),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
)


@given(mutated(RIGHT), st.one_of(st.none(), st.integers(0, 80)))
def test_text_that_is_nearly_right(body: bytes, length: int | None) -> None:
    check(body, None if length is None else min(length, len(body)))


@given(st.text(max_size=12), st.integers(0, 100))
def test_any_header_length(value: str, size: int) -> None:
    try:
        found = header_length(value, size)
    except JitneyError as error:
        assert 400 <= describe(error)[0] < 500
        return
    assert found is not None and 0 <= found <= size


@given(st.binary(max_size=40))
def test_any_raw_body(body: bytes) -> None:
    try:
        found = read_raw(MODEL, body)
    except JitneyError as error:
        assert describe(error)[0] == 400 and len(body) % 4
        return
    assert bytes(found.request.tensors[0].data) == body
