"""What the Bookinfo services share: a small HTTP server and a client, from the standard library alone.

In:      a function from request to answer.
Out:     HTTP/1.1 with keep-alive on the port that the command line names; the log says who connects.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import streams  # type: ignore[import-not-found]  # beside this file

CALL_TIMEOUT_S = 5.0
TRACE_HEADERS = ("x-request-id", "traceparent", "tracestate", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "end-user")


class Request(NamedTuple):
    """What a service is asked; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class Answer(NamedTuple):
    """What a service answers."""

    body: str
    content_type: str = "application/json"
    status: int = 200


def json_answer(value: object, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(json.dumps(value, indent=2) + "\n", status=status)


def serve(answer: Callable[[Request], Answer | None]) -> None:
    """Serves until the process ends; None is not found. All answer /health, /ping, /headers, /download and /echo."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave together
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            if streams.serve(self):
                return
            self.rfile.read(int(self.headers.get("content-length") or 0))
            request = Request(self.command, self.path, {name.lower(): text for name, text in self.headers.items()})
            found = _common(request) or answer(request) or json_answer({"error": "not found"}, 404)
            body = found.body.encode()
            self.send_response(found.status)
            self.send_header("content-type", found.content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - names the library calls

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def verify_request(self, request: Any, client_address: Any) -> bool:
            print(f"connection from {client_address[0]}", file=sys.stderr, flush=True)
            return True

    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9080
    Server(("0.0.0.0", port), Handler).serve_forever()


def call(host: str, path: str, request: Request) -> object | None:
    """GETs JSON from another service on behalf of a request; None when it does not answer well."""
    kept = {name: request.headers[name] for name in TRACE_HEADERS if name in request.headers}
    connection = http.client.HTTPConnection(host, 9080, timeout=CALL_TIMEOUT_S)
    try:
        connection.request("GET", path, headers=kept)
        response = connection.getresponse()
        body = response.read()
        return json.loads(body) if response.status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(f"{host}{path}: {error!r}", file=sys.stderr, flush=True)
        return None
    finally:
        connection.close()


def _common(request: Request) -> Answer | None:
    match request.path:
        case "/health" | "/ping":
            return json_answer({"status": "healthy"})
        case "/download/end":
            return json_answer({"ended": streams.end_downloads()})
        case "/headers":
            return json_answer(request.headers)
    return None
