"""Runs a module of this package in another environment's Python: `python -P launch.py MSGSPEC MODULE ARGUMENTS…`.

Only this package becomes importable, from where it lies, and the server's msgspec (the path of its `__init__.py`) where the
environment has none. No folder is added to the module path, so nothing else of the server's environment is seen. Imports
nothing but the standard library, and runs on any Python that this package runs on.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]


def lend(name: str, init: Path) -> None:
    """Imports the package whose `__init__.py` this is under `name`."""
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{init} is no package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def prepare(msgspec: str) -> str:
    """Makes the package importable; the reason why that is not possible, or ""."""
    version = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info < (3, 11):  # noqa: UP036 - the model's Python, not ours
        return f"the model's environment has Python {version}, at least 3.11 is needed"
    if importlib.util.find_spec("numpy") is None:
        return f"the model's environment {sys.prefix} has no numpy: install it there"
    try:
        if importlib.util.find_spec("msgspec") is None:
            lend("msgspec", Path(msgspec))
    except ImportError as error:
        return f"the model's environment {sys.prefix} (Python {version}) needs msgspec, install it there: {error}"
    lend("jitney", PACKAGE / "__init__.py")
    return ""


def main() -> None:
    _, msgspec, module, *arguments = sys.argv
    problem = prepare(msgspec)
    if problem:
        sys.exit(problem)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
