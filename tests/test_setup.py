"""The wheel: what it carries, what it leaves in the checkout, and that it needs no more than it declares."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("backends", "codecs", "core", "deploy", "server", "tools")

BUILD = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"

#: Imports every module of the wheel that lies unpacked in argv[1], in a process in which nothing can be imported but the standard
#: library and the distributions that the wheel requires without an extra. Prints {module: the distribution it lacks, or null}.
IMPORT_ALL = """
import json, pkgutil, re, sys
from importlib import import_module, metadata

unpacked = sys.argv[1]

def closure(names):
    seen = {}
    while names:
        name = re.sub("[-_.]+", "-", names.pop()).lower()
        if name not in seen:
            seen[name] = metadata.distribution(name)
            for line in seen[name].requires or ():
                requirement, _, marker = line.partition(";")
                if not marker.strip():
                    names.append(re.match("[A-Za-z0-9._-]+", requirement)[0])
    return seen

allowed = set(closure(json.loads(sys.argv[2])))
offered = metadata.packages_distributions()

class Undeclared:
    def find_spec(self, name, path=None, target=None):
        owners = {re.sub("[-_.]+", "-", owner).lower() for owner in offered.get(name.partition(".")[0], ())}
        if owners and not owners & (allowed | {"jitney"}):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Undeclared())
sys.path.insert(0, unpacked)
import jitney
assert jitney.__file__.startswith(unpacked), jitney.__file__
sys.path.append(jitney.__path__[0] + "/backends/compat")  # as workers have it
found = {}
for module in pkgutil.walk_packages(jitney.__path__, "jitney.", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    try:
        import_module(module.name)
        found[module.name] = None
    except ModuleNotFoundError as error:
        top = error.name.partition(".")[0]
        found[module.name] = re.sub("[-_.]+", "-", offered.get(top, [top])[0]).lower()
print(json.dumps(found))
"""


#: What brings a package, where that has another name.
DISTRIBUTIONS = {"grpc": "grpcio"}


def _ignored(folder: str, names: list[str]) -> set[str]:
    here = Path(folder)
    left_out = {"__pycache__", "build", "dist"} | ({"tests", "docs", "examples"} if here == ROOT else set())
    return {name for name in names if name in left_out or name.startswith(".") or name.endswith(".egg-info")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in a copy: setuptools leaves its work in the folder that it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=_ignored)
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, check=False, cwd=folder / "source", capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    """What `pip install --no-deps --target` makes of it."""
    target = wheel.parent / "target"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def _metadata(unpacked: Path) -> Message:
    (found,) = unpacked.glob("jitney-*.dist-info")
    return Parser().parsestr((found / "METADATA").read_text())


def test_all_that_a_wheel_imports_is_declared(unpacked: Path) -> None:
    metadata = _metadata(unpacked)
    lines = metadata.get_all("Requires-Dist", [])
    base = [re.split("[^A-Za-z0-9._-]", line)[0] for line in lines if "extra ==" not in line]
    extras = {re.split("[^A-Za-z0-9._-]", line)[0] for line in lines if "extra ==" in line}
    command = [sys.executable, "-c", IMPORT_ALL, str(unpacked), json.dumps(base)]
    done = subprocess.run(command, check=False, cwd=unpacked.parent, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout)
    lacking = {name: missing for name, missing in found.items() if missing is not None}
    packages = {missing.partition(".")[0] for missing in lacking.values()}
    assert {DISTRIBUTIONS.get(package, package) for package in packages} <= extras, lacking
    imported = found.keys() - lacking.keys()
    commands = (
        "server.cli.main",
        "tools.archive",
        "tools.first_steps",
        "tools.bench.command",
        "tools.tune.command",
        "tools.check.command",
        "tools.init",
    )
    assert {f"jitney.{name}" for name in commands} <= imported
    assert len(imported) > 150
    assert not any(name.startswith("jitney.tools.dev") for name in found)


def test_a_wheel_has_the_package_and_nothing_else(unpacked: Path) -> None:
    assert {path.name for path in unpacked.glob("*") if not path.name.endswith(".dist-info")} == {"jitney"}
    assert {path.name for path in (unpacked / "jitney").iterdir()} == {"__init__.py", "py.typed", *PACKAGES}
    assert {path.name for path in (unpacked / "jitney/tools").iterdir() if path.is_dir()} == {
        "bench",
        "check",
        "starter",
        "templates",
        "tune",
    }


def test_a_wheel_has_every_data_file_of_its_packages(unpacked: Path) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        if package != "deploy"  # its manifests are for checkouts
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "tools/dev/" not in path.as_posix()
    }
    assert "tools/starter/digits/1/model.onnx" in wanted
    found = {path.relative_to(unpacked / "jitney").as_posix() for path in (unpacked / "jitney").rglob("*") if path.is_file()}
    assert wanted <= found


def test_a_wheel_says_whose_it_is_and_where_to_look(unpacked: Path) -> None:
    metadata = _metadata(unpacked)
    assert metadata["Author"] == "The jitney authors"
    assert metadata["License"] == "Apache-2.0" or metadata["License-Expression"] == "Apache-2.0"
    links = {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])}
    assert links >= {"Source", "Documentation", "Changelog"}
    assert "](docs/" not in str(metadata.get_payload())
