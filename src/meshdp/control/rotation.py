"""Rotates the root under live traffic: phases, each begun only when the one before holds for everyone.

trusting (the new root joins every bundle) → signing (it signs every leaf) → settling (what was opened before ends) →
distrusting (the old root leaves every bundle) → steady.

In:      the authority and the desks of all its sidecars; `advance` is called after anything changed.
Out:     bundles offered, renewals asked for, the authority's phase; when to call again.
Limits:  one rotation at a time; settling lasts `settle_s`, then what still rests on the old root is cut. A sidecar
         that is away but may live on holds it up until its certificate ends: there is no force, waiting cuts nobody.
Fails:   WrongOrder when one is under way; OSError where the disk is full: the phase stays, the next `advance` tries
         again.
Source:  attack case CA-06; docs/certificates.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from meshdp.control.authority import Authority
from meshdp.control.desk import Desk

# As long as a handshake may last (the engine's bound), and longer than nearly every request.
SETTLE_S = 10.0


class Rotation:
    """The rotation of one authority's root."""

    def __init__(self, authority: Authority, desks: Callable[[], Sequence[Desk]]) -> None:
        self._authority = authority
        self._desks = desks
        self._settle_s = SETTLE_S
        self._settled_since: float | None = None

    def start(self, settle_s: float = SETTLE_S) -> None:
        """Phase 1 begins; `advance` does the rest.

        Raises:
            WrongOrder: a rotation is under way.
        """
        self._authority.trust_new_root()
        self._settle_s = settle_s

    def advance(self) -> float | None:
        """Goes as far as everyone allows. Where only time is missing, says how many seconds."""
        while self._step():
            pass
        for desk in self._desks():
            desk.offer_bundle()
        if self._authority.phase == "signing":
            self._ask_for_renewal()
        return self._settles_for() if self._settled_since is not None else None

    def waits_for(self) -> list[str]:
        """The sidecars that hold the phase up, each with the reason."""
        return [f"{desk.name}: {reason}" for desk in self._desks() if (reason := self._lacks(desk))]

    def _step(self) -> bool:
        authority = self._authority
        if authority.phase == "steady" or self.waits_for():
            return False
        if authority.phase == "trusting":
            authority.sign_with_new_root()
        elif authority.phase == "signing":
            authority.settle()
            self._settled_since = None
        elif authority.phase == "settling":
            return self._settle()
        else:
            authority.finish_rotation()
        return True

    def _settle(self) -> bool:
        """What was opened under old credentials is no longer used for new requests: those under way get their time."""
        if self._settled_since is None:
            self._settled_since = time.monotonic()
        if self._settles_for() > 0:
            return False
        self._authority.distrust_old_root()
        self._settled_since = None
        return True

    def _settles_for(self) -> float:
        since = time.monotonic() if self._settled_since is None else self._settled_since
        return max(since + self._settle_s - time.monotonic(), 0)

    def _lacks(self, desk: Desk) -> str:
        """What a sidecar still needs before the next phase; empty when nothing."""
        if self._authority.phase == "steady":
            return ""
        if self._authority.phase in ("signing", "settling") and not desk.is_signed_by_signer:
            return self._because(desk, "its certificate is of the old root")
        # In every phase: who does not trust the whole bundle would refuse somebody.
        return "" if desk.trusts_the_bundle else self._because(desk, "the bundle is not in force")

    @staticmethod
    def _because(desk: Desk, what: str) -> str:
        away = "" if desk.is_here else ", and it is not connected"
        return f"{what}{away}{f' ({desk.error})' if desk.error else ''}"

    def _ask_for_renewal(self) -> None:
        """Each certificate of the old root once: the sidecar's own retries do the rest."""
        for desk in self._desks():
            if not desk.is_signed_by_signer:
                desk.renew_once()
