"""Where replicas and ingresses of an application meet: Ray's key-value store, which its head node keeps."""

from __future__ import annotations

import msgspec
from ray.experimental import internal_kv

from .record import Record

_NAMESPACE = b"jitney"


class Directory:
    """The replicas of one application, by name."""

    def __init__(self, application: str) -> None:
        self._prefix = f"{application}/".encode()

    def put(self, name: str, record: Record) -> None:
        internal_kv._internal_kv_put(self._prefix + name.encode(), msgspec.json.encode(record), namespace=_NAMESPACE)

    def remove(self, name: str) -> None:
        internal_kv._internal_kv_del(self._prefix + name.encode(), namespace=_NAMESPACE)

    def all(self) -> dict[str, Record]:
        found = {}
        for key in internal_kv._internal_kv_list(self._prefix, namespace=_NAMESPACE):
            value = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
            if value is not None:  # gone in the meantime
                found[key[len(self._prefix) :].decode()] = msgspec.json.decode(value, type=Record)
        return found
