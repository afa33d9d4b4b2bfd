"""Says a rule's conditions in a person's words, close to the YAML they came from.

In:      the predicates of a policy in force (docs/snapshot.md, section `authz`).
Out:     one line for each of a rule's `from`, `to` and `when`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Predicate = dict[str, Any]


def alternatives(lists: Sequence[Sequence[Predicate]]) -> str:
    """`from` or `to`: any of the inner lists may hold."""
    return " or ".join(conjunction(each) or "any" for each in lists) or "any"


def conjunction(predicates: Sequence[Predicate]) -> str:
    """Conditions that must all hold."""
    return " and ".join(_words(predicate) for predicate in predicates)


def _words(predicate: Predicate) -> str:
    name = predicate.get("name", "")
    subject = f"{predicate['field']}[{name}]" if name else str(predicate["field"])
    values = ",".join(_value(value) for value in predicate.get("values", []))
    return f"{subject}{'!=' if predicate.get('negate') else '='}{values or '(not honoured)'}"


def _value(value: dict[str, str]) -> str:
    text = value.get("value", "")
    match value.get("kind"):
        case "prefix":
            return f"{text}*"
        case "suffix":
            return f"*{text}"
        case "present":
            return "*"
        case "regex":
            return f"/{text}/"
        case _:
            return text
