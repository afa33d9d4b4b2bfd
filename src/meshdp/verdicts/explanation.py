"""Completes what the matcher says of a request: fields as written, their lines, the nearest rule, the TLS mode.

In:     a `PolicySet` and a request.
Out:    `Explanation`, as data for programs; `telling` says it to people.
Limits: whether a condition holds is the matcher's word alone; nothing here compares a value.
Source: spec/istio-semantics.md D.2 (order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from meshdp.compiler.select import Directory
from meshdp.resources.security import AuthorizationPolicy
from meshdp.resources.shape import dotted
from meshdp.verdicts.mtls import Mode, mode_of
from meshdp.verdicts.places import Places
from meshdp.verdicts.policies import Json, PolicySet, Verdict
from meshdp.verdicts.request import Request
from meshdp.verdicts.written import Field, WrittenRule, rules_of

ORDER = ("CUSTOM", "DENY", "ALLOW")


@dataclass(frozen=True, slots=True)
class Missed:
    """One field of a rule that kept it from matching."""

    field: str
    where: str
    negated: bool
    wanted: list[str]
    found: list[str]
    why: str


@dataclass(frozen=True, slots=True)
class Nearest:
    """The ALLOW rule that lacks least."""

    policy: str
    rule: int
    where: str
    missed: list[Missed]


@dataclass(frozen=True, slots=True)
class Step:
    """One of the actions in their order. matched: "policy rule index" with places. outcome: a phrase."""

    action: str
    outcome: str
    policies: list[Json]
    decided: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a verdict is what it is. places: of the rule behind the verdict, empty where there is none."""

    verdict: Verdict
    where: str
    mtls: Mode
    steps: list[Step] = field(default_factory=list)
    nearest: Nearest | None = None
    besides: list[Json] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Stable keys."""
        nearest = self.nearest
        return {
            "verdict": {**self.verdict.as_dict(), "where": self.where},
            "mtls": self.mtls.as_dict(),
            "steps": [
                {"action": s.action, "outcome": s.outcome, "decided": s.decided, "policies": s.policies}
                for s in self.steps
            ],
            "nearest": None if nearest is None else _plain(nearest),
            "besides": self.besides,
        }


def explained(policies: PolicySet, request: Request, places: Places) -> Explanation:
    """Asks the matcher about every policy, and says what it answered in the words of the YAML."""
    verdict, walked = policies.walked(request)
    mode = mode_of(policies.resources, policies.workload_of(request), request.destination.port, places)
    if walked is None:
        return Explanation(verdict, "", mode)
    told = _Told(policies, places, [policy for policy in walked["policies"] if not _is_idle(policy)])
    besides = [told.shown(policy) for policy in walked["policies"] if _is_idle(policy)]
    where = told.where(verdict.policy, verdict.rule) if verdict.policy is not None and verdict.rule is not None else ""
    is_unmatched = not verdict.allowed and verdict.policy is None
    nearest = told.nearest() if is_unmatched else None
    return Explanation(verdict, where, mode, told.steps(verdict), nearest, besides)


def _is_idle(policy: Json) -> bool:
    """AUDIT and dry-run policies decide nothing."""
    return bool(policy["dry_run"]) or policy["action"] == "AUDIT"


class _Told:
    """The matcher's answer beside the policies as written."""

    def __init__(self, policies: PolicySet, places: Places, walked: Sequence[Json]) -> None:
        self.policies = policies
        self.places = places
        self.walked = walked
        self.trust_domains = Directory(policies.resources).trust_domains

    def steps(self, verdict: Verdict) -> list[Step]:
        """CUSTOM, DENY, ALLOW: what each had to say, until one decided."""
        made: list[Step] = []
        decided = False
        for action in ORDER:
            concerned = [policy for policy in self.walked if self.action_of(policy) == action]
            decides = verdict.action == action or (action == "ALLOW" and not decided)
            if decided:
                made.append(Step(action, "not reached", [], False))
                continue
            made.append(Step(action, _outcome(action, concerned), [self.shown(each) for each in concerned], decides))
            decided = decides
        return made

    def shown(self, policy: Json) -> Json:
        """One policy: which of its rules match."""
        named = _name(policy)
        matched = [index for index, rule in enumerate(policy["rules"]) if rule["matched"]]
        return {
            "policy": named,
            "action": self.action_of(policy),
            "dry_run": policy["dry_run"],
            "where": policy["where"],
            "rules": len(policy["rules"]),
            "matched": [{"rule": index, "where": self.where(named, index)} for index in matched],
        }

    def action_of(self, policy: Json) -> str:
        return self.policies.action_of(_name(policy), policy["action"]) or policy["action"]

    def where(self, named: str, rule: int) -> str:
        """The line of a rule; that of the document for a policy that is no more than its document."""
        policy = self.policies.policy_at(named)
        if policy is None:
            return next((str(each["where"]) for each in self.walked if _name(each) == named), "")
        return str(self.places.of(policy, ("spec", "rules", rule)))

    def nearest(self) -> Nearest | None:
        """The ALLOW rule with the fewest fields that missed; of several the one of which most held."""
        best: tuple[tuple[int, int], Nearest] | None = None
        for policy in self.walked:
            written = self.policies.policy_at(_name(policy))
            if self.action_of(policy) != "ALLOW" or written is None or written.broken:
                continue
            rules = rules_of(written, self.trust_domains)
            for index, (rule, fields) in enumerate(zip(policy["rules"], rules, strict=True)):
                missed, held = _shortfall(rule, fields)
                score = (len(missed), -held)
                if best is None or score < best[0]:
                    shown = [self._missed(written, each, predicate) for each, predicate in missed]
                    best = score, Nearest(_name(policy), index, self.where(_name(policy), index), shown)
        return best[1] if best else None

    def _missed(self, policy: AuthorizationPolicy, missed: Field, predicate: Json) -> Missed:
        found = [str(text).removeprefix("spiffe://") for text in predicate["found"]]
        name = dotted(missed.path[3:])
        return Missed(
            field=f"{name} ({missed.key})" if missed.key else name,
            where=str(self.places.of(policy, missed.path)),
            negated=missed.negated,
            wanted=list(missed.values),
            found=found,
            why=_why(predicate, found),
        )


def _shortfall(rule: Json, fields: WrittenRule) -> tuple[list[tuple[Field, Json]], int]:
    """What a rule lacks, by its alternatives that lack least; and how many conditions hold."""
    chosen = [*_best(rule["from"], fields.from_), *_best(rule["to"], fields.to)]
    chosen += zip(fields.when, rule["when"], strict=True)
    missed = [(written, predicate) for written, predicate in chosen if not predicate["holds"]]
    return missed, len(chosen) - len(missed)


def _best(alternatives: Sequence[Sequence[Json]], fields: Sequence[Sequence[Field]]) -> list[tuple[Field, Json]]:
    pairs = [list(zip(written, each, strict=True)) for written, each in zip(fields, alternatives, strict=True)]
    return min(pairs, key=lambda each: sum(not predicate["holds"] for _, predicate in each), default=[])


def _why(predicate: Json, found: Sequence[str]) -> str:
    if predicate["field"] == "unsupported":
        return "it cannot be honoured yet, so that no ALLOW rule with it matches"
    if predicate["holds"] is None:
        return "it is about HTTP, and this is a TCP connection"
    if found:
        return "one of its values matches" if predicate["negate"] else "none of its values matches"
    nameless = predicate["field"] in ("principal", "identity")
    return "plaintext proves no identity" if nameless else "the request has no such value"


def _outcome(action: str, concerned: Sequence[Json]) -> str:
    if not concerned:
        return "no policy" if action != "ALLOW" else "no policy: what is not denied is allowed"
    return "a rule matches" if any(each["matched"] for each in concerned) else "no rule matches"


def _name(policy: Json) -> str:
    return f"{policy['namespace']}/{policy['name']}"


def _plain(nearest: Nearest) -> Json:
    missed = [
        {
            "field": each.field,
            "where": each.where,
            "negated": each.negated,
            "wanted": each.wanted,
            "found": each.found,
            "why": each.why,
        }
        for each in nearest.missed
    ]
    return {"policy": nearest.policy, "rule": nearest.rule, "where": nearest.where, "missed": missed}
