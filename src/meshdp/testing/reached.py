"""Which rules of a policy set were matched by anything that a test asked.

In:     what the matcher says of each request.
Out:    the rules that nothing matched, with their places.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshdp.resources.security import AuthorizationPolicy
from meshdp.verdicts.places import Places
from meshdp.verdicts.policies import Json, PolicySet

Rule = tuple[str, int]


class Reached:
    """A growing set of rules, by ("namespace/name", index)."""

    def __init__(self, policies: PolicySet) -> None:
        self._policies = policies
        self.rules: set[Rule] = set()

    def note(self, walked: Json | None) -> None:
        """Takes in what matched; nothing where a request ended before policy."""
        for policy in walked["policies"] if walked else ():
            named = f"{policy['namespace']}/{policy['name']}"
            self.rules.update((named, index) for index, rule in enumerate(policy["rules"]) if rule["matched"])

    def add(self, rules: Iterable[Rule]) -> None:
        """Takes in what another process matched."""
        self.rules.update((named, index) for named, index in rules)

    def unreached(self) -> list[str]:
        """A line for each rule that nothing matched."""
        places = Places()
        lines = []
        for policy in self._policies.resources.all(AuthorizationPolicy):
            if policy.targets_gateway:
                continue  # no sidecar asks them
            named = f"{policy.namespace}/{policy.name}"
            missing = [index for index in range(len(policy.spec.rules)) if (named, index) not in self.rules]
            lines += [f"{places.of(policy, ('spec', 'rules', index))}: rule {index} of {named}" for index in missing]
        return lines
