"""The repository root is the package `jitney`: `jitney.server`, `jitney.backends`, `jitney.tools`, …"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "__init__.py").read_text())
FOLDERS = ["core", "codecs", "backends", "backends.*", "server", "server.*", "tools", "tools.*", "deploy", "deploy.*"]
#: Only a checkout has what the development tools work on.
DEVELOPMENT = ["tools.dev", "tools.dev.*"]
PROJECT = "https://github.com/jitney/jitney"

BASE = [
    "falcon>=4.0",
    "httptools>=0.6.4",
    "msgspec>=0.19",
    "numpy>=1.26",
    "orjson>=3.10",
    "pillow>=10.3",
    "prometheus-client>=0.20",
    "protobuf>=5.0",
    "psutil>=5.9",
    "pyyaml>=6.0",
    "tritonclient>=2.50",
    "waitress>=3.0.1,<3.1",  # server/http/engine builds on names of its inside: tests/server/http/engine/test_waitress.py
]


def long_description() -> str:
    """The README, with links that also work away from the repository, and pictures as they are."""
    text = (ROOT / "README.md").read_text().replace("](docs/", f"]({PROJECT}/blob/main/docs/")
    return text.replace(".png)", ".png?raw=true)")


class BuildPackage(build_py):
    """The root is the package, and all its modules are jitney's, except this file."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [(owner, module, path) for owner, module, path in found if (owner, module) != ("jitney", "setup")]


setup(
    name="jitney",
    version=VERSION[1] if VERSION else "0",
    description="A model server: TorchServe archives and Triton repositories, batched better, with pip install",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The jitney authors",
    url=PROJECT,
    project_urls={
        "Source": PROJECT,
        "Documentation": f"{PROJECT}/tree/main/docs",
        "Changelog": f"{PROJECT}/blob/main/CHANGELOG.md",
    },
    license="Apache-2.0",
    keywords="model server, inference, serving, batching, torchserve, triton, kserve, pytorch, onnx",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[
        "jitney",
        *(f"jitney.{name}" for name in find_packages(str(ROOT), include=FOLDERS, exclude=DEVELOPMENT)),
    ],
    package_dir={"jitney": "."},
    cmdclass={"build_py": BuildPackage},
    package_data={
        "jitney": ["py.typed"],
        "jitney.server": ["**/*.yaml", "**/*.json", "**/*.proto", "**/*.binpb", "http/*/files/**/*"],
        "jitney.backends": ["**/*.yaml", "**/version.txt"],
        "jitney.tools": ["starter/**/*", "templates/*.onnx"],
    },
    install_requires=BASE,
    extras_require={
        "torch": ["torch>=2.10", "safetensors>=0.4"],
        "onnx": ["onnxruntime>=1.20"],
        "gpu": ["nvidia-ml-py>=12", "onnxruntime-gpu[cuda,cudnn]>=1.20", "torch>=2.10", "safetensors>=0.4"],
        "tls": ["cryptography>=42"],
        "grpc": ["grpcio>=1.60"],
        "otel": ["opentelemetry-sdk>=1.35", "opentelemetry-exporter-otlp-proto-http>=1.35"],
        "client": ["tritonclient[http]>=2.50"],
        "completion": ["argcomplete>=3.2"],
        "ray": ["ray[serve]>=2.60"],
    },
    entry_points={"console_scripts": ["jitney = jitney.server.cli.main:main"]},
)
