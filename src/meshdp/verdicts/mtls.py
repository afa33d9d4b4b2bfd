"""Says which mutual TLS mode holds on a port of a workload, and which PeerAuthentication says so.

In:     the resources, the workload, the port.
Out:    `Mode`: the compiler's answer, and the policies in force from the mesh's to the port's.
Source: spec/istio-semantics.md B.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshdp.compiler.listeners import Modes, in_force
from meshdp.compiler.select import Workload
from meshdp.resources import ResourceSet
from meshdp.resources.security import PeerAuthentication
from meshdp.verdicts.places import Places


@dataclass(frozen=True, slots=True)
class Said:
    """What one policy says of the mode. scope: mesh, namespace, workload or port."""

    scope: str
    policy: str
    mode: str
    where: str


@dataclass(frozen=True, slots=True)
class Mode:
    """The mode that holds, and everything that was said of it, the nearest to the port last."""

    mode: str
    said: tuple[Said, ...]

    @property
    def decisive(self) -> Said | None:
        """Who decided; None where the default holds."""
        return next((each for each in reversed(self.said) if each.mode != "UNSET"), None)

    @property
    def why(self) -> str:
        """One sentence."""
        decisive = self.decisive
        inherited = [each for each in self.said if each.mode == "UNSET"]
        unset = "".join(f"; {each.policy} ({each.scope}, {each.where}) leaves it unset" for each in inherited)
        if decisive is None:
            return f"the default, as no PeerAuthentication says otherwise{unset}"
        return f"PeerAuthentication {decisive.policy} ({decisive.scope}, {decisive.where}){unset}"

    def as_dict(self) -> dict[str, Any]:
        """Stable keys."""
        said = [{"scope": s.scope, "policy": s.policy, "mode": s.mode, "where": s.where} for s in self.said]
        return {"mode": self.mode, "why": self.why, "policies": said}


def mode_of(resources: ResourceSet, workload: Workload, port: int, places: Places) -> Mode:
    """The mode of one port."""
    said: list[Said] = []
    for policy in in_force(resources, workload.namespace, workload.labels):
        named, labels = f"{policy.namespace}/{policy.name}", policy.spec.selector.match_labels
        scope = "mesh" if policy.namespace == resources.root_namespace else "workload" if labels else "namespace"
        mode = "STRICT" if policy.broken else policy.spec.mtls.mode  # as the compiler takes one that it cannot read
        said.append(Said(scope, named, mode, str(places.of(policy, ("spec", "mtls")))))
        if scope == "workload" and not policy.broken:
            said.extend(_of_port(policy, named, port, places))
    holds = Modes.of(resources, workload.namespace, workload.labels).at(port)
    return Mode(holds, tuple(said))


def _of_port(policy: PeerAuthentication, named: str, port: int, places: Places) -> list[Said]:
    of_port = policy.spec.port_level_mtls.get(str(port))
    if of_port is None:
        return []
    return [Said("port", named, of_port.mode, str(places.of(policy, ("spec", "portLevelMtls", str(port)))))]
