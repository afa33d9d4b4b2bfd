"""A set of policies that answers requests: compiled for each destination once, judged by the data plane's own matcher.

In:     files and folders of YAML; requests of `request`.
Out:    `Verdict`s, and the raw explanation that `explanation` completes.
Limits: `DESTINATIONS_KEPT` compiled at a time.
Fails:  never for bad policies: they deny for what they select, and are findings of `loaded`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshdp.compiler import compile_inbound, workloads
from meshdp.compiler.listeners import Modes
from meshdp.compiler.select import Workload
from meshdp.errors import Where
from meshdp.resources import Key, Loaded, Meta, ResourceSet
from meshdp.resources.security import AuthorizationPolicy
from meshdp.resources.service import Service, ServicePort, ServiceSpec
from meshdp.sources.files import read_once
from meshdp.supervise.engine import authorize_all, explain
from meshdp.verdicts.request import DESTINATION_IP, Request, asked

DESTINATIONS_KEPT = 256

Json = dict[str, Any]

# The label of a workload that stands for a destination, so that a service may select it alone.
_ASKED = "meshdp.io/asked"
_NOWHERE = Where("", 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one request.

    action: of the policies that decided; None where none did. policy: "namespace/name" of the one that matched.
    status: what a client of HTTP sees; 0 where it sees none. shadow: what dry-run policies would have said.
    detail: Envoy's detail of a denial, or why the connection or the request ended before policy.
    """

    id: str | int | None
    allowed: bool
    action: str | None
    policy: str | None
    rule: int | None
    status: int
    shadow: Json | None
    detail: str
    where: str = ""
    chain: str = ""

    def as_dict(self) -> Json:
        """The keys of `meshdp authz eval`; they are stable."""
        names = ("id", "allowed", "action", "policy", "rule", "status", "shadow", "detail")
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class PolicySet:
    """Policies, and whatever else the files describe of the mesh that they are for."""

    loaded: Loaded
    workloads: tuple[Workload, ...] = ()
    _compiled: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.workloads = workloads(self.loaded.resources)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> PolicySet:
        """Reads files, and folders with all YAML below them."""
        return cls(read_once(paths))

    @property
    def resources(self) -> ResourceSet:
        return self.loaded.resources

    def verdict(self, request: Request) -> Verdict:
        """The verdict on one request."""
        return self.verdicts([request])[0]

    def verdicts(self, requests: Sequence[Request]) -> list[Verdict]:
        """The verdicts in the order of the requests."""
        by_destination: dict[tuple[object, ...], list[int]] = {}
        for number, request in enumerate(requests):
            by_destination.setdefault(_destination(request), []).append(number)
        found: dict[int, Verdict] = {}
        for numbers in by_destination.values():
            workload = self.workload_of(requests[numbers[0]])
            documents = [self._asked(requests[number], workload) for number in numbers]
            transaction = self._transaction(requests[numbers[0]], workload)
            answers = json.loads(authorize_all(transaction, json.dumps(documents).encode()))
            for number, answer in zip(numbers, answers, strict=True):
                found[number] = self._verdict(requests[number], answer)
        return [found[number] for number in range(len(requests))]

    def walked(self, request: Request) -> tuple[Verdict, Json | None]:
        """The verdict, and what the matcher says of every policy, rule and condition (none before policy)."""
        workload = self.workload_of(request)
        document = json.dumps(self._asked(request, workload)).encode()
        answer = json.loads(explain(self._transaction(request, workload), document))
        return self._verdict(request, answer["verdict"]), answer["explanation"]

    def workload_of(self, request: Request) -> Workload:
        """The workload that is asked: one that is described with this address, or one made up of what was said."""
        destination = request.destination
        known = next((each for each in self._in(destination.namespace) if destination.ip in each.addresses), None)
        if known is not None and destination.labels in (None, dict(known.labels)):
            return known
        return Workload(
            name="asked",
            namespace=destination.namespace,
            service_account="default",
            labels=destination.labels or {},
            addresses=(destination.ip or DESTINATION_IP,),
        )

    def policy_at(self, named: str) -> AuthorizationPolicy | None:
        """The policy "namespace/name"; None for what is no AuthorizationPolicy."""
        namespace, _, name = named.partition("/")
        key = Key("AuthorizationPolicy", namespace, name)
        if key not in self.resources:
            return None
        found = self.resources[key]
        return found if isinstance(found, AuthorizationPolicy) else None

    def action_of(self, policy: str | None, compiled: str | None) -> str | None:
        """CUSTOM policies are compiled as what they do, which is to deny."""
        written = self.policy_at(policy) if policy else None
        return written.spec.action if written is not None and written.spec.action == "CUSTOM" else compiled

    def _in(self, namespace: str) -> Iterable[Workload]:
        return (each for each in self.workloads if each.namespace == namespace)

    def _asked(self, request: Request, workload: Workload) -> Json:
        """What is sent depends on the mode: mutual TLS by clients of the mesh, unless the port ends none."""
        mode = Modes.of(self.resources, workload.namespace, workload.labels).at(request.destination.port)
        ip = request.destination.ip or workload.addresses[0]
        return asked(request, ip, in_plaintext=mode == "DISABLE")

    def _transaction(self, request: Request, workload: Workload) -> bytes:
        key = _destination(request)
        if key not in self._compiled:
            if len(self._compiled) >= DESTINATIONS_KEPT:
                self._compiled.clear()
            resources = self.resources
            if request.protocol is not None:
                workload = _labelled(workload)
                resources = resources.with_changes(put=[_declaration(request)])
            self._compiled[key] = compile_inbound(resources, workload).transaction(None)
        return self._compiled[key]

    def _verdict(self, request: Request, answer: Json) -> Verdict:
        policy = answer["policy"]
        named = _named(policy)
        return Verdict(
            id=request.id,
            allowed=answer["allowed"],
            action=self.action_of(named, answer["action"]),
            policy=named,
            rule=policy["rule"] if policy else None,
            status=answer["status"],
            shadow=_shadow(answer["shadow"]),
            detail=answer["detail"],
            where=policy["where"] if policy else "",
            chain=answer["chain"],
        )


def _destination(request: Request) -> tuple[object, ...]:
    """What a compiled snapshot depends on."""
    to = request.destination
    labels = None if to.labels is None else tuple(sorted(to.labels.items()))
    return (to.namespace, to.ip, labels, to.port, request.protocol)


def _labelled(workload: Workload) -> Workload:
    return replace(workload, labels={**workload.labels, _ASKED: "true"})


def _declaration(request: Request) -> Service:
    """A service that says what the port speaks. Without an age and with this name it is the oldest, which counts."""
    port, protocol = request.destination.port, request.protocol or "auto"
    declared = ServicePort(port=port, target_port=port, app_protocol=protocol)
    meta = Meta(name="-", namespace=request.destination.namespace)
    return Service(meta, _NOWHERE, ServiceSpec(selector={_ASKED: "true"}, ports=[declared]))


def _shadow(shadow: Json | None) -> Json | None:
    """Results of dry-run policies by action; None where there are none."""
    results = {action: (shadow or {}).get(action) for action in ("allow", "deny")}
    if not any(results.values()):
        return None
    return {action: _shadow_result(result) for action, result in results.items()}


def _shadow_result(result: Json | None) -> Json | None:
    if result is None:
        return None
    policy = result["policy"]
    return {"allowed": result["allowed"], "policy": _named(policy), "rule": policy["rule"] if policy else None}


def _named(policy: Json | None) -> str | None:
    return f"{policy['namespace']}/{policy['name']}" if policy else None
