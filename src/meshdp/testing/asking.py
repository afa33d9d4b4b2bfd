"""Requests as a test writes them, and the answers to them.

In:     a folder of policies; `request_as("ns/sa").get("/x").to("details")`.
Out:    `Answer`; `assert_allowed` and `assert_denied`, whose failures say why the verdict is what it is.
Fails:  `Malformed` for what the data plane could never be asked; AssertionError for a verdict that was not expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshdp.testing.reached import Reached
from meshdp.verdicts import asked
from meshdp.verdicts.explanation import explained
from meshdp.verdicts.places import Places
from meshdp.verdicts.policies import PolicySet, Verdict
from meshdp.verdicts.request import Request
from meshdp.verdicts.telling import told

Headers = Mapping[str, str | list[str]]


class Policies:
    """The policies of a folder, and which of their rules were matched by what was asked of them."""

    def __init__(self, folder: Path) -> None:
        if not folder.exists():
            raise FileNotFoundError(f"no folder of policies at {folder}")
        self.folder = folder
        self.set = PolicySet.read([folder])
        self.reached = Reached(self.set)

    def request_as(self, caller: str) -> Asking:
        """Begins a request of `NAMESPACE/ACCOUNT`, of a whole identity, or in `plaintext`."""
        return Asking(self, asked.principal(self.set, caller))

    def judge(self, request: Request) -> Answer:
        """Judges a request that is whole."""
        verdict, walked = self.set.walked(request)
        self.reached.note(walked)
        return Answer(self, request, verdict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    policies: Policies
    request: Request
    verdict: Verdict

    @property
    def allowed(self) -> bool:
        return self.verdict.allowed

    @property
    def policy(self) -> str | None:
        """The policy that decided, "namespace/name"; None where none of its rules matched."""
        return self.verdict.policy

    @property
    def status(self) -> int:
        return self.verdict.status

    def assert_allowed(self) -> None:
        """Fails with the reason when it was denied."""
        if not self.allowed:
            raise AssertionError(f"expected to be allowed\n{self}")

    def assert_denied(self, by: str | None = None) -> None:
        """Fails with the reason when it was allowed, or denied by another. by: `policy` or `namespace/policy`."""
        if self.allowed:
            raise AssertionError(f"expected to be denied\n{self}")
        if by is not None and by not in self._blamed():
            raise AssertionError(f"expected to be denied by {by}\n{self}")

    def _blamed(self) -> set[str]:
        """The policy whose rule denied; where no ALLOW rule matched, the ALLOW policies that there are."""
        named = {self.policy} if self.policy else set()
        if not self.policy and self.verdict.action == "ALLOW":
            steps = explained(self.policies.set, self.request, Places()).steps
            named = {policy["policy"] for step in steps if step.action == "ALLOW" for policy in step.policies}
        return named | {each.partition("/")[2] for each in named}

    def __str__(self) -> str:
        explanation = explained(self.policies.set, self.request, Places())
        return "\n".join(told(self.request, explanation, str, str))


def assert_allowed(answer: Answer) -> None:
    """Fails with the reason when a request was denied."""
    __tracebackhide__ = True
    answer.assert_allowed()


def assert_denied(answer: Answer, by: str | None = None) -> None:
    """Fails with the reason when a request was allowed, or not denied by this policy."""
    __tracebackhide__ = True
    answer.assert_denied(by)


@dataclass(frozen=True, slots=True)
class Asking:
    """A request on its way: who asks is known, the rest is said step by step. Each step is a new one."""

    policies: Policies
    caller: str | None
    http: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    is_tcp: bool = False

    def request(
        self, method: str, path: str = "/", *, host: str | None = None, headers: Headers | None = None
    ) -> Asking:
        """Asks with any method."""
        said: dict[str, Any] = {**self.http, "method": method, "path": path}
        said |= {} if host is None else {"host": host}
        said |= {} if headers is None else {"headers": {**self.http.get("headers", {}), **headers}}
        return replace(self, http=said, is_tcp=False)

    def get(self, path: str = "/", **more: Any) -> Asking:
        return self.request("GET", path, **more)

    def head(self, path: str = "/", **more: Any) -> Asking:
        return self.request("HEAD", path, **more)

    def post(self, path: str = "/", **more: Any) -> Asking:
        return self.request("POST", path, **more)

    def put(self, path: str = "/", **more: Any) -> Asking:
        return self.request("PUT", path, **more)

    def patch(self, path: str = "/", **more: Any) -> Asking:
        return self.request("PATCH", path, **more)

    def delete(self, path: str = "/", **more: Any) -> Asking:
        return self.request("DELETE", path, **more)

    def options(self, path: str = "/", **more: Any) -> Asking:
        return self.request("OPTIONS", path, **more)

    def tcp(self) -> Asking:
        """Opens a connection that carries bytes which are not HTTP."""
        return replace(self, is_tcp=True)

    def with_header(self, name: str, value: str) -> Asking:
        """Adds a header."""
        return replace(self, http={**self.http, "headers": {**self.http.get("headers", {}), name: value}})

    def from_ip(self, ip: str, *, remote: str | None = None) -> Asking:
        """Comes from an address; `remote` is that of the client behind trusted proxies."""
        said = {"ip": ip} if remote is None else {"ip": ip, "remoteIp": remote}
        return replace(self, source={**self.source, **said})

    def to(self, workload: str, *, protocol: str | None = None, labels: Mapping[str, str] | None = None) -> Answer:
        """Asks `[NAMESPACE/]WORKLOAD[:PORT]`. labels: of a workload that no file describes (app: its name)."""
        target = asked.target(self.policies.set, workload, labels)
        spoken = "tcp" if self.is_tcp and protocol is None else protocol
        return self.policies.judge(asked.request(target, self.caller, self.http, self.source, spoken))
