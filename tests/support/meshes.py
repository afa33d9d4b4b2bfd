"""Small meshes for compiler tests: Bookinfo's shape in a few lines of YAML.

Out:    `MESH`: three workloads, three services, no policy; `compiled`: sections of one workload with policies added.
"""

from __future__ import annotations

from typing import Any

from meshdp.compiler import Snapshot, Workload, compile_workload, workloads
from meshdp.resources import Loaded, load

MESH = """\
apiVersion: v1
kind: Service
metadata: {name: details}
spec:
  clusterIP: 10.96.0.1
  selector: {app: details}
  ports:
  - {name: http, port: 9080}
  - {name: tcp-raw, port: 9000, targetPort: raw}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {clusterIP: None, selector: {app: ratings}, ports: [{port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: other}
spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: details-v1
  labels: {app: details, version: v1, security.istio.io/tlsMode: istio, meshdp.io/sidecar: "true"}
spec: {serviceAccountName: bookinfo-details, containers: [{name: c, ports: [{name: raw, containerPort: 9001}]}]}
status: {podIP: 10.244.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: details-v2, labels: {app: details, version: v2}}
status: {podIP: 10.244.0.3}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: ratings-vm}
spec:
  address: 10.244.0.4
  labels: {app: ratings, security.istio.io/tlsMode: istio}
  serviceAccount: ratings
  weight: 3
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-1, namespace: other, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- addresses: [10.244.0.2]
  zone: z1
- addresses: [10.244.0.9]
- addresses: [10.244.0.8]
  conditions: {ready: false}
"""


def loaded(*policies: str) -> Loaded:
    """The mesh with policies added."""
    return load([("mesh.yaml", MESH), *((f"p{index}.yaml", text) for index, text in enumerate(policies))])


def workload_of(found: Loaded, name: str = "details-v1") -> Workload:
    """One workload by name."""
    return next(workload for workload in workloads(found.resources) if workload.name == name)


def snapshot(*policies: str, name: str = "details-v1") -> Snapshot:
    """The snapshot of one workload under these policies."""
    found = loaded(*policies)
    return compile_workload(found.resources, workload_of(found, name))


def section(name: str, *policies: str) -> Any:
    """One section of details-v1 as plain data."""
    return snapshot(*policies).section(name)


def policy(kind: str, spec: str, name: str = "p", namespace: str = "default") -> str:
    """A security policy; spec in flow style."""
    head = f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
    return f"{head}spec: {spec}\n"
