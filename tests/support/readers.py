"""What other programs make of HTTP/1 bytes: two independent parsers (h11, llhttp), and real servers that say what they understood.

In:     the bytes that a sidecar has sent on one connection.
Out:    `Message`s in order, up to where the bytes end; `Refused` where a reader does not take them.
Limits: a server's answer tells its reading in a header of its own, so that HEAD tells it too; nginx does not tell bodies.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h11
import httptools


@dataclass(frozen=True)
class Message:
    """One request, as a reader takes it."""

    method: bytes
    target: bytes
    host: bytes
    body: bytes


class Refused(Exception):
    """A reader does not accept bytes that a sidecar has sent."""


def by_h11(data: bytes) -> list[Message]:
    """The whole requests at the front of the bytes."""
    messages: list[Message] = []
    connection, head, body = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20), None, b""
    connection.receive_data(data)
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as fault:
            raise Refused(f"h11: {fault}") from None
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            messages.append(Message(bytes(head.method), bytes(head.target), dict(head.headers).get(b"host", b""), body))
        elif event is h11.PAUSED:
            answered(connection)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return messages  # the connection ends behind this request, or becomes something else
            connection.start_next_cycle()
        else:
            return messages


def answered(connection: h11.Connection) -> None:
    """h11 reads the next request only behind an answer to this one."""
    connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
    connection.send(h11.EndOfMessage())


class Llhttp:
    """The callbacks of one llhttp parser."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self._target, self._host, self._body = b"", b"", b""

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"host":
            self._host = value

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        self.messages.append(Message(self.parser.get_method(), self._target, self._host, self._body))


def by_llhttp(data: bytes) -> list[Message]:
    """The whole requests at the front of the bytes, or at the first that asks for another protocol."""
    reader = Llhttp()
    try:
        reader.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as fault:
        raise Refused(f"llhttp: {fault}") from None
    return reader.messages


PYTHON = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = b""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
        saw = [self.command, self.path, self.headers.get("host", ""), body.hex()]
        self.send_response(200)
        self.send_header("x-saw", json.dumps(saw))
        self.send_header("content-length", "0")
        self.end_headers()
    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
NODE = """
const server = require("http").createServer((request, response) => {
  const parts = [];
  request.on("data", part => parts.push(part));
  request.on("end", () => {
    const saw = [request.method, request.url, request.headers.host || "", Buffer.concat(parts).toString("hex")];
    response.writeHead(200, {"x-saw": JSON.stringify(saw), "content-length": "0"});
    response.end();
  });
});
server.listen(Number(process.argv[1]), "127.0.0.1");
"""
HAPROXY = """
global
    maxconn 200
defaults
    mode http
    timeout client 5s
    timeout server 5s
    timeout connect 1s
    option http-buffer-request
frontend origin
    bind 127.0.0.1:{port}
    http-request return status 200 hdr x-saw '["%[method]","%[url]","%[req.hdr(host)]","%[req.body,hex]"]'
"""
NGINX = """
daemon off;
error_log stderr crit;
pid {folder}/nginx.pid;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ add_header x-saw '["$request_method","$request_uri","$http_host",null]' always; return 200; }}
    }}
}}
"""
END = b"GET /the-end HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"


class Server:
    """A running origin."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self._port = port

    def read(self, data: bytes) -> list[tuple[bytes, bytes, bytes, bytes | None]]:
        """How it reads these bytes, which end with a whole request: method, target, host, body."""
        heard = b""
        with socket.create_connection(("127.0.0.1", self._port), timeout=20) as connection:
            connection.sendall(data + END)
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(1 << 16):
                    heard += chunk
        saw = [line[7:] for line in heard.split(b"\r\n") if line.lower().startswith(b"x-saw: ")]
        read = [json.loads(each.decode("latin-1")) for each in saw]
        assert read and read[-1][1] == "/the-end", (self.name, data, heard)
        return [
            (method.encode(), target.encode(), host.encode(), None if body is None else bytes.fromhex(body))
            for method, target, host, body in read[:-1]
        ]


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[list[Server]]:
    """Those origins that are installed here."""
    ports = iter(free_ports(4))
    commands = {"http.server": ([sys.executable, "-c", PYTHON], next(ports))}
    if node := shutil.which("node"):
        commands["node"] = ([node, "-e", NODE], next(ports))
    running: list[subprocess.Popen[bytes]] = []
    found: list[Server] = []
    try:
        for name, (command, port) in commands.items():
            running.append(subprocess.Popen([*command, str(port)]))
            found.append(Server(name, port))
        for name, text, words in (("haproxy", HAPROXY, ["-f"]), ("nginx", NGINX, ["-c"])):
            if program := shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/usr/local/bin"):
                port = next(ports)
                settings = folder / f"{name}.conf"
                settings.write_text(text.format(port=port, folder=folder))
                running.append(subprocess.Popen([program, *words, str(settings)], stderr=subprocess.DEVNULL))
                found.append(Server(name, port))
        for server in found:
            await_port(server)
        yield found
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(10)


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses now."""
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in opened]
    for each in opened:
        each.close()
    return ports


def await_port(server: Server) -> None:
    """Until it answers."""
    until = time.monotonic() + 20
    while True:
        try:
            assert server.read(b"") == []
            return
        except OSError:
            assert time.monotonic() < until, f"{server.name} does not start"
            time.sleep(0.02)
