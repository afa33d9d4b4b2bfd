"""Says of each sidecar which configuration it has in force, since when, and what is wrong with it.

In:      sidecars, asked for `/config`, `/ready`, `/stats` and `/certs`, and what their mesh wants of them.
Out:     `Status`, whose `row` has the keys that docs/inspect.md promises.
Fails:   never: a sidecar that does not answer is a row that says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from meshdp.errors import Unreachable
from meshdp.local.inspection.sidecars import MALFORMED, Sidecar
from meshdp.local.report import Row, duration, moment


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of one sidecar. config, ready, stats, certs: its pages, empty when it does not answer."""

    sidecar: Sidecar
    config: dict[str, Any] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    certs: dict[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> str:
        """The version its mesh wants; empty for a sidecar without a mesh."""
        return self.sidecar.instance.wanted if self.sidecar.instance else ""

    @property
    def digest(self) -> str:
        return str(self.config.get("digest", ""))

    @property
    def refusal(self) -> str:
        """Why the newest configuration is not in force: the engine's own words, or the mesh's."""
        refused = self.config.get("refused") or {}
        return str(refused.get("reason", "")) or (self.sidecar.instance.refusal if self.sidecar.instance else "")

    @property
    def state(self) -> str:
        """One word; the first that holds."""
        if not self.config:
            return "UNREACHABLE"
        if self.refusal:
            return "REFUSED"
        if not self.digest:
            return "WAITING"
        if self.config.get("feed_lost") or (self.wanted and self.wanted != self.digest):
            return "STALE"
        return "SYNCED" if self.wanted else "SERVING"

    @property
    def is_fine(self) -> bool:
        return self.state in ("SYNCED", "SERVING") and bool(self.ready.get("ready")) and not self.trouble

    @property
    def trouble(self) -> str:
        """Why its certificate was not renewed last time, or empty."""
        return str(self.certs.get("turnover", {}).get("last_error", ""))

    @property
    def cure(self) -> str:
        """Where to look when it is silent."""
        if self.sidecar.instance is None:
            return "is it running, and is this its --admin?"
        return f"see how it is: meshdp ps; meshdp logs {self.sidecar.name} --sidecar"

    @property
    def complaints(self) -> list[str]:
        """What a person should know beyond the row."""
        said = [f"refused: {self.refusal}"] if self.refusal else []
        if not self.config:
            said.append(f"its sidecar does not answer: {self.cure}")
        if self.config.get("feed_lost"):
            said.append("it has lost its feed and keeps what is in force")
        if self.trouble:
            said.append(f"its certificate is not renewed: {self.trouble}")
        if self.ready and not self.ready.get("ready"):
            said.append(f"not ready: {self.ready.get('reason', 'no reason given')}")
        return said

    def row(self) -> Row:
        """The sidecar for programs; keys are stable."""
        connections = self.stats.get("connections", {})
        expiry = self.stats.get("certificate_expiry") or None
        instance = self.sidecar.instance
        return {
            "workload": self.sidecar.name,
            "state": self.state,
            "version": self.digest,
            "wanted": self.wanted,
            "since": moment(self.config.get("since_unix_ms"), 1000),
            "ready": bool(self.ready.get("ready")),
            "refusal": self.refusal,
            "certificate_expires": moment(expiry),
            "certificate_remaining_s": None if expiry is None else int(expiry - time.time()),
            "inbound_connections": connections.get("inbound", {}).get("active"),
            "outbound_connections": connections.get("outbound", {}).get("active"),
            "restarts": instance.restarts if instance else None,
        }

    def table_row(self) -> Row:
        """The same in the width of a terminal."""
        row = self.row()
        since, remaining = self.config.get("since_unix_ms"), row["certificate_remaining_s"]
        return {
            "workload": row["workload"],
            "state": self.state,
            "version": self.digest[:12],
            "wanted": self.wanted[:12],
            "since": "" if since is None else duration(time.time() - since / 1000),
            "ready": row["ready"],
            "cert": "" if not isinstance(remaining, int) else duration(remaining),
            "in": row["inbound_connections"],
            "out": row["outbound_connections"],
            "restarts": row["restarts"],
        }


async def look_at(sidecars: Sequence[Sidecar]) -> list[Status]:
    """Asks all of them at once."""
    return list(await asyncio.gather(*(_look(sidecar) for sidecar in sidecars)))


async def _look(sidecar: Sidecar) -> Status:
    try:
        pages = await asyncio.gather(*(sidecar.page(path) for path in _PAGES))
    except Unreachable:
        return Status(sidecar)
    found = Status(sidecar, *pages)
    try:
        found.table_row()
    except MALFORMED:
        return Status(sidecar)
    return found


_PAGES = ("/config?sections=", "/ready", "/stats", "/certs")
