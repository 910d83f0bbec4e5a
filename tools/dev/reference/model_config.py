"""Every field of config.pbtxt and how it is honoured: from the schema and the tables of the reader."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ....server.repository.triton.fields import REFUSED, WITHOUT_MEANING
from ....server.repository.triton.honoured import HONOURED, TENSORRT_ONLY
from ....server.repository.triton.pbtxt import map_value, schema
from . import table

#: The tables, and what a field of each of them is.
TABLES = (
    (REFUSED, "**refused**"),
    (TENSORRT_ONLY, "**refused** unless false"),
    (WITHOUT_MEANING, "without effect"),
    (HONOURED, "honoured"),
)


def leaves() -> Iterator[str]:
    """The paths of all fields of the schema that hold a value, in its order."""
    yield from _leaves(schema.ModelConfig.DESCRIPTOR, "")


def _leaves(message: Descriptor, prefix: str) -> Iterator[str]:
    for field in message.fields:
        inner = _inner(field)
        if inner is None or not inner.fields:
            yield prefix + field.name
        else:
            yield from _leaves(inner, f"{prefix}{field.name}.")


def _inner(field: FieldDescriptor) -> Descriptor | None:
    of = map_value(field) or field
    return of.message_type


def entry_of(path: str) -> tuple[str, str, str]:
    """The entry that holds for a field: its path, what becomes of the field, and the text. KeyError where there is none."""
    words = path.split(".")
    for length in range(len(words), 0, -1):
        name = ".".join(words[:length])
        for entries, kind in TABLES:
            if name in entries:
                return name, kind, entries[name]
    raise KeyError(path)


def model_config() -> str:
    """A row for each entry, in the schema's order; those of parameters come last."""
    entries = dict.fromkeys(entry_of(path) for path in leaves())
    keys = [(name, "**refused**", text) for name, text in REFUSED.items() if name.startswith("parameters.")]
    return table(("field", "", "how, or why not"), [(f"`{name}`", kind, text) for name, kind, text in [*entries, *keys]])
