"""The paths that are compared: who stands where, where the load goes, and what is measured.

Out:    `PARTS`: the scenarios of each group of the report, in the order in which they are measured.
Limits: where the two proxies speak HTTP/2 to each other, so do the other proxies that can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import documents
from bench.documents import BULK_SERVICE_IP, GRPC_SERVICE_IP, MANY_SERVICE_IPS, PLAIN_HOST, SERVICE_HOST, SERVICE_IP
from bench.measure import Aim
from bench.proxies import Role
from bench.stage import (
    BULK_PORT,
    GRPC_PORT,
    INBOUND,
    MANY_IPS,
    OUTBOUND,
    PLAIN_IP,
    PLAIN_PORT,
    PORT,
    PROXY_UID,
    SERVER_IP,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One path. `roles` by end: what another proxy does there; the floor does the same without TLS.

    variant: of our sidecars, a name of `documents.VARIANTS`. params: told in the report beside the path.
    """

    group: str
    path: str
    aim: Aim
    roles: Mapping[str, Role]
    connections: tuple[int, ...]
    variant: str = documents.USUAL
    params: Mapping[str, Any] = field(default_factory=dict)
    straight: bool = False  # the load could go where it goes without any proxy or rule
    own_twice: bool = False  # our large mesh takes part, too
    longer: float = 1.0  # than usual is measured: what varies within a second takes several

    @property
    def tcp(self) -> bool:
        """Bytes are carried, not requests."""
        return any(role.tcp for role in self.roles.values())


PROXY_ITSELF = "127.0.0.6"  # who dials the application, as Istio's inbound side does
APPLICATION, BULK_SOURCE, GRPC_SERVER = f"{SERVER_IP}:{PORT}", f"{SERVER_IP}:{BULK_PORT}", f"{SERVER_IP}:{GRPC_PORT}"
TO_SERVICE = Aim(f"{SERVICE_IP}:{PORT}", SERVICE_HOST)
# Loads at the proxy's user pass the rules of their own end, as a client outside the mesh would.
TO_APPLICATION = Aim(APPLICATION, SERVICE_HOST, PROXY_UID)
OVER_TLS = Aim(APPLICATION, SERVICE_HOST, PROXY_UID, tls=True)


def _pair(upstream: str, between: str = "", **more: Any) -> dict[str, Role]:
    """Both proxies. between: "h2" where they speak HTTP/2 to each other."""
    return {
        "server": Role(INBOUND, upstream, "server", PROXY_ITSELF, h2_taken=bool(between), **more),
        "client": Role(OUTBOUND, upstream, "client", "", h2_dialled=bool(between), **more),
    }


def _inbound(tls: str = "") -> dict[str, Role]:
    return {"server": Role(INBOUND, APPLICATION, tls, PROXY_ITSELF)}


OUTBOUND_ONLY = {"client": Role(OUTBOUND, f"{PLAIN_IP}:{PLAIN_PORT}")}
TO_PLAIN = Aim(f"{PLAIN_IP}:{PLAIN_PORT}", PLAIN_HOST)


def _to_many(count: int) -> Scenario:
    name = {4: "few", 16: "many"}[count]
    aim = Aim(f"{MANY_SERVICE_IPS[count]}:{PORT}", f"{name}.default:{PORT}")
    roles = _pair(APPLICATION, "h2")
    client = Role(OUTBOUND, ",".join(f"{each}:{PORT}" for each in MANY_IPS[:count]), "client", h2_dialled=True)
    return Scenario("peers_4_16", "both", aim, {**roles, "client": client}, (64,), params={"peers": count})


GRPC_ROLES = {
    "server": Role(INBOUND, GRPC_SERVER, "server", PROXY_ITSELF, h2_taken=True, h2_dialled=True, grpc=True),
    "client": Role(OUTBOUND, GRPC_SERVER, "client", "", h2_taken=True, h2_dialled=True, grpc=True),
}

PARTS: dict[str, tuple[Scenario, ...]] = {
    "http1": (
        Scenario("http1", "inbound", TO_APPLICATION, _inbound(), (1, 16, 64), straight=True),
        Scenario("http1", "outbound", TO_PLAIN, OUTBOUND_ONLY, (16, 64)),
    ),
    "http1_tls": (Scenario("http1_tls", "inbound", OVER_TLS, _inbound("server"), (16, 64)),),
    "pair_http1": (Scenario("pair_http1", "both", TO_SERVICE, _pair(APPLICATION), (1, 16, 64), "http1"),),
    "pair_h2": (Scenario("pair_h2", "both", TO_SERVICE, _pair(APPLICATION, "h2"), (1, 16, 64)),),
    "grpc": (
        Scenario(
            "grpc",
            "both",
            Aim(f"{GRPC_SERVICE_IP}:{GRPC_PORT}", "rpc.default", grpc=True),
            GRPC_ROLES,
            (1, 16),
            params={"streams_each": 10},
        ),
    ),
    "tcp_bulk": (
        Scenario(
            "tcp_bulk",
            "inbound",
            Aim(BULK_SOURCE, "", PROXY_UID),
            {"server": Role(INBOUND, BULK_SOURCE, "", PROXY_ITSELF, tcp=True)},
            (1,),
            longer=2.0,
        ),
    ),
    "tls_bulk": (
        Scenario(
            "tls_bulk",
            "both",
            Aim(f"{BULK_SERVICE_IP}:{BULK_PORT}", ""),
            _pair(BULK_SOURCE, tcp=True),
            (1,),
            longer=2.0,
        ),
    ),
    "handshake": tuple(
        Scenario(
            "handshake",
            "inbound",
            Aim(APPLICATION, SERVICE_HOST, PROXY_UID, fresh=True, tls=True, hybrid=hybrid),
            _inbound("server"),
            (4,),
            params={"key_exchange": "X25519MLKEM768" if hybrid else "X25519"},
        )
        for hybrid in (False, True)
    ),
    "connect_warm": (
        Scenario(
            "connect_warm",
            "both",
            Aim(f"{SERVICE_IP}:{PORT}", SERVICE_HOST, fresh=True),
            _pair(APPLICATION),
            (16,),
        ),
    ),
    "latency": (
        Scenario(
            "latency",
            "both",
            Aim(f"{SERVICE_IP}:{PORT}", SERVICE_HOST, rate=1500),
            _pair(APPLICATION, "h2"),
            (16,),
            params={"requests_per_second": 1500},
            longer=2.0,
        ),
    ),
    "peers_4_16": (_to_many(4), _to_many(16)),
    "workers_2": (
        Scenario(
            "workers_2",
            "both",
            TO_SERVICE,
            {end: role.with_workers(2) for end, role in _pair(APPLICATION, "h2").items()},
            (64,),
            "two-workers",
        ),
    ),
    "scale": (
        Scenario("scale", "inbound", TO_APPLICATION, _inbound(), (64,), own_twice=True),
        Scenario("scale", "outbound", TO_PLAIN, OUTBOUND_ONLY, (64,), own_twice=True),
    ),
}
# What memory and start are taken of.
PAIR = PARTS["pair_http1"][0]
