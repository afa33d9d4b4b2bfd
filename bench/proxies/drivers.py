"""Peers that the environment names: a binary, and a driver that configures and becomes it.

In:     `BENCH_PEER_ZTUNNEL=/path/to/binary` with `BENCH_PEER_ZTUNNEL_DRIVER=/path/to/driver`, for any name.
Out:    `Driven` by name (`ztunnel`; `LINKERD2_PROXY` is `linkerd2-proxy`); a place as JSON; command lines.
Limits: a driver is run as `DRIVER BINARY PLACE.json` at its end of the lane, by the proxies' user, on their processor.
        It ends with `exec`: what is measured is the process that was started. bench/README.md says what a place holds.
Fails:  a sentence for each variable that does not fit: the peer is named in the report then, and has no figure. A
        driver that exits with UNABLE says that its peer cannot stand in a place, and why on stderr.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.proxies import Role
from bench.scenarios import Scenario
from bench.stage import PROXY_UID, Lane

PREFIX, SUFFIX = "BENCH_PEER_", "_DRIVER"
NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")
TAKEN = ("floor", "direct", "meshdp", "nginx", "haproxy", "envoy")
UNABLE = 69  # EX_UNAVAILABLE of sysexits.h


class Unable(RuntimeError):
    """A peer cannot stand in a place, by its driver's own words."""


@dataclass(frozen=True, slots=True)
class Driven:
    """A peer's two programs."""

    binary: Path
    driver: Path


def named(variables: Mapping[str, str]) -> tuple[dict[str, Driven], dict[str, str]]:
    """The peers that the variables name; and what is wrong with others, by name."""
    stems = sorted({key.removesuffix(SUFFIX) for key, value in variables.items() if key.startswith(PREFIX) and value})
    found, wrong = {}, {}
    for stem in stems:
        name = stem.removeprefix(PREFIX).lower().replace("_", "-")
        if fault := _fault(name, stem, variables):
            wrong[name] = fault
        else:
            found[name] = Driven(Path(variables[stem]), Path(variables[stem + SUFFIX]))
    return found, wrong


def _fault(name: str, stem: str, variables: Mapping[str, str]) -> str:
    if not NAME.fullmatch(name) or name in TAKEN:
        return f"{stem}: expected a name of at most 16 letters, digits and _ that is not {', '.join(TAKEN)}"
    for variable in (stem, stem + SUFFIX):
        value = variables.get(variable, "")
        if not value:
            return f"{variable} is not set: a peer is a binary and a driver"
        if not os.path.isabs(value) or shutil.which(value) is None:
            return f"{variable}: expected the absolute path of a program, found {value!r}"
    return ""


def place(name: str, where: Lane, scenario: Scenario, end: str) -> dict[str, Any]:
    """Everything that a driver is told."""
    role, folder = scenario.roles[end], where.folder / name
    files = {"authority": "ca.pem", "chain": "leaf.pem", "key": "key.pem", "chain_and_key": "both.pem"}
    return {
        "lane": where.name,
        "namespace": where.namespaces[end],
        "end": end,
        "group": scenario.group,
        "path": scenario.path,
        "params": dict(scenario.params),
        "folder": str(folder / end),
        "listen": {"address": "0.0.0.0", "port": role.port},
        "upstreams": role.upstreams,
        "dial_from": role.source,
        "tls": role.tls,
        "certificates": {meaning: str(folder / file) for meaning, file in files.items()},
        "taken": _protocol(role, h2=role.h2_taken),
        "dialled": _protocol(role, h2=role.h2_dialled),
        "grpc": role.grpc,
        "policies": role.policies,
        "workers": role.workers,
    }


def _protocol(role: Role, *, h2: bool) -> str:
    return "tcp" if role.tcp else "http2" if h2 else "http1"


def command(peer: Driven, name: str, where: Lane, scenario: Scenario, end: str) -> list[str]:
    """Writes the place beside the certificates; the command line that becomes the peer."""
    folder = where.folder / name / end
    folder.mkdir(exist_ok=True)
    shutil.chown(folder, PROXY_UID, PROXY_UID)
    file = folder / "place.json"
    file.write_text(json.dumps(place(name, where, scenario, end), indent=1) + "\n")
    return [str(peer.driver), str(peer.binary), str(file)]
