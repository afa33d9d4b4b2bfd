"""Holds the fields of a policy's rules against the predicates that they became.

In:     a policy, and the trust domains that it was compiled with.
Out:    for each rule the fields in the order of the compiled predicates: what is said of a predicate can be said of
        the field that somebody wrote.
Limits: asks the compiler for each field alone and looks for the result among those of all; knows no field's meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from meshdp.compiler.predicates import Predicates
from meshdp.compiler.snapshot import Predicate
from meshdp.documents import Path
from meshdp.resources.security import AuthorizationPolicy, Operation, Rule, Source, When
from meshdp.resources.values import lists_of


@dataclass(frozen=True, slots=True)
class Field:
    """One list of values as it was written."""

    path: Path
    values: Sequence[str]
    key: str = ""  # of a condition

    @property
    def negated(self) -> bool:
        """Such a list holds when no value matches."""
        return str(self.path[-1]).startswith("not")

    @property
    def name(self) -> str:
        """As people call it: `principals`, or the key of a condition."""
        return self.key or str(self.path[-1])


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """The fields of one rule, in the shape of a compiled one."""

    from_: Sequence[Sequence[Field]]
    to: Sequence[Sequence[Field]]
    when: Sequence[Field]

    @property
    def fields(self) -> Iterator[Field]:
        """All of them."""
        for part in (*self.from_, *self.to, self.when):
            yield from part


def rules_of(policy: AuthorizationPolicy, trust_domains: tuple[str, ...]) -> list[WrittenRule]:
    """Every rule of a policy."""
    predicates = Predicates(policy.namespace, trust_domains)
    return [_rule(rule, ("spec", "rules", index), predicates) for index, rule in enumerate(policy.spec.rules)]


def _rule(rule: Rule, path: Path, predicates: Predicates) -> WrittenRule:
    sources = [(index, part.source) for index, part in enumerate(rule.from_) if part.source is not None]
    operations = [(index, part.operation) for index, part in enumerate(rule.to) if part.operation is not None]
    return WrittenRule(
        [_source(source, (*path, "from", index, "source"), predicates) for index, source in sources],
        [_operation(operation, (*path, "to", index, "operation"), predicates) for index, operation in operations],
        [field for index, when in enumerate(rule.when) for field in _when(when, (*path, "when", index), predicates)],
    )


def _source(source: Source, path: Path, predicates: Predicates) -> list[Field]:
    fields = [Field((*path, name), values) for name, values in lists_of(source).items() if values]
    alone = [predicates.source(msgspec.convert({field.path[-1]: field.values}, Source)) for field in fields]
    return _in_order(fields, alone, predicates.source(source))


def _operation(operation: Operation, path: Path, predicates: Predicates) -> list[Field]:
    fields = [Field((*path, name), values) for name, values in lists_of(operation).items() if values]
    alone = [predicates.operation(msgspec.convert({field.path[-1]: field.values}, Operation)) for field in fields]
    return _in_order(fields, alone, predicates.operation(operation))


def _when(when: When, path: Path, predicates: Predicates) -> list[Field]:
    written = {"values": when.values, "notValues": when.not_values}
    fields = [Field((*path, name), values, when.key) for name, values in written.items() if values]
    halves = [msgspec.convert({"key": when.key, field.path[-1]: field.values}, When) for field in fields]
    return _in_order(fields, [predicates.condition(half) for half in halves], predicates.condition(when))


def _in_order(
    fields: Sequence[Field], alone: Sequence[Sequence[Predicate]], compiled: Sequence[Predicate]
) -> list[Field]:
    """The field of each compiled predicate. alone: what each field compiles to by itself."""
    made = [(predicate, field) for field, own in zip(fields, alone, strict=True) for predicate in own]
    ordered: list[Field] = []
    for predicate in compiled:
        place = next(index for index, (other, _) in enumerate(made) if other == predicate)
        ordered.append(made.pop(place)[1])
    return ordered
