"""Every class of error that a client or an operator may meet, and what it is in each dialect."""

from __future__ import annotations

import inspect
from typing import Any

from ....core import errors
from ....core.errors import JitneyError
from ....server.grpc.triton import errors as triton_grpc
from ....server.http.kserve import errors as kserve
from ....server.http.torchserve import errors as torchserve
from . import table

HEAD = ("error", "what it means", "TorchServe's routes", "KServe v2", "gRPC")
#: Of arguments that decide about the status: those that most errors of the class have.
_USUAL = {"kind": "damaged", "exit_code": 1, "code": "INTERNAL", "value": "x"}
#: They end the start, or a registration's own thread, and reach no client as they are.
_FOR_OPERATORS = (errors.NothingAnswers,)


def classes() -> list[type[JitneyError]]:
    """The classes of core/errors.py that clients may meet, in its order."""
    found = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, JitneyError)]
    return [each for each in found if each is not JitneyError and not issubclass(each, _FOR_OPERATORS)]


def example(kind: type[JitneyError]) -> JitneyError:
    """An error of this class, with arguments of the kind that most have."""
    if "__init__" not in vars(kind) and kind.__init__ is Exception.__init__:
        return kind("m")
    wanted = list(inspect.signature(kind).parameters.values())
    needed = [each for each in wanted if each.default is inspect.Parameter.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    return kind(*(_argument(each) for each in needed)) if needed else kind("m")


def _argument(parameter: inspect.Parameter) -> Any:
    return _USUAL.get(parameter.name, 2 if "int" in str(parameter.annotation) else "m")


def error_classes() -> str:
    rows = []
    for kind in classes():
        error = example(kind)
        found = torchserve.problem(error)
        status, _ = kserve.describe(error)
        code, _ = triton_grpc.status_of(error)
        about = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
        rows.append((kind.__name__, about, f"{found.code} {found.type}", str(status), code))
    return table(HEAD, rows)
