"""Reads a line of a sidecar's access log back into the request that it tells of.

In:     a line in either of the log's forms: Istio's text with our two columns, or JSON.
Out:    `Logged`: what the line knows; headers that a log has no column for are not known.
Fails:  `Malformed`, saying what was expected.
Source: native/engine/src/observe/access_log/format.rs; istio-semantics G.3.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from meshdp.verdicts.request import Malformed

LINE_LIMIT_BYTES = 1 << 20
OPTION = "--log-line"


@dataclass(frozen=True, slots=True)
class Logged:
    """One line. http: empty for an opaque connection."""

    principal: str | None
    source_ip: str
    destination_ip: str
    port: int
    sni: str
    http: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def logged(line: str) -> Logged:
    """Reads a line."""
    if len(line) > LINE_LIMIT_BYTES:
        raise Malformed(OPTION, f"a line has at most {LINE_LIMIT_BYTES} bytes")
    columns = _json(line) if line.lstrip().startswith("{") else _text(line)
    if columns["direction"] != "inbound":
        raise Malformed(OPTION, "policy is the matter of the side that is called: take an inbound line of its sidecar")
    source_ip, _ = _address(columns["downstream_remote_address"])
    destination_ip, port = _address(columns["downstream_local_address"])
    principal = columns["source_principal"].removeprefix("spiffe://")
    sni = columns["requested_server_name"]
    return Logged(
        principal or None, source_ip, destination_ip, port, sni, _http(columns), columns["response_code_details"]
    )


def _http(columns: dict[str, str]) -> dict[str, Any]:
    if not columns["method"]:
        return {}
    headers = {"user-agent": columns["user_agent"], "x-forwarded-for": columns["x_forwarded_for"]}
    headers["x-request-id"] = columns["request_id"]
    return {
        "method": columns["method"],
        "path": columns["path"],
        "host": columns["authority"] or None,
        "headers": {name: value for name, value in headers.items() if value},
    }


def _json(line: str) -> dict[str, str]:
    try:
        read = json.loads(line)
    except ValueError as error:
        raise Malformed(OPTION, f"not JSON: {error}") from error
    missing = [name for name in _KEYS if name not in read]
    if missing:
        raise Malformed(OPTION, f"expected an access log line of a sidecar; it lacks {', '.join(missing)}")
    return {name: str(read[name] or "") for name in _KEYS}


def _text(line: str) -> dict[str, str]:
    words = [_unescaped(quoted) if quoted is not None else bare for quoted, bare in _words(line)]
    if len(words) != len(_COLUMNS):
        raise Malformed(OPTION, f"expected {len(_COLUMNS)} columns of a sidecar's access log, found {len(words)}")
    columns = {name: "" if word == "-" else word for name, word in zip(_COLUMNS, words, strict=True)}
    method, _, rest = columns.pop("request").partition(" ")
    path, _, _ = rest.rpartition(" ")
    return {**columns, "method": "" if method == "-" else method, "path": path}


def _words(line: str) -> list[tuple[str | None, str]]:
    return [(found["quoted"], found["bare"] or "") for found in _WORD.finditer(line.strip())]


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def _address(text: str) -> tuple[str, int]:
    ip, _, port = text.rpartition(":")
    if not ip or not port.isdecimal():
        raise Malformed(OPTION, f"expected an address with its port, found {text!r}")
    return ip.strip("[]"), int(port)


_WORD = re.compile(r'\[(?P<time>[^\]]*)\](?=\s)|"(?P<quoted>[^"]*)"|(?P<bare>\S+)')
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
_COLUMNS = (
    "time request response_code response_flags response_code_details connection_termination_details "
    "upstream_transport_failure_reason bytes_received bytes_sent duration upstream_service_time x_forwarded_for "
    "user_agent request_id authority upstream_host upstream_cluster upstream_local_address downstream_local_address "
    "downstream_remote_address requested_server_name route_name direction source_principal"
).split()
_KEYS = (
    "direction method path authority user_agent request_id x_forwarded_for downstream_local_address "
    "downstream_remote_address requested_server_name source_principal response_code_details"
).split()
