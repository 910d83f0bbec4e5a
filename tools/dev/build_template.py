"""Builds tools/templates/linear.onnx, the model of `jitney init --backend onnx`: `python -m jitney.tools.dev.build_template`.

y = 2 x + 1 for rows of three numbers. Needs the package onnx, which development alone needs.
"""

from __future__ import annotations

from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "templates" / "linear.onnx"
#: Old enough for every ONNX Runtime that jitney takes.
OPSET, IR_VERSION = 13, 8


def linear() -> bytes:
    """The serialized model."""
    from onnx import TensorProto, checker, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    two, one = (helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in (("two", 2.0), ("one", 1.0)))
    nodes = [helper.make_node("Mul", ["x", "two"], ["double"]), helper.make_node("Add", ["double", "one"], ["y"])]
    graph = helper.make_graph(nodes, "linear", [x], [y], [two, one])
    model = helper.make_model(
        graph, producer_name="jitney", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    TARGET.write_bytes(linear())
    print(TARGET)
