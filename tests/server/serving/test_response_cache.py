"""The response cache: what is kept, how it is found, and its bound."""

from __future__ import annotations

import numpy as np
import pytest

from jitney.core.call import Call
from jitney.core.errors import ModelFailed
from jitney.core.model_config import ModelConfig
from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor
from jitney.server.metrics.statistics import Statistics
from jitney.server.serving.response_cache import ENTRY_OVERHEAD, ResponseCache, answer_from, cache_key, new_generation


def request(value: float, name: str = "x") -> Request:
    return Request(tensors=[Tensor.from_numpy(name, np.array([value], np.float32))])


def answer(size: int) -> Response:
    return Response([Tensor("y", "UINT8", (size,), bytes(size))])


def test_a_key_tells_requests_apart() -> None:
    base = cache_key("m", "1", 1, request(1.0))
    assert cache_key("m", "1", 1, request(1.0)) == base
    others = [
        cache_key("m", "1", 1, request(2.0)),
        cache_key("m", "1", 1, request(1.0, "z")),
        cache_key("m", "2", 1, request(1.0)),
        cache_key("m", "1", 2, request(1.0)),
        cache_key("n", "1", 1, request(1.0)),
        cache_key("m", "1", 1, Request(tensors=request(1.0).tensors, outputs=("y",))),
        cache_key("m", "1", 1, Request(tensors=[Tensor("x", "INT32", (1,), request(1.0).tensors[0].data)])),
    ]
    assert base not in others
    assert len(set(others)) == len(others)


def test_the_least_recently_used_answer_goes_first() -> None:
    cache = ResponseCache(3 * (ENTRY_OVERHEAD + 100))
    for key in (b"a", b"b", b"c"):
        assert cache.put(key, answer(100))
    assert cache.get(b"a") is not None
    cache.put(b"d", answer(100))
    assert cache.get(b"b") is None
    assert [cache.get(key) is not None for key in (b"a", b"c", b"d")] == [True, True, True]
    assert cache.evictions == 1
    assert cache.used <= cache.limit


def test_an_answer_larger_than_the_cache_is_not_kept() -> None:
    cache = ResponseCache(1000)
    assert not cache.put(b"a", answer(1000))
    assert len(cache) == 0


def test_a_newer_answer_takes_the_place_of_an_older_one() -> None:
    cache = ResponseCache(10_000)
    cache.put(b"a", answer(10))
    cache.put(b"a", answer(20))
    assert (len(cache), cache.used) == (1, ENTRY_OVERHEAD + 20)


def test_an_answer_is_kept_unless_it_is_an_error_and_serves_the_same_load_only() -> None:
    cache, config = ResponseCache(10_000), ModelConfig("m", "1", "python")
    statistics, first, second = Statistics(config), new_generation(), new_generation()

    def ask(generation: int) -> tuple[Call, bool]:
        call = Call(request(1.0), config)
        return call, answer_from(cache, call, config, generation, statistics)

    failing, found = ask(first)
    failing.fail(ModelFailed("not now"))
    assert not found
    with pytest.raises(ModelFailed):
        failing.result(0)
    missing, found = ask(first)
    given = answer(10)
    missing.answer(given)
    assert (missing.result(0) is given, found) == (True, False)
    hitting, found = ask(first)
    assert (hitting.result(0) is given, found) == (True, True)
    assert not ask(second)[1]
    assert (cache.hits, cache.misses) == (1, 3)
