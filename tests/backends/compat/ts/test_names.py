"""Every public name of TorchServe's package exists here, or its module says why not.

`torchserve_names.json` lists them: {module: [name, Class.member, …]}. It was made from the wheel of torchserve 0.12.0 (unpacked
beside the script; a list of names, none of its code) by

    import ast, json, pathlib

    def members(cls):
        for node in cls.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef): yield node.name
            elif isinstance(node, ast.Assign): yield from (t.id for t in node.targets if isinstance(t, ast.Name))

    def names(body):
        for node in body:
            if isinstance(node, ast.ClassDef): yield node.name; yield from (f"{node.name}.{m}" for m in members(node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef): yield node.name
            elif isinstance(node, ast.Assign): yield from (t.id for t in node.targets if isinstance(t, ast.Name))
            elif isinstance(node, ast.ImportFrom) and (node.level or node.module.split(".")[0] == "ts"):
                yield from (alias.asname or alias.name for alias in node.names)
            elif isinstance(node, ast.If) and "__main__" not in ast.unparse(node.test): yield from names(node.body + node.orelse)
            elif isinstance(node, ast.Try): yield from names(node.body + [n for h in node.handlers for n in h.body])

    found = {}
    for path in sorted(pathlib.Path("ts").rglob("*.py")):
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        found[module] = sorted({n for n in names(ast.parse(path.read_text()).body) if not n.split(".")[-1].startswith("_")})
    print(json.dumps(found, indent=1))

so it holds what a module defines or takes from the package itself, not what it imports from others. That the names work too is
what the other tests of this folder are for.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.backends.compat.ts.not_offered import REASONS
from jitney.backends.handler_loader import COMPAT

NAMES: dict[str, list[str]] = json.loads((Path(__file__).parent / "torchserve_names.json").read_text())
OURS = "jitney.backends.compat."
REFUSED = {f"ts.{name}" for name in REASONS} | {"ts.handler_utils.preprocess.built-in.dali_pipeline_generation"}


def test_the_list_is_whole() -> None:
    assert (len(NAMES), sum(map(len, NAMES.values()))) == (84, 488)
    assert {"ts.context", "ts.handler_utils.hf_batch_streamer", "ts.torch_handler.base_handler"} <= set(NAMES)
    assert {name for name in REFUSED if name in NAMES} == REFUSED


@pytest.mark.parametrize("module", sorted(set(NAMES) - REFUSED))
def test_a_module_has_the_names(module: str) -> None:
    found = importlib.import_module(OURS + module)
    missing = []
    for name in NAMES[module]:
        owner, _, member = name.partition(".")
        if not hasattr(found, owner) or (member and not hasattr(getattr(found, owner), member)):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("module", sorted(REFUSED))
def test_a_module_that_is_not_here_says_why_and_what_to_use(module: str) -> None:
    with pytest.raises(ImportError, match=r"^ts\.\S+ is not offered: .*\. (Run|Use|For|Bring|Call) ") as error:
        importlib.import_module(OURS + module)
    assert not isinstance(error.value, ModuleNotFoundError)  # which would read as a broken installation
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{OURS}ts.nothing_like_it")


def test_a_handler_imports_them_as_ts() -> None:
    """In a process of its own, since `ts` belongs into workers only. No module needs a package that jitney does not bring."""
    modules = sorted(set(NAMES) - REFUSED)
    source = "\n".join([f"import {module}" for module in modules])
    source += (
        "\ntry:\n    from ts.torch_handler.vllm_handler import VLLMHandler\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-P", "-c", source],
        env={"PYTHONPATH": str(COMPAT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ts.torch_handler.vllm_handler is not offered: it drives vLLM")


#: What TorchServe's handlers define with one underscore: names that handlers override, or leave alone, already there.
PRIVATE = {
    *("_infer_with_profiler", "_is_describe", "_is_explain", "_load_pickled_model", "_load_torchscript_model"),
    *("_load_torch_export_aot_compile", "_use_torch_export_aot_compile", "_expand_contractions", "_remove_html_tags"),
    *("_remove_accented_characters", "_remove_punctuation", "_remove_puncutation", "_tokenize"),
}
#: What our handlers have beside TorchServe's public names, and with the meaning that TorchServe gives them where it has them.
OWN = {"get_insights", "image_processing", "model_yaml_config"}


@pytest.mark.parametrize(
    "name",
    [
        *("base_handler.BaseHandler", "vision_handler.VisionHandler", "image_classifier.ImageClassifier"),
        *("image_segmenter.ImageSegmenter", "object_detector.ObjectDetector", "text_handler.TextHandler"),
        "text_classifier.TextClassifier",
    ],
)
def test_handlers_leave_all_other_names_to_those_that_are_derived_from_them(name: str) -> None:
    """A user's handler that calls a method or an attribute of its own `_answer` must not change ours."""
    module, _, class_name = name.partition(".")
    base = getattr(importlib.import_module(f"{OURS}ts.torch_handler.{module}"), class_name)
    theirs = {member.partition(".")[2] for names in NAMES.values() for member in names}
    mangled = tuple(f"_{each.__name__}__" for each in base.__mro__)
    found = {name for name in {*dir(base), *vars(base())} if not name.startswith(("__", "_abc_", *mangled))}
    attributes = {
        *("model", "mapping", "device", "initialized", "context", "model_pt_path", "manifest", "map_location", "explain"),
        *("target", "profiler_args", "source_vocab", "tokenizer", "input_text", "lig"),
    }
    assert found - theirs - PRIVATE - OWN - attributes == set()
