"""Says an explanation to people.

In:     `Explanation`, the request, and how to paint words.
Out:    lines of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from meshdp.errors import printable
from meshdp.verdicts.explanation import Explanation, Missed, Step
from meshdp.verdicts.policies import Verdict
from meshdp.verdicts.request import Request

Paint = Callable[[str], str]

# Why something ends before policy, by the detail of the verdict.
BEFORE_POLICY = {
    "filter_chain_not_found": "the port takes no such connection (plaintext where mutual TLS is demanded?)",
    "tls_no_client_certificate": "the port demands mutual TLS, and the caller has no certificate",
    "tls_trust_domain": "the caller is of a trust domain that this mesh does not trust",
    "peer_identity": "the caller's certificate names no identity that can be read",
    "no request head": "the port speaks HTTP, and nothing of HTTP was sent",
    "refused": "the request breaks a rule of HTTP, and is refused before any policy is asked",
}


def told(request: Request, explanation: Explanation, good: Paint, bad: Paint) -> Iterator[str]:
    """The verdict first, then why."""
    verdict = explanation.verdict
    paint = good if verdict.allowed else bad
    yield paint(_sentence(verdict)) + printable(_of(explanation))
    yield printable(f"  asked       {_asked(request)}")
    yield printable(f"  mutual TLS  {explanation.mtls.mode}: {explanation.mtls.why}")
    for step in explanation.steps:
        yield printable(f"  {step.action:<11} {_step(step)}")
    for policy in explanation.besides:
        kind = "dry run" if policy["dry_run"] else policy["action"]
        yield printable(f"  {kind:<11} {policy['policy']} ({policy['where']}): {_matches(policy)}; it decides nothing")
    if explanation.nearest is not None:
        nearest = explanation.nearest
        yield printable(f"  nearest     rule {nearest.rule} of {nearest.policy} at {nearest.where}; it lacks:")
        yield from (printable(f"    {_missed(missed)}") for missed in nearest.missed)
    elif not verdict.allowed and verdict.action == "ALLOW":
        yield "  nearest     none: no ALLOW policy has a rule, so that everything is denied"


def _sentence(verdict: Verdict) -> str:
    if verdict.allowed:
        return "allowed"
    return f"denied with {verdict.status}" if verdict.status else "denied"


def _of(explanation: Explanation) -> str:
    verdict = explanation.verdict
    if verdict.policy is not None:
        kind = f" ({verdict.action})"
        return f" by rule {verdict.rule} of {verdict.policy}{kind} at {explanation.where}"
    if verdict.action == "ALLOW":
        return ": no rule of an ALLOW policy matches"
    if verdict.allowed:
        return ": nothing denies it, and there is no ALLOW policy"
    return f": {BEFORE_POLICY.get(verdict.detail, verdict.detail)}"


def _asked(request: Request) -> str:
    to = request.destination
    what = " ".join(request.request.line) if request.is_http else "a TCP connection"
    labels = ",".join(f"{name}={value}" for name, value in (to.labels or {}).items())
    whom = f"{to.namespace} [{labels}] port {to.port}"
    return f"{what} by {request.principal or 'plaintext'} from {request.source.ip} of {whom}"


def _step(step: Step) -> str:
    if not step.policies:
        return step.outcome
    shown = ", ".join(f"{policy['policy']} ({policy['where']}): {_matches(policy)}" for policy in step.policies)
    return f"{step.outcome}: {shown}"


def _matches(policy: dict[str, Any]) -> str:
    if not policy["rules"]:
        return "it has no rules"
    if not policy["matched"]:
        return f"none of {policy['rules']} rules" if policy["rules"] != 1 else "not its one rule"
    return ", ".join(f"rule {matched['rule']} at {matched['where']}" for matched in policy["matched"])


def _missed(missed: Missed) -> str:
    found = ", ".join(missed.found) or "nothing"
    wanted = ", ".join(missed.wanted)
    return f"{missed.field} at {missed.where}: {'not ' if missed.negated else ''}{wanted}; found {found}: {missed.why}"
