"""The response cache (Triton's `response_cache`): answers kept by what was asked, bounded in bytes, oldest out first.

The key is the model, its version, the outputs wanted and every input's name, datatype, shape and bytes, hashed with SHA-256: two
different requests do not share an answer.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import OrderedDict

from ...core.call import Call
from ...core.errors import JitneyError
from ...core.model_config import ModelConfig
from ...core.request import Request, Response
from ..metrics.statistics import Statistics

#: Fixed cost charged for an entry besides its tensors: key, objects, names.
ENTRY_OVERHEAD = 512

_generations = itertools.count(1)


def new_generation() -> int:
    """What tells the cached answers of one load of a version from those of another."""
    return next(_generations)


class ResponseCache:
    """Answers of all models with `response_cache { enable: true }`. Thread-safe. `limit` in bytes.

    hits, misses                look-ups by how they ended
    lookup_ns, insertion_ns     nanoseconds that look-ups and insertions took in all
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.evictions = self.hits = self.misses = 0
        self.lookup_ns = self.insertion_ns = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, tuple[Response, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Response | None:
        began = time.monotonic_ns()
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(key)
            self.lookup_ns += time.monotonic_ns() - began
        return found[0] if found is not None else None

    def put(self, key: bytes, response: Response) -> bool:
        """Keeps a final, successful answer; False where it alone is over the limit."""
        size = ENTRY_OVERHEAD + sum(tensor.nbytes for tensor in response.tensors)
        if size > self.limit:
            return False
        began = time.monotonic_ns()
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self.used -= old[1]
            self._entries[key] = (response, size)
            self.used += size
            while self.used > self.limit:
                _, (_, freed) = self._entries.popitem(last=False)
                self.used -= freed
                self.evictions += 1
            self.insertion_ns += time.monotonic_ns() - began
        return True


def cache_key(model: str, version: str, generation: int, request: Request) -> bytes:
    """What a cached answer is found by; `generation` tells loads of the same version apart."""
    digest = hashlib.sha256(f"{model}\0{version}\0{generation}\0{sorted(request.outputs)}".encode())
    for tensor in sorted(request.tensors, key=lambda tensor: tensor.name):
        digest.update(f"\0{tensor.name}\0{tensor.datatype}\0{tensor.shape}\0{tensor.nbytes}\0".encode())
        digest.update(tensor.data)
    return digest.digest()


def answer_from(cache: ResponseCache, call: Call, config: ModelConfig, generation: int, statistics: Statistics) -> bool:
    """Answers the call from the cache, or arranges that its answer will be kept there; counts which."""
    began = time.monotonic_ns()
    key = cache_key(config.name, config.version, generation, call.request)
    found = cache.get(key)
    if found is not None:
        call.answer(found)
        statistics.cache_hit(call, time.monotonic_ns() - began)
        return True
    statistics.cache_miss(time.monotonic_ns() - began)
    deliver = call.on_answer or call.deliver

    def keep(answer: Response | JitneyError) -> None:
        if isinstance(answer, Response) and answer.final:
            cache.put(key, answer)
        deliver(answer)

    call.on_answer = keep
    return False
