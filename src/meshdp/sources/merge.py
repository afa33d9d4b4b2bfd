"""Decides what stays in force when documents change: the last good version of whatever is broken now.

In:     the decoded documents of each file, now and before, from `files`.
Out:    one `ResourceSet` with the findings of duplicates.
Limits: the unit is the file: while one of its documents cannot be read, documents that vanished from that file stay,
        because nobody can tell whether the unreadable one is one of them.
Fails:  never; what it keeps back was reported by the reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meshdp.errors import Finding
from meshdp.resources import Resource, ResourceSet


@dataclass(frozen=True, slots=True)
class Reading:
    """What one file says: its resources, what is wrong with it, how many documents carry nothing for a mesh."""

    resources: Sequence[Resource] = ()
    findings: Sequence[Finding] = ()
    passed_over: int = 0
    whole: bool = True  # False: a document could not be read, so this is not all of the file


def keep_last_good(now: Reading, before: Reading | None) -> Reading:
    """Fill the gaps of a reading from the one before it."""
    if before is None:
        return now
    good = {resource.key: resource for resource in before.resources if not resource.broken}
    kept = [good.get(item.key, item) if item.broken else item for item in now.resources]
    if not now.whole:
        present = {item.key for item in now.resources}
        kept += [resource for resource in before.resources if resource.key not in present]
    return Reading(kept, now.findings, now.passed_over, now.whole)


def merge(readings: Iterable[Reading]) -> tuple[ResourceSet, list[Finding]]:
    """Join all files into one set; of two documents for one object the first by place stays."""
    everything = list(readings)
    resources, duplicates = ResourceSet.of(resource for reading in everything for resource in reading.resources)
    findings = [finding for reading in everything for finding in reading.findings]
    return resources, findings + duplicates
