"""The repository root is the package `jitney`: `jitney.server`, `jitney.backends`, `jitney.tools`, …"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "__init__.py").read_text())
FOLDERS = ["core", "codecs", "backends", "backends.*", "server", "server.*", "tools", "tools.*"]

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
    "waitress>=3.0.1",
]

setup(
    name="jitney",
    version=VERSION[1] if VERSION else "0",
    description="A model server: TorchServe archives and Triton repositories, batched better, with pip install",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["jitney", *(f"jitney.{name}" for name in find_packages(str(ROOT), include=FOLDERS))],
    package_dir={"jitney": "."},
    package_data={
        "jitney": ["py.typed"],
        "jitney.server": ["**/*.yaml", "**/*.json", "**/*.proto"],
        "jitney.backends": ["**/*.yaml", "**/version.txt"],
        "jitney.tools": ["starter/**/*"],
    },
    install_requires=BASE,
    extras_require={
        "torch": ["torch>=2.10", "safetensors>=0.4"],
        "onnx": ["onnxruntime>=1.20"],
        "gpu": ["onnxruntime-gpu[cuda,cudnn]>=1.20", "torch>=2.10", "safetensors>=0.4"],
        "tls": ["cryptography>=42"],
        "grpc": ["grpcio>=1.60"],
        "client": ["tritonclient[http]>=2.50"],
    },
    entry_points={"console_scripts": ["jitney = jitney.server.cli.main:main"]},
)
