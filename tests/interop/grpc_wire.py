"""The few messages of gRPC's interop service, as bytes: what the fields are called here and which numbers they have there.

Limits: varints and length-delimited fields alone, which is all that these messages hold; unknown fields are kept and ignored.
Source: the protocol buffers encoding; the service `grpc.testing.TestService` of gRPC's interop description.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SERVICE = "grpc.testing.TestService"

# SimpleRequest 2, 3, 6, 7; SimpleResponse 1; StreamingInputCallRequest 1; StreamingInputCallResponse 1;
# ResponseParameters 1, 2; StreamingOutputCallRequest 2, 3, 7; StreamingOutputCallResponse 1; Payload 2; EchoStatus 1, 2.
SIZE, INTERVAL_US = 1, 2
RESPONSE_SIZE, PAYLOAD, COMPRESSED, STATUS = 2, 3, 6, 7
PARAMETERS = 2
ONLY = 1
BODY = 2
CODE, TEXT = 1, 2


@dataclass
class Asked:
    """A request that asks for answers of these sizes, with a body of its own."""

    sizes: list[int] = field(default_factory=list)
    body: bytes = b""
    code: int = 0
    text: str = ""
    compressed: bool = False


def number(key: int, value: int) -> bytes:
    """A varint field; nothing for zero."""
    return _varint(key << 3) + _varint(value) if value else b""


def part(key: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(key << 3 | 2) + _varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every field in order."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if tag & 7 == 0:
            yield tag >> 3, value
        elif tag & 7 == 2:
            if at + value > len(message):
                raise ValueError("a field ends behind its message")
            yield tag >> 3, message[at : at + value]
            at += value
        else:
            raise ValueError(f"wire type {tag & 7}")


def payload_of(message: bytes, key: int = ONLY) -> bytes:
    """The body of the payload in a field of a message."""
    return _bytes(_bytes(message, key), BODY)


def with_payload(body: bytes, key: int = ONLY) -> bytes:
    """A message, or a part of one, with a payload of this body."""
    return part(key, part(BODY, body))


def simple_request(asked: Asked) -> bytes:
    """SimpleRequest: one size."""
    compressed = part(COMPRESSED, number(ONLY, 1)) if asked.compressed else b""
    return number(RESPONSE_SIZE, sum(asked.sizes)) + with_payload(asked.body, PAYLOAD) + compressed + _status(asked)


def streaming_request(asked: Asked) -> bytes:
    """StreamingOutputCallRequest: a part for each size."""
    parameters = b"".join(part(PARAMETERS, number(SIZE, size)) for size in asked.sizes)
    return parameters + with_payload(asked.body, PAYLOAD) + _status(asked)


def read_simple(message: bytes) -> Asked:
    """What a SimpleRequest asks for."""
    asked = _asked(message, [_number(message, RESPONSE_SIZE)])
    asked.compressed = bool(_number(_bytes(message, COMPRESSED), ONLY))
    return asked


def read_streaming(message: bytes) -> Asked:
    """What a StreamingOutputCallRequest asks for."""
    parameters = [value for key, value in fields(message) if key == PARAMETERS and isinstance(value, bytes)]
    return _asked(message, [_number(value, SIZE) for value in parameters])


def aggregated(sizes: Iterable[int]) -> bytes:
    """StreamingInputCallResponse."""
    return number(ONLY, sum(sizes))


def read_aggregated(message: bytes) -> int:
    """What a StreamingInputCallResponse says."""
    return _number(message, ONLY)


def _asked(message: bytes, sizes: list[int]) -> Asked:
    status = _bytes(message, STATUS)
    return Asked(sizes, payload_of(message, PAYLOAD), _number(status, CODE), _bytes(status, TEXT).decode())


def _status(asked: Asked) -> bytes:
    return part(STATUS, number(CODE, asked.code) + part(TEXT, asked.text.encode())) if asked.code else b""


def _number(message: bytes, key: int) -> int:
    return next((value for found, value in fields(message) if found == key and isinstance(value, int)), 0)


def _bytes(message: bytes, key: int) -> bytes:
    return next((value for found, value in fields(message) if found == key and isinstance(value, bytes)), b"")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a varint has no end")
        value |= (message[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 0x80:
            return value, at
