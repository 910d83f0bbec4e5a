"""Parameters of the management API: from the query, or from a JSON body, read as leniently as TorchServe reads them.

In a query an integer that does not parse counts as not given, and a boolean is true only as the word `true`. In a JSON body a
value of the wrong type is refused with its name (TorchServe answers with a Java exception).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any

import falcon
import orjson

from ....core.errors import InvalidParameter, InvalidRequest
from ...repository.torchserve.registration import Registration
from ..wsgi import body_of
from .body import query

_INTEGER = re.compile(r"[+-]?[0-9]{1,10}", re.ASCII)
RUNTIMES = ("python", "python3", "LSP")
INTEGERS = ("batch_size", "max_batch_delay", "initial_workers", "response_timeout", "startup_timeout")
#: Integers that stand for "not given" in TorchServe's query.
UNSET = {"batch_size": -1, "max_batch_delay": -100, "response_timeout": -1, "startup_timeout": -1}


def integer(parameters: Mapping[str, str], name: str, default: int) -> int:
    """A 32-bit integer of the query, or the default where there is none or it does not parse."""
    text = parameters.get(name, "")
    if not _INTEGER.fullmatch(text) or not -(2**31) <= int(text) < 2**31:
        return default
    return int(text)


def boolean(parameters: Mapping[str, str], name: str, default: bool) -> bool:
    return parameters[name].lower() == "true" if name in parameters else default


def registration(req: falcon.Request) -> Registration:
    """What POST /models asks for. With a JSON content type the body counts and the query does not."""
    mime = (req.content_type or "").partition(";")[0].strip().lower()
    spec = _from_json(bytes(body_of(req))) if mime == "application/json" else _from_query(query(req.query_string))
    if spec.runtime is not None and spec.runtime not in RUNTIMES:
        raise InvalidParameter("runtime", spec.runtime, f"one of {', '.join(RUNTIMES)}")
    return spec


def _from_query(given: Mapping[str, str]) -> Registration:
    if "url" not in given:
        raise InvalidParameter("url", None, "a file in the model store, an absolute path or a URL")
    numbers = {name: _given(given, name) for name in INTEGERS}
    return Registration(
        url=given["url"],
        model_name=given.get("model_name") or None,
        runtime=given.get("runtime"),
        handler=given.get("handler") or None,
        synchronous=boolean(given, "synchronous", True),
        s3_sse_kms=boolean(given, "s3_sse_kms", False),
        **numbers,
    )


def _given(given: Mapping[str, str], name: str) -> int | None:
    unset = UNSET.get(name, -(2**31))
    number = integer(given, name, unset)
    return None if number == unset else number


def _from_json(body: bytes) -> Registration:
    try:
        document = orjson.loads(body.removeprefix(codecs.BOM_UTF8))  # which some clients on Windows send
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object")
    given = {name: value for name, value in document.items() if value is not None}
    if "url" not in given:
        raise InvalidParameter("url", None, "a file in the model store, an absolute path or a URL")
    return Registration(
        url=_text(given, "url") or "",
        model_name=_text(given, "model_name") or None,
        runtime=_text(given, "runtime"),
        handler=_text(given, "handler") or None,
        synchronous=_flag(given, "synchronous", True),
        s3_sse_kms=_flag(given, "s3_sse_kms", False),
        **{name: _number(given, name) for name in INTEGERS},
    )


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is None or isinstance(value, str):
        return value
    raise InvalidParameter(name, str(value), "a string")


def _number(given: Mapping[str, Any], name: str) -> int | None:
    value = given.get(name)
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as Gson reads 4.0
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31):
        return None if value == UNSET.get(name) else value
    raise InvalidParameter(name, str(value), "an integer")


def _flag(given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name, default)
    if isinstance(value, str):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise InvalidParameter(name, str(value), "true or false")
