"""The interop service in Python: gRPC's own core with our messages.

In:     the port to listen on, as the only argument. Limits: plaintext; ended by SIGTERM.
Source: gRPC's interop test descriptions, the server's half.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import grpc

from tests.interop import grpc_wire as wire

INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
THREADS = 16


def empty_call(_: bytes, context: grpc.ServicerContext) -> bytes:
    _echo_metadata(context)
    return b""


def unary_call(message: bytes, context: grpc.ServicerContext) -> bytes:
    _echo_metadata(context)
    asked = wire.read_simple(message)
    _end_as_asked(asked, context)
    if asked.compressed:
        context.set_compression(grpc.Compression.Gzip)
    return wire.with_payload(bytes(sum(asked.sizes)))


def streaming_output(message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    return _answers(wire.read_streaming(message), context)


def streaming_input(messages: Iterable[bytes], _: grpc.ServicerContext) -> bytes:
    return wire.aggregated(len(wire.payload_of(message)) for message in messages)


def full_duplex(messages: Iterable[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    _echo_metadata(context)
    for message in messages:
        yield from _answers(wire.read_streaming(message), context)


def _answers(asked: wire.Asked, context: grpc.ServicerContext) -> Iterator[bytes]:
    _end_as_asked(asked, context)
    for size in asked.sizes:
        yield wire.with_payload(bytes(size))


def _end_as_asked(asked: wire.Asked, context: grpc.ServicerContext) -> None:
    if asked.code:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        context.abort(codes[asked.code], asked.text)


def _echo_metadata(context: grpc.ServicerContext) -> None:
    got = dict(context.invocation_metadata())
    if INITIAL in got:
        context.send_initial_metadata(((INITIAL, got[INITIAL]),))
    if TRAILING in got:
        context.set_trailing_metadata(((TRAILING, got[TRAILING]),))


def main(port: int) -> None:
    handlers: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "EmptyCall": (grpc.unary_unary_rpc_method_handler, empty_call),
        "UnaryCall": (grpc.unary_unary_rpc_method_handler, unary_call),
        "StreamingOutputCall": (grpc.unary_stream_rpc_method_handler, streaming_output),
        "StreamingInputCall": (grpc.stream_unary_rpc_method_handler, streaming_input),
        "FullDuplexCall": (grpc.stream_stream_rpc_method_handler, full_duplex),
    }
    server = grpc.server(futures.ThreadPoolExecutor(THREADS))
    methods = {name: kind(answer) for name, (kind, answer) in handlers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, methods),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(int(sys.argv[1]))
