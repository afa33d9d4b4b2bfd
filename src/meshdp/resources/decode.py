"""Turns a raw document into a resource, or says exactly what is wrong with it.

In:     `RawDocument` of `meshdp.documents`.
Out:    a resource of a kind the mesh knows; None for kinds that carry nothing for a mesh.
Fails:  a document is accepted or rejected whole. A security policy that cannot be read still yields a resource,
        marked broken, so that what it selects fails closed (DESIGN section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from meshdp.documents import RawDocument, embedded
from meshdp.errors import Finding
from meshdp.resources import mesh, security, service, shape, traffic, validate, workload
from meshdp.resources.meta import NAME_LIMIT, Meta, Resource, as_text, problems_of
from meshdp.resources.shape import Problem

# Only there: whoever may write ConfigMaps elsewhere must not configure the mesh.
MESH_CONFIG_MAP = ("istio-system", "istio")

Decoded = tuple[Resource | None, list[Problem]]
Reader = Callable[[RawDocument, Meta], Decoded]


def decode(raw: RawDocument) -> tuple[Resource | None, list[Finding]]:
    """Decodes one document; error findings mean it is not accepted as written."""
    group, _, version = raw.api_version.rpartition("/")
    row = _KINDS.get((group, raw.kind))
    if row is None:
        return None, _unknown_kind(raw, group)
    versions, reader, namespaced = row
    if version not in versions:
        message = f"{raw.kind} has no version {version!r}; known: {', '.join(versions)}"
        return None, [shape.finding(raw, Problem("MDP0207", ("apiVersion",), message), raw.kind)]
    meta, problems = shape.read(raw, ("metadata",), Meta)
    if meta is None:
        meta = _salvaged(raw)
    if namespaced and not meta.namespace:
        meta = _in_default_namespace(meta)
    problems.extend(problems_of(meta))
    problems.extend(_top_level(raw))
    if not meta.name:  # two nameless policies must not take each other's place
        meta = shape.replace(meta, name=f"unnamed at {raw.where}")
    resource, more = reader(raw, meta)
    problems.extend(more)
    findings = [shape.finding(raw, problem, _title(raw.kind, meta, namespaced)) for problem in problems]
    if resource is not None and not resource.broken and any(item.severity == "error" for item in findings):
        resource = _fail_closed(resource)
    return resource, findings


def _top_level(raw: RawDocument) -> Iterator[Problem]:
    """A misspelt `spec` must not read as an empty one."""
    known = {"apiVersion", "kind", "metadata", *_BESIDE_METADATA.get(raw.kind, ("spec", "status"))}
    for name in raw.data:
        if name not in known:
            yield Problem("MDP0201", (name,), f"unknown field {name!r}: {shape.nearest(name, sorted(known))}")


def _unknown_kind(raw: RawDocument, group: str) -> list[Finding]:
    if group not in _OUR_GROUPS and not group.endswith(".istio.io"):
        return []
    known = [kind for known_group, kind in _KINDS if known_group == group]
    message = f"{group} has no kind {raw.kind!r}: {shape.nearest(raw.kind, known) if known else 'unknown group'}"
    return [shape.finding(raw, Problem("MDP0207", ("kind",), message), raw.kind)]


def _salvaged(raw: RawDocument) -> Meta:
    """Name and namespace of a document whose metadata does not decode."""
    written: Any = raw.data.get("metadata")
    if not isinstance(written, dict):
        return Meta()
    return Meta(name=as_text(written.get("name")), namespace=as_text(written.get("namespace")))


def _in_default_namespace(meta: Meta) -> Meta:
    return shape.replace(meta, namespace="default")


def _title(kind: str, meta: Meta, namespaced: bool) -> str:
    namespace, name = meta.namespace[:NAME_LIMIT], meta.name[:NAME_LIMIT]
    return f"{kind} {namespace}/{name}" if namespaced else f"{kind} {name}".rstrip()


def _fail_closed(resource: Resource) -> Resource | None:
    """A refused document yields nothing, but a refused security policy or wish for TLS still binds what it selects."""
    match resource:
        case security.AuthorizationPolicy():
            return security.AuthorizationPolicy(resource.meta, resource.where, resource.spec, broken=True)
        case security.PeerAuthentication():
            return security.PeerAuthentication(resource.meta, resource.where, resource.spec, broken=True)
        case security.RequestAuthentication():
            return security.RequestAuthentication(resource.meta, resource.where, resource.spec, broken=True)
        case traffic.DestinationRule() if resource.asks_for_tls:
            return traffic.DestinationRule(resource.meta, resource.where, resource.spec, broken=True)
    return None


def _pod(raw: RawDocument, meta: Meta) -> Decoded:
    spec, problems = shape.read(raw, ("spec",), workload.PodSpec)
    status, more = shape.read(raw, ("status",), workload.PodStatus)
    if spec is None or status is None:
        return None, problems + more
    return workload.Pod(meta, raw.where, spec, status), list(workload.pod_problems(spec, status))


def _workload_entry(raw: RawDocument, meta: Meta) -> Decoded:
    spec, problems = shape.read(raw, ("spec",), workload.WorkloadEntrySpec)
    if spec is None:
        return None, problems
    return workload.WorkloadEntry(meta, raw.where, spec), list(workload.entry_problems(spec))


def _service_account(raw: RawDocument, meta: Meta) -> Decoded:
    return workload.ServiceAccount(meta, raw.where), []


def _namespace(raw: RawDocument, meta: Meta) -> Decoded:
    return workload.Namespace(meta, raw.where), []


def _service(raw: RawDocument, meta: Meta) -> Decoded:
    spec, problems = shape.read(raw, ("spec",), service.ServiceSpec)
    if spec is None:
        return None, problems
    problems.extend(service.problems_of(spec))
    return service.Service(meta, raw.where, spec), problems


def _endpoint_slice(raw: RawDocument, meta: Meta) -> Decoded:
    body, problems = shape.read(raw, (), service.SliceBody)
    return (None, problems) if body is None else (service.EndpointSlice(meta, raw.where, body), problems)


def _peer_authentication(raw: RawDocument, meta: Meta) -> Decoded:
    spec, problems = shape.read(raw, ("spec",), security.PeerAuthenticationSpec)
    if spec is None:
        fallback = security.PeerAuthenticationSpec(selector=_salvaged_selector(raw))
        return security.PeerAuthentication(meta, raw.where, fallback, broken=True), problems
    return security.PeerAuthentication(meta, raw.where, spec), list(validate.peer_authentication(spec, _spec(raw)))


def _authorization_policy(raw: RawDocument, meta: Meta) -> Decoded:
    spec, problems = shape.read(raw, ("spec",), security.AuthorizationPolicySpec)
    if spec is None:
        fallback = security.AuthorizationPolicySpec(selector=_salvaged_selector(raw))
        return security.AuthorizationPolicy(meta, raw.where, fallback, broken=True), problems
    policy = security.AuthorizationPolicy(meta, raw.where, spec)
    return policy, list(validate.authorization_policy(policy, _spec(raw)))


def _request_authentication(raw: RawDocument, meta: Meta) -> Decoded:
    spec, problems = shape.read(raw, ("spec",), security.RequestAuthenticationSpec)
    if spec is None:
        fallback = security.RequestAuthenticationSpec(selector=_salvaged_selector(raw))
        return security.RequestAuthentication(meta, raw.where, fallback, broken=True), problems
    policy = security.RequestAuthentication(meta, raw.where, spec)
    return policy, list(validate.request_authentication(policy, _spec(raw)))


def _destination_rule(raw: RawDocument, meta: Meta) -> Decoded:
    spec, problems = shape.read(raw, ("spec",), traffic.DestinationRuleSpec)
    if spec is None:
        fallback = traffic.salvaged(_spec(raw))
        kept = None if fallback is None else traffic.DestinationRule(meta, raw.where, fallback, broken=True)
        return kept, problems
    return traffic.DestinationRule(meta, raw.where, spec), list(traffic.problems_of(spec))


def _spec(raw: RawDocument) -> dict[str, Any]:
    written = raw.data.get("spec", {})
    return written if isinstance(written, dict) else {}


def _salvaged_selector(raw: RawDocument) -> security.Selector:
    """The selector of a policy whose other parts do not decode; unreadable means all of its namespace."""
    spec = raw.data.get("spec")
    selector = spec.get("selector") if isinstance(spec, dict) else None
    labels = selector.get("matchLabels") if isinstance(selector, dict) else None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        return security.Selector()
    return security.Selector(match_labels=labels)


def _mesh_config(raw: RawDocument, meta: Meta) -> Decoded:
    return _mesh_settings(raw, ("spec",), raw, meta)


def _config_map(raw: RawDocument, meta: Meta) -> Decoded:
    entries = raw.data.get("data")
    if (
        (meta.namespace, meta.name) != MESH_CONFIG_MAP
        or not isinstance(entries, dict)
        or not isinstance(entries.get("mesh"), str)
    ):
        return None, []
    inner, findings = embedded(raw, ("data", "mesh"))
    if inner is None:
        return None, [Problem(item.code, ("data", "mesh"), item.message) for item in findings]
    return _mesh_settings(inner, (), raw, meta)


def _mesh_settings(inner: RawDocument, path: tuple[str, ...], outer: RawDocument, meta: Meta) -> Decoded:
    spec, problems = shape.read(inner, path, mesh.MeshSpec)
    written = inner.data.get("spec", {}) if path else inner.data
    problems.extend(mesh.problems_of(spec, written, path))
    return (None if spec is None else mesh.MeshConfig(meta, outer.where, spec)), problems


def _unhonoured(milestone: str) -> Reader:
    def reader(raw: RawDocument, meta: Meta) -> Decoded:
        message = f"{raw.kind} is not honoured before {milestone}"
        spec = raw.data.get("spec")
        kept = mesh.Unhonoured(meta, raw.where, raw.kind, spec if isinstance(spec, dict) else {})
        return kept, [Problem("MDP0401", (), message)]

    return reader


def _passed_over(raw: RawDocument, meta: Meta) -> Decoded:
    return None, []


_BESIDE_METADATA = {
    "ConfigMap": ("data", "binaryData", "immutable"),
    "EndpointSlice": ("addressType", "endpoints", "ports"),
    "ServiceAccount": ("secrets", "imagePullSecrets", "automountServiceAccountToken"),
}
_SECURITY = ("v1", "v1beta1")
_NETWORKING = ("v1", "v1beta1", "v1alpha3")
_OUR_GROUPS = ("meshdp.io",)

# (group, kind) → (versions, reader, namespaced)
_KINDS: dict[tuple[str, str], tuple[tuple[str, ...], Reader, bool]] = {
    ("", "Namespace"): (("v1",), _namespace, False),
    ("", "Pod"): (("v1",), _pod, True),
    ("", "Service"): (("v1",), _service, True),
    ("", "ServiceAccount"): (("v1",), _service_account, True),
    ("", "ConfigMap"): (("v1",), _config_map, True),
    ("discovery.k8s.io", "EndpointSlice"): (("v1", "v1beta1"), _endpoint_slice, True),
    ("security.istio.io", "AuthorizationPolicy"): (_SECURITY, _authorization_policy, True),
    ("security.istio.io", "PeerAuthentication"): (_SECURITY, _peer_authentication, True),
    ("security.istio.io", "RequestAuthentication"): (_SECURITY, _request_authentication, True),
    ("networking.istio.io", "WorkloadEntry"): (_NETWORKING, _workload_entry, True),
    ("networking.istio.io", "VirtualService"): (_NETWORKING, _unhonoured("a later milestone"), True),
    ("networking.istio.io", "DestinationRule"): (_NETWORKING, _destination_rule, True),
    ("networking.istio.io", "ServiceEntry"): (_NETWORKING, _unhonoured("a later milestone"), True),
    ("networking.istio.io", "Gateway"): (_NETWORKING, _unhonoured("a later milestone"), True),
    ("networking.istio.io", "Sidecar"): (_NETWORKING, _unhonoured("a later milestone"), True),
    ("networking.istio.io", "WorkloadGroup"): (_NETWORKING, _unhonoured("a later milestone"), True),
    ("networking.istio.io", "ProxyConfig"): (("v1beta1",), _unhonoured("a later milestone"), True),
    ("networking.istio.io", "EnvoyFilter"): (("v1alpha3",), _unhonoured("any planned milestone"), True),
    ("telemetry.istio.io", "Telemetry"): (("v1", "v1alpha1"), _unhonoured("a later milestone"), True),
    ("extensions.istio.io", "WasmPlugin"): (("v1alpha1",), _unhonoured("any planned milestone"), True),
    ("install.istio.io", "IstioOperator"): (("v1alpha1",), _unhonoured("any milestone (use a MeshConfig)"), True),
    ("meshdp.io", "MeshConfig"): (("v1alpha1",), _mesh_config, True),
    ("meshdp.io", "LocalMesh"): (("v1alpha1",), _passed_over, True),
}
