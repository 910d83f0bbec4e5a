"""Handlers of the calls that the scheduler answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import orjson
from google.protobuf import json_format

from ...core.errors import JitneyError
from .calls import Services, StatusOf, abort, reason_metadata
from .guard import Guard
from .relay import Asked
from .schema import Method


def relayed(
    services: Services, control: str, guard: Guard, method: Method, status_of: StatusOf, *, slow: bool = False
) -> Callable[[Any, Any], Any]:
    """The handler of a call that this `control` answers; `slow`: it may take as long as a model needs to load."""
    name = method.path.rpartition("/")[2]

    async def answer(request: Any, context: Any) -> Any:
        try:
            guard.check(context.invocation_metadata() or ())
            document = orjson.dumps(json_format.MessageToDict(request, preserving_proto_field_name=True))
            told = await services.relay.ask(Asked(control, name, document, context.peer()), slow=slow)
        except JitneyError as error:
            await abort(context, error, status_of, method.path)
            raise
        if told.status != "OK":
            await context.abort(grpc.StatusCode[told.status], told.text, reason_metadata(told.reason))
        return json_format.ParseDict(orjson.loads(told.document), method.response(), ignore_unknown_fields=True)

    return answer
