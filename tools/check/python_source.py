"""What can be said of a model's Python files without running them: whether they parse, and define what they are asked for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .finding import Finding


def parsed(path: Path, model: str, found: list[Finding]) -> ast.Module | None:
    """The file's tree; None, with an error in `found`, where it is no Python."""
    try:
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        found.append(Finding("error", f"not valid Python: {error.msg}", str(path), error.lineno or 0, model))
    except (OSError, ValueError) as error:
        found.append(Finding("error", f"cannot be read: {error}", str(path), 0, model))
    return None


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _names(tree: ast.Module) -> set[str]:
    """What the module's top level defines or imports; whatever stands in an `if` or a `try` there too."""
    return {name for node in ast.walk(tree) for name in _named(node)}


def _members(scope: ast.Module | ast.ClassDef) -> set[str]:
    """What a module or a class defines in its own body."""
    return {name for node in scope.body for name in _named(node)}


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _error(text: str, path: Path, model: str, line: int = 0) -> Finding:
    return Finding("error", text, str(path), line, model)


def check_python_model(path: Path, model: str) -> list[Finding]:
    """`model.py` of backend "python": the class TritonPythonModel with `execute`."""
    found: list[Finding] = []
    tree = parsed(path, model, found)
    if tree is None:
        return found
    cls = _classes(tree).get("TritonPythonModel")
    if cls is None and "TritonPythonModel" not in _names(tree):
        return [_error('defines no class TritonPythonModel, which backend "python" runs', path, model)]
    if cls is not None and not cls.bases and "execute" not in _members(cls):
        return [_error("TritonPythonModel has no method execute(self, requests)", path, model, cls.lineno)]
    return []


def check_eager_model(path: Path, model: str, class_name: str) -> list[Finding]:
    """`model.py` of an eager PyTorch model: a class of its own, the one that the parameter model_class names."""
    found: list[Finding] = []
    tree = parsed(path, model, found)
    if tree is None:
        return found
    classes = _classes(tree)
    if class_name and class_name not in classes:
        names = ", ".join(classes) or "none"
        return [_error(f"defines no class '{class_name}', which model_class names; it defines: {names}", path, model)]
    if not any(cls.bases for cls in classes.values()):
        return [_error("defines no class derived from torch.nn.Module", path, model)]
    return []


def check_codec(path: Path, model: str) -> list[Finding]:
    """A codec of the user's own: the functions `decode` and `encode`."""
    found: list[Finding] = []
    tree = parsed(path, model, found)
    missing = sorted({"decode", "encode"} - _names(tree)) if tree is not None else []
    text = "a codec needs decode(request) and encode(outputs, request); it has no '{}'"
    return found + [_error(text.format(name), path, model) for name in missing]


def check_handler(path: Path, model: str, function: str) -> list[Finding]:
    """A TorchServe handler's file: the function that is named, else the function `handle`, else exactly one class."""
    found: list[Finding] = []
    tree = parsed(path, model, found)
    if tree is None:
        return found
    classes = _classes(tree)
    if function and function not in _names(tree):
        return [_error(f"has no '{function}', which the archive's handler names", path, model)]
    if not function and "handle" not in _members(tree) and len(classes) != 1:
        listed = ", ".join(classes) or "none"
        return [
            _error(
                f"a handler needs a function handle(data, context) or exactly one class; its classes: {listed}", path, model
            )
        ]
    return []
