"""The acts on interception and mutual TLS: each turns a running mesh into claims, each with what was seen.

In:      a `Stage`. Out: claims, in the order in which they are told; an act holds when all of them do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from meshdp.demo import judges
from meshdp.demo.stage import Recorded, Reply, Stage, wait_for
from meshdp.local.isolation.rights import MARK, MARKED, OWNER, ROOT, SIDECAR_ID

DETAILS = "http://details:9080/details/0"
PAGE, VISITOR = "productpage-v1", "visitor"
IDENTITY = "spiffe://cluster.local/ns/default/sa/bookinfo-"


class Claim(NamedTuple):
    """Something that should be so, whether it is, and what shows it."""

    text: str
    ok: bool
    seen: str


def interception(stage: Stage) -> Iterator[Claim]:
    """The application connects to details; rules hand the connection to the sidecar, which knows where it was going."""
    mode, sidecar = stage.mesh.rights, stage.sidecar_uid(PAGE)
    saved, wanted_rules = stage.rules(PAGE), (*WANTED_RULES, OWN_TRAFFIC_RULES[mode])
    missing = judges.missing_rules(saved, wanted_rules)
    seen = f"missing: {missing}" if missing else "\n".join(wanted_rules)
    yield Claim("the rules redirect to the sidecar, and leave its own traffic alone", not missing, seen)
    found = {each.port: each.uid for each in judges.listeners(stage.sockets(PAGE))}
    listening = {port: found.get(port) for port in (15001, 15006)}
    # As root that is 1337; without root what stands for it outside the mesh, or the user who runs it.
    own = sidecar is not None and (sidecar == SIDECAR_ID or mode != ROOT) and set(listening.values()) == {sidecar}
    yield Claim(f"the sidecar, user {sidecar}, listens where the rules lead", own, f"port: user {listening}")
    address = stage.service_address(PAGE, "details")
    with stage.holding(PAGE, DETAILS) as reply:
        wanted = f"{address}:9080"
        rows = wait_for(lambda: _rows(stage, PAGE, direction="outbound", original_destination=wanted))
    yield _answered("the application got its answer", reply, 200)
    seen = _shown(rows) if rows else f"no connection to {wanted} in /connections"
    yield Claim("the sidecar knows where the connection was going before it was redirected", bool(rows), seen)


def plaintext(stage: Stage) -> Iterator[Claim]:
    """With mutual TLS disabled, anyone on the way reads along."""
    stage.apply("1-mtls-disabled")
    with stage.recording(PAGE, "b-disabled") as recorded:
        reply = stage.get(PAGE, DETAILS)
    yield _answered("product page reads details", reply, 200)
    taken = recorded()
    lines = judges.request_lines(taken.streams)
    readable = "GET /details/0 HTTP/1.1" in lines
    yield Claim("the request line is readable on the link", readable, _recorded(taken, f"request lines {lines}"))


def mutual_tls(stage: Stage) -> Iterator[Claim]:
    """Under PERMISSIVE two sidecars speak TLS 1.3 with their identities; a client outside is answered in plaintext."""
    stage.apply("2-permissive")
    with stage.recording(PAGE, "c-permissive") as recorded, stage.holding(PAGE, DETAILS) as reply:
        rows = wait_for(lambda: _rows(stage, "details-v1", direction="inbound", peer=f"{IDENTITY}productpage"))
    yield _answered("product page reads details", reply, 200)
    taken = recorded()
    server = f"{stage.instance('details-v1').address}:9080"
    shaken = [each for each in judges.handshakes(taken.streams) if each.server == server]
    modern = bool(shaken) and all(each.version == judges.TLS_1_3 for each in shaken)
    yield Claim("the two sidecars speak TLS 1.3", modern, _recorded(taken, f"{_shaken(shaken)}"))
    lines = judges.request_lines(taken.streams)
    yield Claim("no request line is on the link", not lines, _recorded(taken, f"request lines {lines}"))
    seen = _shown(rows) if rows else "no such row in /connections of details"
    yield Claim("details' sidecar has proof of product page's identity", bool(rows), seen)
    forwarded = stage.get(PAGE, "http://details:9080/headers").body
    both = f"URI={IDENTITY}productpage" in forwarded and f"By={IDENTITY}details" in forwarded
    line = next((line.strip() for line in forwarded.splitlines() if "client-cert" in line), "no such header")
    yield Claim("details' application is told who asks", both, line)
    yield from _plain_visitor(stage)


def strict(stage: Stage) -> Iterator[Claim]:
    """STRICT refuses plaintext; a namespace overrides the mesh, a workload its namespace, a port its workload."""
    ratings = "http://ratings:9080/ratings/0"
    stage.apply("3-strict")
    yield _refused("mesh STRICT: the client outside is refused", stage.get(VISITOR, DETAILS))
    yield _answered("mesh STRICT: the mesh works", stage.get(PAGE, DETAILS), 200)
    stage.apply("4-strict-but-the-namespace")
    yield _answered("namespace PERMISSIVE wins over mesh STRICT", stage.get(VISITOR, DETAILS), 200)
    stage.apply("5-but-the-workload")
    yield _refused("workload STRICT wins over namespace PERMISSIVE", stage.get(VISITOR, DETAILS))
    yield _answered("... for that workload alone", stage.get(VISITOR, ratings), 200)
    stage.apply("6-but-the-port")
    yield _answered("port PERMISSIVE wins over workload STRICT", stage.get(VISITOR, DETAILS), 200)
    yield _answered("and the mesh works throughout", stage.get(PAGE, DETAILS), 200)


def _plain_visitor(stage: Stage) -> Iterator[Claim]:
    with stage.recording(VISITOR, "c-visitor") as recorded:
        reply = stage.get(VISITOR, DETAILS)
    taken = recorded()
    lines = judges.request_lines(taken.streams)
    plain = reply.status == 200 and "GET /details/0 HTTP/1.1" in lines and not judges.handshakes(taken.streams)
    yield Claim("a client outside the mesh is answered in plaintext", plain, _recorded(taken, f"{reply}, {lines}"))


def _answered(text: str, reply: Reply, status: int) -> Claim:
    return Claim(text, reply.status == status, str(reply))


def _refused(text: str, reply: Reply) -> Claim:
    """Refused means the connection is closed: no answer, not even an error page."""
    return Claim(text, reply.status == 0 and reply.error != "", str(reply))


def _rows(stage: Stage, workload: str, **wanted: str) -> list[dict[str, Any]]:
    rows = stage.connections(workload)
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def _shown(rows: list[dict[str, Any]]) -> str:
    row = rows[0]
    names = ("direction", "source", "original_destination", "protocol", "peer", "tls")
    return "  ".join(f"{name}={row[name]}" for name in names if row.get(name))


def _shaken(shaken: list[judges.Handshake]) -> str:
    return ", ".join(f"{each.client} -> {each.server} TLS {each.version:#06x}" for each in shaken) or "no handshake"


def _recorded(taken: Recorded, seen: str) -> str:
    size = sum(len(stream.data) for stream in taken.streams)
    return f"{taken.path.name}: {len(taken.streams)} streams, {size} bytes: {seen}"


OWN_TRAFFIC_RULES = {
    ROOT: f"-A ISTIO_OUTPUT -m owner --uid-owner {SIDECAR_ID} -j RETURN",
    OWNER: f"-A ISTIO_OUTPUT -m owner --uid-owner {SIDECAR_ID} -j RETURN",
    MARKED: f"-A ISTIO_OUTPUT -m mark --mark {MARK:#x} -j RETURN",
}
WANTED_RULES = (
    "-A PREROUTING -p tcp -j ISTIO_INBOUND",
    "-A OUTPUT -j ISTIO_OUTPUT",
    "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
    "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
    "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
    "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
)
