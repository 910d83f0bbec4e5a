"""Describes the messages of server/grpc/*/*.proto for protobuf: `python -m jitney.tools.dev.build_protos`.

protoc writes a set of file descriptors beside the texts of each original. A set fits any version of protobuf, which generated
code does not; `server.grpc.schema` reads it. Needs grpcio-tools, which development alone needs.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.protobuf import descriptor_pb2

from ...server.grpc.schema import SETS
from ...server.repository.triton.pbtxt import schema as config

FOLDER = Path(__file__).resolve().parents[2] / "server" / "grpc"


def describe(name: str) -> bytes:
    """The serialized set of the folder `name`: its own files, without those that other packages bring."""
    from grpc_tools import protoc

    texts = sorted(path.name for path in (FOLDER / name).glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        known, made = Path(folder) / "known.binpb", Path(folder) / "made.binpb"
        known.write_bytes(_known())
        includes = [f"-I{FOLDER / name}", f"-I{files('grpc_tools') / '_proto'}"]
        status = protoc.main(["protoc", *includes, f"--descriptor_set_in={known}", f"--descriptor_set_out={made}", *texts])
        if status:
            raise RuntimeError(f"protoc could not read the texts of {FOLDER / name}: status {status}")
        return made.read_bytes()


def _known() -> bytes:
    """What the texts import from elsewhere: `ModelConfig`, and protobuf's own."""
    from google.protobuf import any_pb2, empty_pb2

    found = descriptor_pb2.FileDescriptorSet()
    for module in (any_pb2, empty_pb2, config):
        found.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    return found.SerializeToString()


def main() -> int:
    for name, place in SETS.items():
        place.write_bytes(describe(name))
        print(f"wrote {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
