"""The interop cases that need no credentials, as a client in Python; prints as JSON why each failed, or an empty text.

In:     an address, as the only argument. Limits: one channel for all cases, CALL_S for each call.
Source: gRPC's interop test descriptions, the client's half.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import grpc

from tests.interop import grpc_wire as wire
from tests.interop.grpc_server import INITIAL, TRAILING
from tests.interop.grpc_wire import Asked

CALL_S = 20.0
REQUESTS, RESPONSES = (27_182, 8, 1_828, 45_904), (31_415, 9, 2_653, 58_979)
LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
METADATA = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
SLEEPING_S, SLEEPING_TRIES = 0.001, 5


class Client:
    """The five methods."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.empty = channel.unary_unary(f"/{wire.SERVICE}/EmptyCall")
        self.unary = channel.unary_unary(f"/{wire.SERVICE}/UnaryCall")
        self.output = channel.unary_stream(f"/{wire.SERVICE}/StreamingOutputCall")
        self.input = channel.stream_unary(f"/{wire.SERVICE}/StreamingInputCall")
        self.duplex = channel.stream_stream(f"/{wire.SERVICE}/FullDuplexCall")


def empty_unary(client: Client) -> None:
    assert client.empty(b"", timeout=CALL_S) == b""


def large_unary(client: Client) -> None:
    _large(client)


def client_streaming(client: Client) -> None:
    messages = iter([wire.with_payload(bytes(size)) for size in REQUESTS])
    assert wire.read_aggregated(client.input(messages, timeout=CALL_S)) == sum(REQUESTS) == 74_922


def server_streaming(client: Client) -> None:
    answers = client.output(wire.streaming_request(Asked(list(RESPONSES))), timeout=CALL_S)
    assert tuple(len(wire.payload_of(answer)) for answer in answers) == RESPONSES


def ping_pong(client: Client) -> None:
    """Each request is sent only after the answer to the one before."""
    conversation = _Conversation()
    answers = client.duplex(conversation, timeout=CALL_S)
    for sent, wanted in zip(REQUESTS, RESPONSES, strict=True):
        conversation.say(wire.streaming_request(Asked([wanted], bytes(sent))))
        assert len(wire.payload_of(next(answers))) == wanted
    conversation.end()
    assert next(answers, None) is None
    assert answers.code() is grpc.StatusCode.OK


def empty_stream(client: Client) -> None:
    answers = client.duplex(iter([]), timeout=CALL_S)
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def client_compressed_unary(client: Client) -> None:
    _large(client, compression=grpc.Compression.Gzip)


def server_compressed_unary(client: Client) -> None:
    _large(client, answer_compressed=True)


def client_compressed_streaming(client: Client) -> None:
    messages = iter([wire.with_payload(bytes(size)) for size in REQUESTS])
    answer = client.input(messages, timeout=CALL_S, compression=grpc.Compression.Gzip)
    assert wire.read_aggregated(answer) == sum(REQUESTS)


def custom_metadata(client: Client) -> None:
    asked = wire.simple_request(Asked([LARGE_RESPONSE], bytes(LARGE_REQUEST)))
    _, call = client.unary.with_call(asked, timeout=CALL_S, metadata=METADATA)
    _shows(call)
    answers = client.duplex(iter([wire.streaming_request(Asked([1], b"x"))]), timeout=CALL_S, metadata=METADATA)
    assert len(list(answers)) == 1
    _shows(answers)


def status_code_and_message(client: Client) -> None:
    _ends_with(client, grpc.StatusCode.UNKNOWN, "test status message")
    asked = wire.streaming_request(Asked([], b"", 2, "test status message"))
    found = _fault(lambda: list(client.duplex(iter([asked]), timeout=CALL_S)))
    assert (found.code(), found.details()) == (grpc.StatusCode.UNKNOWN, "test status message")


def special_status_message(client: Client) -> None:
    _ends_with(client, grpc.StatusCode.UNKNOWN, SPECIAL)


def unimplemented_method(client: Client) -> None:
    call = client.channel.unary_unary(f"/{wire.SERVICE}/UnimplementedCall")
    assert _fault(lambda: call(b"", timeout=CALL_S)).code() is grpc.StatusCode.UNIMPLEMENTED


def unimplemented_service(client: Client) -> None:
    call = client.channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall")
    assert _fault(lambda: call(b"", timeout=CALL_S)).code() is grpc.StatusCode.UNIMPLEMENTED


def cancel_after_begin(client: Client) -> None:
    conversation = _Conversation()
    call = client.input.future(conversation, timeout=CALL_S)
    call.cancel()
    conversation.end()
    assert call.cancelled()
    assert call.code() is grpc.StatusCode.CANCELLED


def cancel_after_first_response(client: Client) -> None:
    conversation = _Conversation()
    answers = client.duplex(conversation, timeout=CALL_S)
    conversation.say(wire.streaming_request(Asked([RESPONSES[0]], bytes(REQUESTS[0]))))
    assert len(wire.payload_of(next(answers))) == RESPONSES[0]
    answers.cancel()
    conversation.end()
    assert _fault(lambda: next(answers)).code() is grpc.StatusCode.CANCELLED


def timeout_on_sleeping_server(client: Client) -> None:
    """A server whose clock is the first resets the stream with CANCEL, which may arrive within the deadline: then once more."""
    codes = [_timed_out(client)]
    while codes[-1] is grpc.StatusCode.CANCELLED and len(codes) < SLEEPING_TRIES:
        codes.append(_timed_out(client))
    assert codes[-1] is grpc.StatusCode.DEADLINE_EXCEEDED, codes


def _timed_out(client: Client) -> grpc.StatusCode:
    conversation = _Conversation()
    answers = client.duplex(conversation, timeout=SLEEPING_S)
    conversation.say(wire.streaming_request(Asked([], bytes(REQUESTS[0]))))
    found = _fault(lambda: next(answers))
    conversation.end()
    return found.code()


CASES: list[Callable[[Client], None]] = [
    empty_unary,
    large_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    client_compressed_unary,
    client_compressed_streaming,
    server_compressed_unary,
    custom_metadata,
    status_code_and_message,
    special_status_message,
    unimplemented_method,
    unimplemented_service,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
]


class _Conversation(Iterator[bytes]):
    """Requests that come one by one; gRPC's thread waits for the next."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()

    def say(self, message: bytes) -> None:
        self._queue.put(message)

    def end(self) -> None:
        self._queue.put(None)

    def __next__(self) -> bytes:
        message = self._queue.get()
        if message is None:
            raise StopIteration
        return message


def _large(client: Client, *, compression: grpc.Compression | None = None, answer_compressed: bool = False) -> None:
    asked = Asked([LARGE_RESPONSE], bytes(LARGE_REQUEST), compressed=answer_compressed)
    answer = client.unary(wire.simple_request(asked), timeout=CALL_S, compression=compression)
    assert wire.payload_of(answer) == bytes(LARGE_RESPONSE)


def _shows(call: grpc.Call) -> None:
    assert METADATA[0] in tuple(call.initial_metadata()), call.initial_metadata()
    assert METADATA[1] in tuple(call.trailing_metadata()), call.trailing_metadata()


def _ends_with(client: Client, code: grpc.StatusCode, text: str) -> None:
    asked = wire.simple_request(Asked([], b"", code.value[0], text))
    found = _fault(lambda: client.unary(asked, timeout=CALL_S))
    assert (found.code(), found.details()) == (code, text)


def _fault(call: Callable[[], object]) -> grpc.RpcError:
    try:
        answer = call()
    except grpc.RpcError as fault:
        return fault
    raise AssertionError(f"an answer instead of a fault: {answer!r}")


def main(address: str) -> None:
    found = {}
    with grpc.insecure_channel(address) as channel:
        client = Client(channel)
        for case in CASES:
            started = time.monotonic()
            try:
                case(client)
                found[case.__name__] = ""
            except (AssertionError, grpc.RpcError):
                found[case.__name__] = f"after {time.monotonic() - started:.2f} s: {traceback.format_exc()[-600:]}"
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
