"""Exchanges that last: a download that goes on until it is told to end, and a WebSocket that echoes.

In:      a request's handler, whose connection is used as it is.
Out:     GET /download: 8-byte numbers that count up, in chunks, until GET /download/end or LIMIT_S; GET /echo: what
         comes goes back (RFC 6455).
Limits:  WebSocket frames of at most 125 bytes, unfragmented; anything else ends the connection.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler

PIECE_NUMBERS = 2048
PAUSE_S = 0.02
LIMIT_S = 60.0
FRAME_LIMIT = 125
ACCEPT_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_ending: set[threading.Event] = set()


def serve(handler: BaseHTTPRequestHandler) -> bool:
    """Serves one of these exchanges to its end; False when another is asked for."""
    match handler.path:
        case "/download":
            _download(handler)
        case "/echo" if handler.headers.get("upgrade", "").lower() == "websocket":
            _echo(handler)
        case _:
            return False
    return True


def end_downloads() -> int:
    """Every download of this moment ends after its current piece; how many they are."""
    running = list(_ending)
    for event in running:
        event.set()
    return len(running)


def _download(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "application/octet-stream")
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    ended, first, until = threading.Event(), 0, time.monotonic() + LIMIT_S
    _ending.add(ended)
    try:
        while not ended.wait(PAUSE_S) and time.monotonic() < until:
            piece = struct.pack(f">{PIECE_NUMBERS}Q", *range(first, first + PIECE_NUMBERS))
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            handler.wfile.flush()
            first += PIECE_NUMBERS
        handler.wfile.write(b"0\r\n\r\n")
    finally:
        _ending.discard(ended)


def _echo(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    accepted = hashlib.sha1((handler.headers.get("sec-websocket-key", "") + ACCEPT_KEY).encode()).digest()
    handler.send_response_only(101)
    handler.send_header("upgrade", "websocket")
    handler.send_header("connection", "Upgrade")
    handler.send_header("sec-websocket-accept", base64.b64encode(accepted).decode())
    handler.end_headers()
    handler.wfile.flush()
    while len(head := handler.rfile.read(2)) == 2:
        kind, size = head[0], head[1] & 0x7F
        if size > FRAME_LIMIT or not head[1] & 0x80:
            return
        mask, masked = handler.rfile.read(4), handler.rfile.read(size)
        body = bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))
        handler.wfile.write(bytes([kind, size]) + body)
        handler.wfile.flush()
        if kind & 0x0F == _CLOSE:
            return


_CLOSE = 8
