"""Who may import whom: no file imports itself by way of others, for types neither, and none imports from a higher floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("core", "codecs", "backends", "server", "tools", "deploy")

#: From the ground up. A file belongs to the entry that is the longest beginning of its path.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("__init__", "core/"),
    ("codecs/",),
    ("backends/",),
    ("server/__init__", "server/process/"),
    ("server/settings/",),
    ("server/ipc/",),
    ("server/repository/__init__", "server/repository/triton/"),
    ("server/repository/torchserve/",),
    ("server/batching/",),
    ("server/metrics/",),
    ("server/tracing/",),
    ("server/workers/",),
    ("server/worker/",),
    ("server/serving/",),
    ("server/lifecycle/",),
    (
        "server/http/__init__",
        "server/http/dialect",
        "server/http/reasons",
        "server/http/retry",
        "server/http/rules",
        "server/http/wsgi",
    ),
    ("server/http/middleware/",),
    ("server/http/plan", "server/http/engine/"),
    ("server/http/plan_finder", "server/http/falcon_plan", "server/http/inline"),
    ("server/http/torchserve/", "server/http/metrics"),
    ("server/http/kserve/",),
    ("server/http/status/",),
    ("server/http/openapi/",),
    ("server/http/app",),
    ("server/frontends/",),
    ("server/frontends/child/",),
    ("server/grpc/",),
    ("server/web", "server/announcements", "server/assembly", "server/main"),
    ("tools/__init__", "tools/steps", "tools/archive", "tools/bench/"),
    ("tools/first_steps", "tools/templates/", "tools/init", "tools/check/", "tools/tune/"),
    ("tools/dev/",),
    ("server/cli/",),
    ("tools/dev/reference/", "tools/dev/build_reference"),
    ("deploy/",),
    ("tools/dev/bench_ray",),
)

#: What TorchServe's programs import to start and register, under the names that they know: it is the server's.
STAND_INS = ("backends/compat/ts/arg_parser.py", "backends/compat/ts/launcher.py", "backends/compat/ts/model_server.py")


def files() -> list[Path]:
    return [ROOT / "__init__.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("jitney", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {name_of(path): path for path in files()}


def imported(name: str, path: Path) -> Iterator[str]:
    """The modules of jitney that a file imports, wherever in it and whatever for."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
                if node.level
                else str(node.module)
            )
            for alias in node.names:
                found = f"{base}.{alias.name}"
                if found in MODULES or base in MODULES:
                    yield found if found in MODULES else base


IMPORTS = {name: set(imported(name, path)) - {name} for name, path in MODULES.items()}


def floor_of(path: Path) -> int:
    place = str(path.relative_to(ROOT))
    found = [(len(entry), floor) for floor, entries in enumerate(FLOORS) for entry in entries if place.startswith(entry)]
    assert found, f"{place} is on no floor"
    return max(found)[1]


def test_no_file_imports_itself_by_way_of_others() -> None:
    left = {name: set(targets) for name, targets in IMPORTS.items()}
    while free := [name for name, targets in left.items() if not targets]:
        for name in free:
            del left[name]
        for targets in left.values():
            targets.difference_update(free)
    while unused := set(left) - {target for targets in left.values() for target in targets}:  # what only leads to a circle
        for name in unused:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


def test_none_imports_from_a_higher_floor() -> None:
    higher = [
        f"{name} imports {target}"
        for name, targets in IMPORTS.items()
        for target in sorted(targets)
        if floor_of(MODULES[target]) > floor_of(MODULES[name]) and str(MODULES[name].relative_to(ROOT)) not in STAND_INS
    ]
    assert not higher


def test_the_ground_floor_needs_nothing_and_backends_nothing_of_the_server() -> None:
    for name, targets in IMPORTS.items():
        path = str(MODULES[name].relative_to(ROOT))
        if path.startswith("core/"):
            assert all(target.startswith("jitney.core") for target in targets), name
        if path.startswith(("codecs/", "backends/")) and path not in STAND_INS:
            assert not [target for target in targets if target.startswith(("jitney.server", "jitney.tools"))], name


def test_nothing_that_is_distributed_imports_a_development_tool() -> None:
    for name, targets in IMPORTS.items():
        if not name.startswith("jitney.tools.dev"):
            assert not [target for target in targets if target.startswith("jitney.tools.dev")], name
