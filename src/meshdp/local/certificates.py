"""The certificates of a mesh on this machine: its authority, one desk for each sidecar, the rotation of the root.

In:      the feeds of the mesh; calls from `meshdp certs` through the control socket.
Out:     facts, renewals, the progress of a rotation.
Fails:   MeshdpError for an authority that cannot be used, UsageError for a workload that is not there, Refused for a
         step that cannot be; a full disk delays a rotation.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path

from meshdp.control.authority import Authority, AuthorityDamaged, WrongOrder
from meshdp.control.desk import Desk
from meshdp.control.rotation import SETTLE_S, Rotation
from meshdp.errors import MeshdpError, Refused, UsageError
from meshdp.local.control import Call, Verb
from meshdp.local.feed import Feed

LIFE_S = 3600
RETRY_S = 1.0
LONGEST_SETTLE_S = 3600


class Certificates:
    """Who has which certificate, and how that changes."""

    def __init__(self, folder: Path, mesh: str, life_s: int, say: Callable[[str], None]) -> None:
        life = datetime.timedelta(seconds=life_s)
        try:
            self.authority = Authority.open(folder, f"{mesh} root", life)
        except AuthorityDamaged as damaged:
            raise MeshdpError(str(damaged)) from damaged
        self._say = say
        self._desks: dict[str, Desk] = {}
        self._rotation = Rotation(self.authority, lambda: list(self._desks.values()))
        self._told = self.authority.phase
        self._refused: dict[str, str] = {}
        self._retry: asyncio.TimerHandle | None = None

    @property
    def verbs(self) -> Mapping[str, Verb]:
        """What the control socket offers of this."""
        return {"certs": self._show, "certs-rotate": self._rotate, "certs-rotate-root": self._rotate_root}

    def feed(self, workload: str, changed: Callable[[], None]) -> Feed:
        """The feed of one more sidecar."""

        def both() -> None:
            self.advance()
            changed()

        feed = Feed(workload, self.authority, both)
        self._desks[workload] = feed.desk
        return feed

    def advance(self) -> None:
        """Something is different: a rotation goes on as far as it may."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            again_s = self._rotation.advance()
        except OSError as error:
            self._say(f"the rotation of the root waits in phase {self.authority.phase}: {error}")
            again_s = RETRY_S
        if again_s is not None:
            self._retry = asyncio.get_running_loop().call_later(again_s, self.advance)
        self._tell_refusals()
        if self.authority.phase != self._told:
            self._told = self.authority.phase
            self._say(f"rotation of the root: {self._told}, signing with {self.authority.signer[:12]}")

    def _tell_refusals(self) -> None:
        """What a sidecar asked or took in vain, each once as long as it lasts."""
        for desk in self._desks.values():
            if desk.error != self._refused.get(desk.name, ""):
                self._refused[desk.name] = desk.error
                if desk.error:
                    self._say(f"{desk.name}: no certificate: {desk.error}")

    def _show(self, call: Call) -> Call:
        return {
            "phase": self.authority.phase,
            "signer": self.authority.signer,
            "roots": list(self.authority.roots),
            "waits_for": self._rotation.waits_for(),
            "workloads": [desk.facts() for desk in self._meant(call)],
        }

    def _rotate(self, call: Call) -> Call:
        meant = self._meant(call)
        away = [desk.name for desk in meant if not desk.renew()]
        if away:
            raise Refused(f"not connected: {', '.join(away)}", "look at its sidecar: meshdp ps")
        return {"asked": [desk.name for desk in meant]}

    def _rotate_root(self, call: Call) -> Call:
        settle_s = call.get("settle_s", SETTLE_S)
        if not isinstance(settle_s, int | float) or not 0 <= settle_s <= LONGEST_SETTLE_S:
            raise UsageError(f"settle_s: expected 0 to {LONGEST_SETTLE_S} seconds, found {settle_s!r}")
        try:
            self._rotation.start(settle_s)
        except WrongOrder as wrong:
            raise Refused(str(wrong), "meshdp certs show") from wrong
        except OSError as error:
            raise Refused(f"the new root cannot be kept: {error}", "free the disk of the state folder") from error
        self.advance()
        return self._show({})

    def _meant(self, call: Call) -> list[Desk]:
        name = call.get("workload")
        if not name:
            return list(self._desks.values())
        found = [desk for key, desk in self._desks.items() if name in (key, key.partition("/")[2])]
        if len(found) != 1:
            known = ", ".join(self._desks)
            raise UsageError(f"no single sidecar is named {name}", f"choose one of: {known}")
        return found
