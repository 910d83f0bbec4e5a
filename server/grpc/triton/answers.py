"""What a stream makes of models' answers: responses and errors, the last word on a request, their texts."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from ....core.call import failed
from ....core.call import only as only_response
from ....core.errors import JitneyError
from ....core.request import Response
from ..calls import INTERNAL
from . import errors

log = logging.getLogger(__name__)

Answer = Response | JitneyError


def only(answers: Iterable[Answer]) -> Answer:
    """What a model that gives one answer has given; it is the last word on its request."""
    given = list(answers)
    try:
        error = next((answer for answer in given if isinstance(answer, JitneyError)), None)
        return error or msgspec.structs.replace(only_response([a for a in given if isinstance(a, Response)]), final=True)
    except JitneyError as raised:
        return raised


def is_last(answer: Answer) -> bool:
    return isinstance(answer, JitneyError) or answer.final


def error_of(answer: Answer) -> JitneyError | None:
    if isinstance(answer, JitneyError):
        return answer
    return failed(answer.error) if answer.error is not None else None


def text(answer: Answer, request_id: str) -> str:
    error = error_of(answer)
    return errors.status_of(error, request_id)[1] if error is not None else ""


def told(error: Exception) -> JitneyError:
    if isinstance(error, JitneyError):
        return error
    log.error("a request of a stream failed", exc_info=error)
    return JitneyError(INTERNAL)
