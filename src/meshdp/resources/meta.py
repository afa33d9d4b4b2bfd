"""What every resource has: metadata, a place, a key.

In:     the `metadata` of a raw document.
Out:    `Meta` and `Resource`, the base of every kind.
Fails:  names that Kubernetes would refuse are problems (MDP0205).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from meshdp.documents import Path
from meshdp.errors import Where
from meshdp.resources.shape import LooseShape, Problem

NAME_LIMIT = 253


class Key(NamedTuple):
    """Names a resource; unique in a resource set."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Owner(LooseShape, frozen=True):
    """Who made this object."""

    kind: str = ""
    name: str = ""
    controller: bool = False


class Meta(LooseShape, frozen=True):
    """Metadata; `creation_timestamp` is RFC 3339 text and sorts as text, empty when not written."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str = ""
    owner_references: list[Owner] = []

    PASSED_OVER: ClassVar[frozenset[str]] = frozenset(
        """generateName selfLink uid resourceVersion generation deletionTimestamp deletionGracePeriodSeconds
        finalizers managedFields""".split()
    )

    @property
    def age_order(self) -> tuple[str, str, str]:
        """Oldest first; ties by name, then namespace, as istiod sorts."""
        return (self.creation_timestamp, self.name, self.namespace)


@dataclass(frozen=True, slots=True)
class Resource:
    """One decoded object. `broken` marks a security policy that could not be read whole and therefore fails closed."""

    KIND: ClassVar[str] = ""

    meta: Meta
    where: Where = field(compare=False)
    broken: bool = field(default=False, kw_only=True)

    @property
    def key(self) -> Key:
        return Key(self.KIND, self.meta.namespace, self.meta.name)

    @property
    def name(self) -> str:
        return self.meta.name

    @property
    def namespace(self) -> str:
        return self.meta.namespace


def problems_of(meta: Meta) -> Iterator[Problem]:
    """Refuses what could not be a Kubernetes name: names become file names, hosts and log lines."""
    if not meta.name:
        yield Problem("MDP0203", ("metadata",), "field 'name' is missing")
    elif len(meta.name) > NAME_LIMIT or not _SUBDOMAIN.fullmatch(meta.name):
        yield Problem("MDP0205", ("metadata", "name"), f"{meta.name[:80]!r} is not a DNS subdomain name")
    if meta.namespace and not _LABEL.fullmatch(meta.namespace):
        yield Problem("MDP0205", ("metadata", "namespace"), f"{meta.namespace[:80]!r} is not a DNS label")


def account_problems(written: str, path: Path) -> Iterator[Problem]:
    """A service account is a part of an identity: with a slash in its name it would be another one."""
    if written and (len(written) > NAME_LIMIT or not _SUBDOMAIN.fullmatch(written)):
        yield Problem("MDP0205", path, f"{written[:80]!r} is not a DNS subdomain name")


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """True when every label of the selector stands in `labels`; an empty selector matches all."""
    return all(labels.get(name) == value for name, value in selector.items())


def as_text(data: Any) -> str:
    """A string if it is one, for reading the names of a document that does not decode."""
    return data if isinstance(data, str) else ""


_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
