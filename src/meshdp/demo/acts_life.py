"""The acts on a mesh in use: it changes, a part of it dies, and what it costs.

In:      a `Stage`. Out: claims, in the order in which they are told; an act holds when all of them do.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from meshdp.demo import costs, judges, traffic
from meshdp.demo.acts import DETAILS, PAGE, VISITOR, Claim
from meshdp.demo.stage import Stage, wait_for
from meshdp.demo.traffic import Load

SERVER = "details-v1"
BASE = "http://details:9080"
CHANGES = 20
STEPS = ("11-by-namespace", "10-by-principal")
ENOUGH = 100  # requests: fewer would prove little

KILL_RATE = 50
KILL_WITHIN_S = 1.0
KILL_TIMEOUT_S = 30.0

COST_REQUESTS = 1000
COST_RATE = 400
MEMORY_LIMIT_MB = 24.0
CPU_LIMIT_US = 2000.0
ADDED_LIMIT_MS = 20.0


def change(stage: Stage) -> Iterator[Claim]:
    """Under 200 requests a second, a download and an open WebSocket, policies and certificates change 20 times."""
    stage.apply("10-by-principal")
    load = Load(DETAILS, per_second=200, download=f"{BASE}/download", websocket=f"{BASE}/echo")
    with traffic.running(stage, PAGE, load) as going:
        took, renewed = [], 0
        for number in range(CHANGES):
            took.append(stage.apply(STEPS[number % 2]))
            renewed += stage.renew()
        ping = stage.get(PAGE, f"{BASE}/ping")
        found = going.end()
    seen = (
        f"{len(took)} changes, each in force in {statistics.median(took) * 1e3:.0f} ms, at most {max(took) * 1e3:.0f}"
    )
    yield Claim("the policies changed, each time everywhere", len(took) == CHANGES, seen)
    yield Claim("so did every sidecar's certificate", renewed >= CHANGES, f"{renewed} renewals, serial numbers differ")
    yield Claim("the last policy decides", ping.status == 403, f"GET /ping: {ping}")
    seen = (
        f"{found.answered} answered, {found.failed} failed, {found.per_second:.0f} a second, p99 {found.p99_ms:.1f} ms"
    )
    whole = found.failed == 0 and found.answered >= ENOUGH
    yield Claim("no request failed", whole, "; ".join([seen, *found.errors]))
    lasted = found.download
    seen = lasted.error or f"{lasted.bytes} bytes in {found.seconds:.1f} s, every one as it should be"
    yield Claim("the download went on through all of it", lasted.error == "" and lasted.bytes > 0, seen)
    spoken = found.websocket
    seen = spoken.error or f"{spoken.echoed} messages echoed on one connection"
    yield Claim("so did the WebSocket", spoken.error == "" and spoken.echoed > 0, seen)


def killed(stage: Stage) -> Iterator[Claim]:
    """The sidecar of details is killed: nothing passes beside it, and it is back within a second."""
    stage.apply("10-by-principal")
    before = stage.instance(SERVER)
    log_before = len(stage.application_log(SERVER))
    mesh = Load(DETAILS, KILL_RATE, keep_alive=False)
    outside = Load(f"http://{before.address}:9080/details/0", KILL_RATE, keep_alive=False)
    with (
        stage.recording(SERVER, "i-killed") as recorded,
        traffic.running(stage, PAGE, mesh) as inner,
        traffic.running(stage, VISITOR, outside) as outer,
    ):
        at = stage.kill_sidecar(SERVER)
        back = wait_for(lambda: stage.started_again(SERVER, before), KILL_TIMEOUT_S)
        served = back is not None and wait_for(lambda: stage.get(PAGE, DETAILS).status == 200, KILL_TIMEOUT_S)
        from_mesh, from_outside = inner.end(), outer.end()
    taken = recorded()
    yield Claim("its sidecar is gone, and another takes its place", back is not None, stage.sidecars(SERVER, before))
    plain = judges.unencrypted(taken.streams, f"{before.address}:9080")
    seen = f"{taken.path.name}: {len(taken.streams)} streams; unencrypted from details: {plain[:3] or 'none'}"
    yield Claim("on the link, nobody was answered in plaintext", not plain and bool(taken.streams), seen)
    seen = f"{from_outside.failed} attempts refused, {from_outside.answered} answered"
    yield Claim(
        "the client outside was refused throughout", from_outside.answered == 0 and from_outside.failed > 0, seen
    )
    peers = judges.connected_from(stage.application_log(SERVER)[log_before:])
    seen = ", ".join(f"{count} from {peer}" for peer, count in sorted(peers.items())) or "no connection"
    yield Claim("only the sidecar ever reached the application", set(peers) == {SIDECAR_SOURCE}, seen)
    gap = judges.outage(from_mesh.answers, at)
    within = bool(served) and back is not None and gap is not None and gap.again_at - back <= KILL_WITHIN_S
    seen = "no answer after the kill"
    if gap is not None and back is not None:
        seen = (
            f"restarted {(back - at) * 1e3:.0f} ms after the kill, answered {(gap.again_at - back) * 1e3:.0f} ms later"
        )
        seen += f"; {gap.lost} of {len(from_mesh.answers)} requests found no service"
    yield Claim("the mesh is served again within a second of the restart", within, seen)


def cost(stage: Stage) -> Iterator[Claim]:
    """What a sidecar costs: its memory, its CPU for each request, the time it adds."""
    stage.apply("10-by-principal")
    direct = costs.measured(stage, SERVER, Load("http://127.0.0.1:9080/details/0", COST_RATE), COST_REQUESTS)
    through = costs.measured(stage, PAGE, Load(DETAILS, COST_RATE), COST_REQUESTS)
    failed = direct.outcome.failed + through.outcome.failed
    seen = f"{direct.outcome.answered} without a sidecar, {through.outcome.answered} through two, {failed} failed"
    yield Claim("every request was answered", failed == 0, "; ".join([seen, *through.outcome.errors]))
    for name in (SERVER, PAGE):
        weight = costs.memory(stage.instance(name).sidecar_pid)
        text = f"the sidecar of {name} has at most {MEMORY_LIMIT_MB:.0f} MB"
        yield Claim(text, 0 < weight.size_mb <= MEMORY_LIMIT_MB, str(weight))
    own, other = through.cpu_us[SERVER], through.cpu_us[PAGE]
    seen = f"details {own:.0f} µs, product page {other:.0f} µs; its application spends {direct.application_us:.0f} µs"
    yield Claim("CPU for each request is small in both sidecars", 0 < own + other <= CPU_LIMIT_US, seen)
    added = through.outcome.p50_ms - direct.outcome.p50_ms
    seen = (
        f"median {direct.outcome.p50_ms:.2f} ms without, {through.outcome.p50_ms:.2f} ms through two: {added:+.2f} ms"
    )
    yield Claim("so is the time that two of them add", added <= ADDED_LIMIT_MS, seen)


SIDECAR_SOURCE = "127.0.0.6"
