"""`python -m ts.utils.setup_model_venv FOLDER`: a virtual environment that also sees this one's packages."""

from __future__ import annotations

import site
import sys
import venv
from pathlib import Path


def create_venv(venv_path: str) -> None:
    """A new environment with pip; what the folder held before is gone."""
    venv.create(venv_path, clear=True, with_pip=True)


def inherit_site_packages(venv_path: str) -> None:
    """Lets the environment import what this Python imports from its site-packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path(venv_path) / "lib" / version / "site-packages"
    if not packages.is_dir():
        raise FileNotFoundError(f"{packages}: {venv_path} is no virtual environment of {version}")
    folders = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    found = [folder for folder in folders + site.getsitepackages() if Path(folder).exists()]
    (packages / "inherited-site-packages.pth").write_text("".join(f"{folder}\n" for folder in found))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write(f"expected the folder of the virtual environment, got {arguments}\n")
        return 2
    create_venv(arguments[0])
    inherit_site_packages(arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
