"""Sends HTTP requests from inside a workload and prints what came back, one JSON object a line.

In:      JSON on the command line: {"requests": [{"method", "url", "headers"}], "hold": false}.
Out:     {"status", "headers", "body", "error"} a request; with "hold" the connection stays until standard input ends.
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


def main() -> None:
    """Sends every request on a connection of its own."""
    wanted = json.loads(sys.argv[1])
    for request in wanted["requests"]:
        connection = _connection(request["url"])
        print(json.dumps(_exchange(connection, request)), flush=True)
        if wanted["hold"]:
            sys.stdin.read()
        connection.close()


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_S)


def _exchange(connection: http.client.HTTPConnection, request: dict[str, Any]) -> dict[str, Any]:
    try:
        connection.request(request["method"], urlsplit(request["url"]).path or "/", headers=request["headers"])
        response = connection.getresponse()
        headers = {name.lower(): text for name, text in response.getheaders()}
        body = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "headers": {}, "body": "", "error": f"{type(error).__name__}: {error}"}
    return {"status": response.status, "headers": headers, "body": body, "error": ""}


if __name__ == "__main__":
    main()
