"""Turns what people say on a command line or in a test into a request: `--to default/details:9080 --from default/web`.

In:     words, and the policy set whose files may describe the workload that is asked.
Out:    `Request`, with what stands for parts that nobody gave: the first port that a service declares, `GET /`.
Fails:  `Malformed`, naming the option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshdp.compiler.select import Directory, Workload, spiffe_id
from meshdp.resources.meta import matches
from meshdp.resources.service import Service, protocol_of
from meshdp.verdicts.policies import PolicySet
from meshdp.verdicts.request import Malformed, Request, convert

PLAINTEXT = "plaintext"
UNDECLARED_PORT = 80


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked. workload: None where no file describes one; labels then stand for it."""

    namespace: str
    name: str
    port: int
    workload: Workload | None
    protocol: str  # as the port is declared
    labels: Mapping[str, str] = field(default_factory=dict)

    def as_destination(self, protocol: str | None) -> dict[str, Any]:
        """As a request has it."""
        labels = dict(self.workload.labels if self.workload else self.labels)
        addresses = self.workload.addresses if self.workload else ()
        ip = {"ip": addresses[0]} if addresses else {}
        said = {"protocol": protocol} if protocol else {}
        return {"namespace": self.namespace, "port": self.port, "labels": labels, **ip, **said}


def target(policies: PolicySet, written: str, labels: Mapping[str, str] | None = None) -> Target:
    """Reads `[NAMESPACE/]WORKLOAD[:PORT]`. WORKLOAD: a pod, what it is an instance of, or a service in front of it."""
    place, _, port = written.partition(":")
    namespace, slash, name = place.rpartition("/")
    namespace = namespace if slash else "default"
    if not name or not namespace or "/" in namespace or (port and not port.isdecimal()):
        raise Malformed("--to", f"expected [NAMESPACE/]WORKLOAD[:PORT], found {written!r}")
    workload = None if labels else _known(policies, namespace, name)
    declared = _declared(policies, workload) if workload else {}
    number = int(port) if port else next(iter(declared), UNDECLARED_PORT)
    return Target(namespace, name, number, workload, declared.get(number, "auto"), labels or {"app": name})


def principal(policies: PolicySet, written: str) -> str | None:
    """Reads `NAMESPACE/ACCOUNT`, a whole identity, or `plaintext`."""
    if written == PLAINTEXT:
        return None
    whole = written.removeprefix("spiffe://")
    parts = whole.split("/")
    if len(parts) == 2 and all(parts) and whole == written:
        return spiffe_id(Directory(policies.resources).trust_domain, *parts).removeprefix("spiffe://")
    if len(parts) < 4:
        raise Malformed("--from", f"expected NAMESPACE/ACCOUNT, a whole identity or plaintext, found {written!r}")
    return whole


def request(
    to: Target, caller: str | None, http: Mapping[str, Any], source: Mapping[str, Any], protocol: str | None = None
) -> Request:
    """Puts a request together. http: what was said of HTTP; where nothing was, the port decides what is asked."""
    said = dict(http)
    if "path" in said or "method" in said or "headers" in said:
        said.setdefault("host", to.name)
    elif not (said.keys() - {"sni"}) and (protocol or to.protocol) not in ("tcp", "tls", "https"):
        said |= {"method": "GET", "path": "/", "host": to.name}
    written = {
        "source": {"principal": caller, **source},
        "destination": to.as_destination(protocol),
        "request": said,
    }
    return convert(written)


def pairs(option: str, written: Sequence[str], separators: str) -> list[tuple[str, str]]:
    """Reads `name=value` or `name: value`, as the separators say."""
    found = []
    for each in written:
        place = min((each.find(mark) for mark in separators if mark in each), default=-1)
        if place <= 0:
            raise Malformed(option, f"expected NAME{separators[0]}VALUE, found {each!r}")
        found.append((each[:place].strip(), each[place + 1 :].strip()))
    return found


def _known(policies: PolicySet, namespace: str, name: str) -> Workload | None:
    """A workload of this name: its own, that of its deployment, its canonical one, or of a service."""
    near = [each for each in policies.workloads if each.namespace == namespace]
    for name_of in (_own, _shown, _canonical):
        found = next((each for each in near if name_of(each) == name), None)
        if found is not None:
            return found
    services = [each for each in policies.resources.all(Service) if (each.namespace, each.name) == (namespace, name)]
    selectors = [each.spec.selector for each in services if each.spec.selector]
    return next((each for each in near if any(matches(selector, each.labels) for selector in selectors)), None)


def _own(workload: Workload) -> str:
    return workload.name


def _shown(workload: Workload) -> str:
    return workload.shown_name


def _canonical(workload: Workload) -> str:
    return workload.canonical_name


def _declared(policies: PolicySet, workload: Workload) -> dict[int, str]:
    """Ports of the workload that services lead to, the oldest service's first, and what they speak."""
    found: dict[int, str] = {}
    for each in Directory(policies.resources).targets_of(workload):
        if each.port.protocol == "TCP":
            found.setdefault(each.number, protocol_of(each.port))
    return found
