"""A mesh of any size as documents: for each service a Deployment's worth of pods, and policies in one namespace.

Out:    text that `meshdp.resources.load` takes; the workload that is compiled is always `default/web`.
"""

from __future__ import annotations

from functools import cache

from meshdp.compiler import compile_workload, workloads
from meshdp.compiler.snapshot import Snapshot
from meshdp.resources import Loaded, load

ENDPOINTS_EACH = 10
WEB_ADDRESS = "10.0.0.1"

POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: {app}, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: {app}}}
status: {{podIP: {address}}}
---
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {{name: {app}, namespace: default}}
spec: {{clusterIP: {address}, selector: {{app: {app}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
"""
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: policy-{number}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  action: ALLOW
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/caller-{number}]}}}}]
    to: [{{operation: {{methods: [GET], paths: [/api/{number}/*]}}}}]
---
"""


@cache
def documents(services: int, policies: int, *, moved: bool = False) -> str:
    """The text. moved: one endpoint of the first service has another address."""
    parts = [POD.format(name="web", app="web", address=WEB_ADDRESS), SERVICE.format(app="web", address="10.96.0.1")]
    for number in range(services):
        app = f"service-{number}"
        parts.append(SERVICE.format(app=app, address=f"10.{97 + number // 65536}.{number // 256 % 256}.{number % 256}"))
        for each in range(ENDPOINTS_EACH):
            place = number * ENDPOINTS_EACH + each
            address = f"10.{1 + place // 65536}.{place // 256 % 256}.{place % 256}"
            if moved and place == 0:
                address = "10.90.0.1"
            parts.append(POD.format(name=f"{app}-{each}", app=app, address=address))
    parts += [POLICY.format(number=number) for number in range(policies)]
    return "".join(parts)


@cache
def loaded(services: int, policies: int, *, moved: bool = False) -> Loaded:
    """The documents as resources; all of them are right."""
    found = load([("mesh.yaml", documents(services, policies, moved=moved))])
    assert not found.findings
    return found


@cache
def snapshot(services: int, policies: int, *, moved: bool = False) -> Snapshot:
    """What `web` is sent."""
    resources = loaded(services, policies, moved=moved).resources
    web = next(each for each in workloads(resources) if each.name == "web")
    return compile_workload(resources, web)
