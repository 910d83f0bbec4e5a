"""TorchServe's messages between front end and worker (its `ts/protocol/otf_message_handler.py`). Integers are 4 bytes,
big-endian and signed; text and bytes follow their length; a length of -1 ends a list.

    load      L name, path, batch size, handler, gpu (-1: none), envelope, limit_max_image_pixels (1 byte)
    predict   I request*, -1            request = id, header*, -1, input*, -1; header = name, value;
                                        input = name, content type, value
    response  code, message, prediction*, -1
              prediction = request id, content type, status, reason phrase, number of headers, (name, value)*, body
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jitney.backends.handler_data import BAD_ELEMENT, STREAM_HEADER, UnsupportedOutput, body_of, value_of
from jitney.core.request import Part

from ..utils.util import deprecated

__all__ = [
    "END_OF_LIST",
    "LOAD_MSG",
    "PREDICT_MSG",
    "RESPONSE",
    "bool_size",
    "create_load_model_response",
    "create_predict_response",
    "deprecated",
    "encode_response_headers",
    "int_size",
    "retrieve_msg",
    "send_intermediate_predict_response",
]

bool_size = 1
int_size = 4
END_OF_LIST = -1
LOAD_MSG = b"L"
PREDICT_MSG = b"I"
RESPONSE = 3


def _packed(number: int) -> bytes:
    return struct.pack("!i", number)


def _sized(data: bytes | str) -> bytes:
    raw = data.encode("utf-8") if isinstance(data, str) else data
    return _packed(len(raw)) + raw


# -- writing -------------------------------------------------------------------------------------------------------------


def create_load_model_response(code: int, message: str) -> bytearray:
    return bytearray(_packed(code) + _sized(message) + _packed(END_OF_LIST))


def encode_response_headers(resp_hdr_map: Mapping[str, str]) -> bytearray:
    pairs = b"".join(_sized(name) + _sized(value) for name, value in resp_hdr_map.items())
    return bytearray(_packed(len(resp_hdr_map)) + pairs)


def create_predict_response(
    ret: Sequence[Any] | None,
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Any = None,
    ts_stream_next: bool = False,
) -> bytearray | None:
    """One prediction for each request: its element of `ret`, or "error" where that is None.

    None in processes of torchrun other than the first, which are silent. An element that cannot be sent makes the whole
    response an error of status 503.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return None
    try:
        bodies = {index: b"error" if ret is None else body_of(ret[index]) for index in req_id_map}
    except UnsupportedOutput:
        return create_predict_response(None, req_id_map, BAD_ELEMENT, 503)
    response = bytearray(_packed(code) + _sized(message))
    for index, request_id in req_id_map.items():
        if context is None:
            head = _sized("") + _packed(code) + _sized("") + encode_response_headers({})
        else:
            _mark_stream(context, index, None if ret is None else ret[index], ts_stream_next)
            head = _head(context, index)
        response += _sized(request_id) + head + _sized(bodies[index])
    return response + _packed(END_OF_LIST)


def _mark_stream(context: Any, index: int, element: Any, more: bool) -> None:
    """Sets the header that says whether more of an answer follows."""
    if more:
        context.set_response_header(index, STREAM_HEADER, "true")
    elif context.stopping_criteria:
        stop = context.stopping_criteria[index](element)
        if stop is not None:
            context.set_response_header(index, STREAM_HEADER, "false" if stop else "true")
    elif context.get_response_headers(index).get(STREAM_HEADER) == "true":
        context.set_response_header(index, STREAM_HEADER, "false")


def _head(context: Any, index: int) -> bytes:
    status, phrase = context.get_response_status(index)
    content_type = context.get_response_content_type(index) or ""
    numbers = _packed(200 if status is None else status) + _sized(phrase or "")
    return _sized(content_type) + numbers + bytes(encode_response_headers(context.get_response_headers(index)))


@deprecated(version=1.0, replacement="ts.handler_utils.utils.send_intermediate_predict_response")
def send_intermediate_predict_response(
    ret: Sequence[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Any = None
) -> None:
    """Where older handlers import the streaming helper from."""
    send_chunk(ret, req_id_map, message, code, context)


def send_chunk(ret: Sequence[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Any) -> None:
    """`handler_utils.utils.send_intermediate_predict_response`."""
    send: Any = getattr(context, "_send", None)
    socket: Any = getattr(context, "cl_socket", None)
    if send is None and socket is None:
        raise RuntimeError("intermediate responses can be sent while a batch is being handled only, with its context")
    if len(ret) != len(req_id_map):
        raise ValueError(f"{len(ret)} intermediate responses for {len(req_id_map)} requests")
    if send is not None:
        send(ret, message, code)
        return
    response = create_predict_response(ret, req_id_map, message, code, context, True)
    if response is not None:  # a program's own `ts.service.Service`
        socket.sendall(response)


# -- reading -------------------------------------------------------------------------------------------------------------


def retrieve_msg(conn: Any) -> tuple[bytes, Any]:
    """The next command of a socket, `LOAD_MSG` or `PREDICT_MSG`, with its message. ConnectionError where the peer hung up."""
    command = bytes(_read(conn, 1))
    if command == LOAD_MSG:
        return command, _read_load(conn)
    if command == PREDICT_MSG:
        return command, _read_list(conn, _read_request)
    raise ValueError(f"Invalid command: {command!r}; expected {LOAD_MSG!r} or {PREDICT_MSG!r}")


def _read(conn: Any, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        received = conn.recv(length - len(data))
        if not received:
            raise ConnectionError(f"the front end hung up after {len(data)} of {length} bytes")
        data += received
    return data


def _read_int(conn: Any) -> int:
    number: int = struct.unpack("!i", _read(conn, int_size))[0]
    return number


def _read_sized(conn: Any) -> bytearray:
    return _read(conn, _read_int(conn))


def _read_load(conn: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"modelName": _read_sized(conn), "modelPath": _read_sized(conn)}
    message |= {"batchSize": _read_int(conn), "handler": _read_sized(conn)}
    gpu = _read_int(conn)
    if gpu >= 0:
        message["gpu"] = gpu
    return message | {"envelope": _read_sized(conn), "limitMaxImagePixels": _read(conn, bool_size) != b"\0"}


def _read_list(conn: Any, read_rest: Callable[[Any, bytearray], dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries until the length -1; each begins with a text, which `read_rest` is given."""
    found = []
    while (length := _read_int(conn)) != END_OF_LIST:
        found.append(read_rest(conn, _read(conn, length)))
    return found


def _read_request(conn: Any, request_id: bytearray) -> dict[str, Any]:
    headers = _read_list(conn, lambda conn, name: {"name": name, "value": _read_sized(conn)})
    return {"requestId": request_id, "headers": headers, "parameters": _read_list(conn, _read_input)}


def _read_input(conn: Any, name: bytearray) -> dict[str, Any]:
    """JSON and text as what they are, unless TS_DECODE_INPUT_REQUEST says otherwise."""
    content_type = _read_sized(conn).decode("utf-8")
    part = Part(name.decode("utf-8"), _read_sized(conn), content_type)
    decode = os.environ.get("TS_DECODE_INPUT_REQUEST", "true") == "true"
    return {"name": part.name, "contentType": content_type, "value": value_of(part, decode)}
