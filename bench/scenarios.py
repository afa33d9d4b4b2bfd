"""The paths that are compared: who stands where, where the load goes, and what is measured.

Out:    `SCENARIOS` by part name. `inbound`, `outbound`: one hop of HTTP/1.1; `pair`: both sidecars with mutual TLS
        between them; `connect`: the same with a connection for each request; `bulk`: plain TCP through one inbound hop;
        `bulk-mtls`: TCP through the pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.measure import Aim
from bench.proxies import Role
from bench.sidecars import BULK_SERVICE_IP, PLAIN_HOST, SERVICE_HOST, SERVICE_IP
from bench.stage import BULK_PORT, INBOUND, OUTBOUND, PLAIN_IP, PLAIN_PORT, PORT, PROXY_UID, SERVER_IP


@dataclass(frozen=True, slots=True)
class Scenario:
    """One path. `roles` by end: what another proxy does there; the floor does the same without TLS."""

    group: str
    path: str
    aim: Aim
    roles: Mapping[str, Role]
    connections: tuple[int, ...]

    @property
    def straight(self) -> bool:
        """The load could go where it goes without any proxy or rule."""
        return self.group == "http1_hop" and "server" in self.roles

    @property
    def tcp(self) -> bool:
        """Bytes are carried, not requests."""
        return any(role.tcp for role in self.roles.values())


PROXY_ITSELF = "127.0.0.6"  # who dials the application, as Istio's inbound side does
APPLICATION, BULK_SOURCE = f"{SERVER_IP}:{PORT}", f"{SERVER_IP}:{BULK_PORT}"


def _pair(upstream: str, *, tcp: bool = False) -> dict[str, Role]:
    return {
        "server": Role(INBOUND, upstream, "server", PROXY_ITSELF, tcp),
        "client": Role(OUTBOUND, upstream, "client", "", tcp),
    }


# The load of `inbound` and `bulk` runs as the proxy's user, so that the client's own rules let it pass.
SCENARIOS = {
    "inbound": Scenario(
        "http1_hop",
        "inbound",
        Aim(APPLICATION, SERVICE_HOST, PROXY_UID),
        {"server": Role(INBOUND, APPLICATION, "", PROXY_ITSELF)},
        (1, 16, 64),
    ),
    "outbound": Scenario(
        "http1_hop",
        "outbound",
        Aim(f"{PLAIN_IP}:{PLAIN_PORT}", PLAIN_HOST),
        {"client": Role(OUTBOUND, f"{PLAIN_IP}:{PLAIN_PORT}")},
        (16, 64),
    ),
    "pair": Scenario("mtls_pair", "both", Aim(f"{SERVICE_IP}:{PORT}", SERVICE_HOST), _pair(APPLICATION), (1, 16, 64)),
    "connect": Scenario(
        "new_connection",
        "both",
        Aim(f"{SERVICE_IP}:{PORT}", SERVICE_HOST, fresh=True),
        _pair(APPLICATION),
        (16,),
    ),
    "bulk": Scenario(
        "tcp_bulk",
        "inbound",
        Aim(BULK_SOURCE, "", PROXY_UID),
        {"server": Role(INBOUND, BULK_SOURCE, "", PROXY_ITSELF, tcp=True)},
        (1,),
    ),
    "bulk-mtls": Scenario(
        "tcp_mtls_bulk", "both", Aim(f"{BULK_SERVICE_IP}:{BULK_PORT}", ""), _pair(BULK_SOURCE, tcp=True), (1,)
    ),
}
