"""The mesh that is measured, as documents: a client and a server in it, an application outside, and the variants.

Out:    `VARIANTS` by name: how the usual mesh is changed, and how many workers a sidecar has.
Limits: every address lies on the lane's link; services without a lane behind them (`large`) lead nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.stage import BULK_PORT, CLIENT_IP, GRPC_PORT, MANY_IPS, PLAIN_IP, PLAIN_PORT, PORT, SERVER_IP

SERVICE_HOST, PLAIN_HOST = f"server.default:{PORT}", f"plain.default:{PLAIN_PORT}"
SERVICE_IP, PLAIN_SERVICE_IP, BULK_SERVICE_IP, GRPC_SERVICE_IP = "10.96.0.2", "10.96.0.3", "10.96.0.4", "10.96.0.5"
MANY_SERVICE_IPS = {4: "10.96.0.6", 16: "10.96.0.7"}
LARGE_SERVICES, LARGE_ENDPOINTS, LARGE_POLICIES = 1000, 10, 100
USUAL = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run our sidecars.

    shared: HTTP/2 between them, the default; otherwise the server is marked as a sidecar of another make.
    workers: threads of each sidecar. large: a thousand services with ten endpoints each, and a hundred policies.
    options: more words of the sidecar's command line, for what it can be told and the documents cannot.
    """

    shared: bool = True
    workers: int = 1
    large: bool = False
    options: tuple[str, ...] = ()


VARIANTS = {
    USUAL: Variant(),
    "http1": Variant(shared=False),
    "two-workers": Variant(workers=2),
    "large": Variant(large=True),
}


def documents(variant: Variant) -> str:
    """All of them, as one YAML text."""
    parts = [*_workloads(shared=variant.shared), *_services(), *_policies()]
    if variant.large:
        parts += [*_many_services(), *_many_policies()]
    return "\n---\n".join(parts)


def _pod(name: str, address: str, labels: str, account: str = "") -> str:
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{{labels}}}}}\n"
        f"spec: {{serviceAccountName: {account or name}}}\nstatus: {{podIP: {address}}}"
    )


def _workloads(*, shared: bool) -> Iterator[str]:
    mesh = "security.istio.io/tlsMode: istio"
    ours = f'{mesh}, meshdp.io/sidecar: "true"'
    yield _pod("client", CLIENT_IP, f"app: client, {ours}")
    yield _pod("server", SERVER_IP, f"app: server, {ours if shared else mesh}")
    yield _pod("plain", PLAIN_IP, "app: plain")
    for number, address in enumerate(MANY_IPS):
        few = 'few: "yes", ' if number < min(MANY_SERVICE_IPS) else ""
        yield _pod(f"many-{number}", address, f'many: "yes", {few}{ours if shared else mesh}', "server")


def _service(name: str, address: str, selector: str, ports: dict[str, int]) -> str:
    listed = ", ".join(f"{{name: {port}, port: {number}, targetPort: {number}}}" for port, number in ports.items())
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n"
        f"spec: {{clusterIP: {address}, selector: {{{selector}}}, ports: [{listed}]}}"
    )


def _services() -> Iterator[str]:
    yield _service("server", SERVICE_IP, "app: server", {"http": PORT})
    yield _service("plain", PLAIN_SERVICE_IP, "app: plain", {"http": PLAIN_PORT})
    yield _service("bulk", BULK_SERVICE_IP, "app: server", {"tcp": BULK_PORT})
    yield _service("rpc", GRPC_SERVICE_IP, "app: server", {"grpc": GRPC_PORT})
    yield _service("few", MANY_SERVICE_IPS[4], 'few: "yes"', {"http": PORT})
    yield _service("many", MANY_SERVICE_IPS[16], 'many: "yes"', {"http": PORT})


def _policy(name: str, spec: str) -> str:
    return (
        f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n"
        f"spec: {{selector: {{matchLabels: {{app: server}}}}, {spec}}}"
    )


def _policies() -> Iterator[str]:
    admin = f'{{to: [{{operation: {{paths: [/admin*], ports: ["{PORT}"]}}}}]}}'
    read = "{to: [{operation: {methods: [GET], paths: [/item/*]}}]}"
    ports = f'{{to: [{{operation: {{ports: ["{BULK_PORT}", "{GRPC_PORT}"]}}}}]}}'
    yield _policy("no-admin", f"action: DENY, rules: [{admin}]")
    yield _policy("readers", f"action: ALLOW, rules: [{read}, {ports}]")


def _many_services() -> Iterator[str]:
    for number in range(LARGE_SERVICES):
        yield _service(f"far-{number}", f"10.100.{number // 256}.{number % 256}", f"far: f{number}", {"http": 80})
        for each in range(LARGE_ENDPOINTS):
            place = number * LARGE_ENDPOINTS + each
            address = f"10.{110 + place // 65536}.{place // 256 % 256}.{place % 256}"
            yield _pod(f"far-{number}-{each}", address, f"far: f{number}, security.istio.io/tlsMode: istio", "far")


def _many_policies() -> Iterator[str]:
    for number in range(LARGE_POLICIES):
        caller = f"{{source: {{principals: [cluster.local/ns/default/sa/caller-{number}]}}}}"
        to = f"{{operation: {{methods: [GET], paths: [/api/{number}/*]}}}}"
        yield _policy(f"policy-{number}", f"action: ALLOW, rules: [{{from: [{caller}], to: [{to}]}}]")
