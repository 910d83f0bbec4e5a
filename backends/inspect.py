"""What a model file says of its inputs and outputs, as JSON on stdout.

    python -m jitney.backends.inspect FILE --kind onnx|torchscript|exported
    python -m jitney.backends.inspect --many      {"file": FILE, "kind": …} a line in, {"found": …} or {"error": …} a line out

    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 224, 224]}], "outputs": [...]}

A size that the file leaves open is -1. TorchScript files declare argument names only; the rest is inferred
(`infer_shapes`), and where it cannot be, `datatype` is "" and `shape` null, as for packages of AOTInductor. Outputs of
TorchScript and `.pt2` files are called `OUTPUT__0`, `OUTPUT__1`, …, or by their keys where a program returns a dict. The
server runs this in a process of its own, so that it never imports torch or onnxruntime. Exit code 1 and a sentence on stderr
where the file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .extras import explain

Description = dict[str, list[dict[str, Any]]]
Tells = tuple[str, list[int] | None]
NOTHING: Tells = ("", None)


def describe(path: Path, kind: str) -> Description:
    """The inputs and outputs of the model in `path`; `kind` is one of `KINDS`."""
    return KINDS[kind](path)


def describe_onnx(path: Path) -> Description:
    """Reads an ONNX model through ONNX Runtime, without optimising it."""
    import onnxruntime as ort

    from .onnx import DATATYPES
    from .onnx_operators import with_extensions
    from .onnx_session import error_text

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        session = with_extensions(lambda: ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]), options)
    except Exception as error:
        raise ValueError(f"{path}: {error_text(error)}") from error

    def entry(item: Any) -> dict[str, Any]:
        if item.type not in DATATYPES:
            raise ValueError(f"{path}: '{item.name}' is {item.type}, which has no KServe v2 datatype{_cure(item.type)}")
        shape = None if item.shape is None else [size if isinstance(size, int) else -1 for size in item.shape]
        return {"name": item.name, "datatype": DATATYPES[item.type], "shape": shape}

    return {
        "inputs": [entry(item) for item in session.get_inputs()],
        "outputs": [entry(item) for item in session.get_outputs()],
    }


def _cure(kind: str) -> str:
    """What to do about an output that is no tensor, for those that every exporter of scikit-learn's classifiers writes."""
    if not kind.startswith("seq(map("):
        return ""
    return ": export the classifier so that it answers its probabilities as a tensor (skl2onnx: options={'zipmap': False})"


def describe_torchscript(path: Path) -> Description:
    """Reads argument names and the number of outputs from a TorchScript file; shapes as far as `infer_shapes` finds them."""
    import torch

    from .infer_shapes import infer
    from .torchscript import load, quiet_jit

    module = load(path, torch.device("cpu"))
    names = [argument.name for argument in module.forward.schema.arguments[1:]]
    with quiet_jit():
        found = infer(module)
    inputs: Mapping[str, Tells] = found[0] if found else dict.fromkeys(names, NOTHING)
    outputs: Sequence[Tells] = found[1] if found else [NOTHING] * _output_count(module)
    return {
        "inputs": [{"name": name, "datatype": inputs[name][0], "shape": inputs[name][1]} for name in names],
        "outputs": [
            {"name": f"OUTPUT__{index}", "datatype": datatype, "shape": shape}
            for index, (datatype, shape) in enumerate(outputs)
        ],
    }


def describe_exported(path: Path) -> Description:
    """Reads a torch.export program; of an AOTInductor package, which tells neither types nor shapes, the names."""
    import torch

    from . import pt2

    program = pt2.load(path, torch.device(pt2.compiled_for(path) or "cpu"))

    def entry(value: pt2.Value) -> dict[str, Any]:
        shape = None if value.shape is None else list(value.shape)
        return {"name": value.name, "datatype": value.datatype, "shape": shape}

    return {"inputs": [entry(each) for each in program.inputs], "outputs": [entry(each) for each in program.outputs]}


KINDS: dict[str, Callable[[Path], Description]] = {
    "onnx": describe_onnx,
    "torchscript": describe_torchscript,
    "exported": describe_exported,
}


def _output_count(module: Any) -> int:
    """How many tensors forward() returns: the elements of a tuple, else one."""
    returned = module.forward.schema.returns[0].type
    return len(returned.elements()) if returned.kind() == "TupleType" else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jitney.backends.inspect", description="Describe a model file as JSON.")
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--kind", choices=sorted(KINDS))
    parser.add_argument("--many", action="store_true", help="answer lines of stdin")
    options = parser.parse_args(arguments)
    if options.many:
        return answer_lines(sys.stdin.buffer)
    if options.file is None or options.kind is None:
        parser.error("expected FILE --kind KIND, or --many")
    found = answer(options.file, options.kind)
    if "error" in found:
        sys.stderr.write(f"{found['error']}\n")
        return 1
    sys.stdout.write(json.dumps(found["found"]) + "\n")
    return 0


def answer(path: Path, kind: str) -> dict[str, Any]:
    """{"found": …}, or {"error": …} with a sentence."""
    try:
        return {"found": describe(path, kind)}
    except (ValueError, OSError) as error:
        return {"error": str(error)}
    except ModuleNotFoundError as error:
        return {"error": explain(error)}


def answer_lines(lines: BinaryIO) -> int:
    """For each line {"file": …, "kind": …} one with its `answer`, until stdin ends. What libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for line in lines:
            asked = json.loads(line)
            out.write(json.dumps(answer(Path(asked["file"]), asked["kind"])) + "\n")
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
