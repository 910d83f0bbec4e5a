"""Recorded calls over gRPC, sent again, and their replies in the form of the recordings."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict, ParseDict

from .exchange import Run
from .wire import Message

SERVICES = {
    "inference": "org.pytorch.serve.grpc.inference.InferenceAPIsService",
    "management": "org.pytorch.serve.grpc.management.ManagementAPIsService",
}
UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
#: Seconds until a model has the workers that a record waits for.
WORKERS_S = 120


class GrpcClient:
    """Calls the ports of a server, `inference` and `management`. Close it at the end."""

    def __init__(self, addresses: Mapping[str, str], run: Run) -> None:
        self._run = run
        self._channels: dict[str, Any] = {
            port: grpc.insecure_channel(address, options=UNBOUNDED) for port, address in addresses.items()
        }
        self._pool = _pool(run.recordings / "grpc" / "protos" / "torchserve.binpb")

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def call(self, record: Message) -> Message:
        """`response`: the replies; `error`: code and details where the call failed."""
        port = record.get("port", "inference")
        service, method = record.get("service", SERVICES[port]), record["method"]
        request_class, response_class, sends, gets = self._method(service, method)
        call = getattr(self._channels[port], "unary_unary" if not gets else "stream_stream" if sends else "unary_stream")(
            f"/{service}/{method}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        messages = [ParseDict(self._expand(message), request_class()) for message in record["request"]]
        options = {
            "timeout": record.get("timeout_s", 60),
            "compression": {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}.get(
                record.get("compression", "")
            ),
            "metadata": [(name, self._run.expand(value)) for name, value in record.get("metadata", ())],
        }
        replies: list[Any] = []
        error: Message | None = None
        try:
            if gets:
                fed = _feed(messages, replies, record, options["timeout"]) if sends else messages[0]
                _collect(call(fed, **options), replies)
            elif "cancel_after_s" in record:
                future = call.future(messages[0], **options)
                time.sleep(record["cancel_after_s"])
                future.cancel()
                replies.append(future.result())
            else:
                replies.append(call(messages[0], **options))
        except grpc.RpcError as raised:
            told: Any = raised
            error = {"code": told.code().name, "details": self._run.collapse(told.details() or "")}
        except grpc.FutureCancelledError:
            error = {"code": "CANCELLED", "details": "Locally cancelled by application!"}
        answer: Message = {"response": [self._readable(reply) for reply in replies]}
        return answer if error is None else answer | {"error": error}

    def take_step(self, step: Message) -> None:
        """A step before or after a record: waits for workers, sleeps, or calls."""
        if "wait" in step:
            self._wait(step)
        elif "sleep_s" in step:
            time.sleep(step["sleep_s"])
        else:
            outcome = self.call({"port": "management", **step, "request": [step.get("request", {})]})
            if "error" in outcome and not step.get("fails"):
                raise RuntimeError(f"{step['method']} before the case gave {outcome['error']}")

    def _wait(self, step: Message) -> None:
        request = {"model_name": step["wait"]} | ({"model_version": step["version"]} if "version" in step else {})
        asked = {"port": "management", "method": "DescribeModel", "request": [request], "metadata": step.get("metadata", [])}
        deadline = time.monotonic() + WORKERS_S
        while time.monotonic() < deadline:
            with contextlib.suppress(IndexError, KeyError, TypeError):
                workers = self.call(asked)["response"][0]["msg_json"][0]["workers"]
                ready = sum(worker["status"] == "READY" for worker in workers)
                if ready == step["workers"] == len(workers):
                    return
            time.sleep(0.3)
        raise RuntimeError(f"no {step['workers']} READY workers of {step['wait']}")

    def _method(self, service: str, method: str) -> tuple[Any, Any, bool, bool]:
        """Request and response class, and which sides stream; empty messages for a method that there is not."""
        try:
            known: Any = self._pool.FindServiceByName(service).methods_by_name[method]
        except KeyError:
            empty = message_factory.GetMessageClass(self._pool.FindMessageTypeByName("google.protobuf.Empty"))
            return empty, empty, False, False
        proto = descriptor_pb2.MethodDescriptorProto()
        known.CopyToProto(proto)
        kinds = [message_factory.GetMessageClass(kind) for kind in (known.input_type, known.output_type)]
        return kinds[0], kinds[1], proto.client_streaming, proto.server_streaming

    def _expand(self, value: Any) -> Any:
        """Writes out {"text"}, {"file"}, {"b64", "times"} and placeholders."""
        if isinstance(value, list):
            return [self._expand(item) for item in value]
        if not isinstance(value, dict):
            return self._run.expand(value) if isinstance(value, str) else value
        if set(value) == {"text"}:
            return base64.b64encode(self._run.expand(value["text"]).encode()).decode()
        if set(value) == {"file"}:
            return base64.b64encode(self._run.input(value["file"])).decode()
        if set(value) == {"b64", "times"}:
            return base64.b64encode(base64.b64decode(value["b64"]) * value["times"]).decode()
        return {name: self._expand(item) for name, item in value.items()}

    def _readable(self, message: Any) -> Message:
        """The message as it is recorded: bytes and texts that are JSON also as values."""
        found: Message = MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self._pool)
        for name in ("prediction", "health", "msg"):
            if name not in found:
                continue
            raw = base64.b64decode(found[name]) if name == "prediction" else found[name].encode()
            with contextlib.suppress(UnicodeDecodeError):
                text = self._run.collapse(raw.decode())
                found["prediction_text" if name == "prediction" else name] = text
                with contextlib.suppress(json.JSONDecodeError):
                    found[f"{name}_json"] = json.loads(text)
        return found


def _pool(path: Path) -> descriptor_pool.DescriptorPool:
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(path.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def _collect(answered: Any, replies: list[Any]) -> None:
    for reply in answered:
        replies.append(reply)  # noqa: PERF402 - the feed looks at them meanwhile


def _feed(messages: list[Any], replies: list[Any], record: Message, timeout: float) -> Iterator[Any]:
    """With `pace` "reply" each message follows the reply to the one before."""
    for index, message in enumerate(messages):
        deadline = time.monotonic() + timeout
        while record.get("pace") == "reply" and len(replies) < index and time.monotonic() < deadline:
            time.sleep(0.01)
        yield message
