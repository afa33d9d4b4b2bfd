"""One sidecar's certificate, seen from the authority: what it asked for, what it was sent, what it says is in use.

In:      certificate requests and acknowledgements of one sidecar (frames `C` and `I`).
Out:     certificates, bundles and calls to renew (`K`, `E`, `R`); facts for `meshdp certs` and for a rotation.
Limits:  REQUESTS_PER_SECOND signed for one sidecar, above that it is told to come back.
Fails:   never: what is refused is said to the sidecar and remembered here.
Source:  docs/feed.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from meshdp.control.authority import Authority, RequestRefused
from meshdp.control.frames import Frame, ProtocolError

REQUESTS_PER_SECOND = 20
# Of a certificate's life, in percent; the engine says the same in its log and metrics.
ALARMS = (95, 80, 50)


class RootInUse(msgspec.Struct, frozen=True):
    """One root of the bundle that a sidecar has in force."""

    fingerprint: str


class InUse(msgspec.Struct, frozen=True):
    """What a sidecar says is in use; `reason` says why the last thing that it was sent is not."""

    identity: str = ""
    serial: str = ""
    issuer: str = ""
    not_before_unix: int = 0
    not_after_unix: int = 0
    roots: list[RootInUse] = []
    reason: str = ""


class Desk:
    """Signs for one sidecar and knows what it has."""

    def __init__(self, name: str, authority: Authority) -> None:
        self.name = name
        self.identity = ""
        self.in_use = InUse()
        self.renewals = 0
        self.error = ""
        self.since = 0.0
        self._authority = authority
        self._send: Callable[[Frame], None] | None = None
        self._unanswered = 0
        self._asked: list[float] = []
        self._told_to_renew = ""

    @property
    def bundle(self) -> tuple[str, ...]:
        """The roots that it has in force."""
        return tuple(root.fingerprint for root in self.in_use.roots)

    @property
    def is_here(self) -> bool:
        """It is connected."""
        return self._send is not None

    @property
    def has_certificate(self) -> bool:
        """It can speak mutual TLS, as far as we know: it has a certificate that has not ended, or one is on its way."""
        return self._unanswered > 0 or (bool(self.in_use.serial) and self.in_use.not_after_unix > time.time())

    @property
    def trusts_the_bundle(self) -> bool:
        """It has exactly our bundle in force; one without a certificate trusts nobody and cuts nobody off."""
        if not self.has_certificate:
            return True
        return self._unanswered == 0 and self.bundle == self._authority.roots

    @property
    def is_signed_by_signer(self) -> bool:
        """Its certificate is of the root that signs now."""
        return not self.has_certificate or (self._unanswered == 0 and self.in_use.issuer == self._authority.signer)

    def join(self, send: Callable[[Frame], None]) -> None:
        """A connection of the sidecar begins: it will say what it has, and what is missing is sent."""
        self._send = send
        self._unanswered = 0
        self._told_to_renew = ""

    def leave(self) -> None:
        """The connection ended; what it had is remembered, for it may live on."""
        self._send = None

    def forget(self) -> None:
        """The process ended, and its key with it."""
        self._send, self._unanswered, self.in_use = None, 0, InUse()

    def sign(self, request: bytes) -> Frame:
        """The answer to a certificate request."""
        if not self.identity:
            return self._refuse("the workload's identity is not known yet")
        now = time.monotonic()
        self._asked = [*(asked for asked in self._asked if asked > now - 1), now]
        if len(self._asked) > REQUESTS_PER_SECOND:
            return self._refuse(f"asked more than {REQUESTS_PER_SECOND} times in a second; ask again later")
        try:
            chain = self._authority.sign(request, self.identity)
        except RequestRefused as refused:
            return self._refuse(str(refused))
        self._unanswered += 1
        return Frame.of("K", chain=chain, bundle=self._authority.bundle)

    def hear(self, frame: Frame) -> None:
        """An acknowledgement (`I`).

        Raises:
            ProtocolError: its body is not one.
        """
        try:
            said = msgspec.json.decode(frame.body, type=InUse)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ProtocolError(f"expected what is in use in I: {error}") from error
        self._unanswered = max(self._unanswered - 1, 0)
        self.error = said.reason
        if said.serial and said.serial != self.in_use.serial:
            self.renewals += bool(self.in_use.serial)
            self.since = time.time()
        self.in_use = said

    def offer_bundle(self) -> None:
        """Sends the bundle alone, unless it is in force or on its way."""
        if self._send is not None and self._unanswered == 0 and self.in_use.serial and not self.trusts_the_bundle:
            self._unanswered += 1
            self._send(Frame.of("K", chain="", bundle=self._authority.bundle))

    def renew(self) -> bool:
        """Asks the sidecar to renew now; False when it is not here."""
        if self._send is None:
            return False
        self._send(Frame("R", b""))
        return True

    def renew_once(self) -> None:
        """As `renew`, once for each certificate and connection: the sidecar's own retries do the rest."""
        if self._told_to_renew != self.in_use.serial and self.renew():
            self._told_to_renew = self.in_use.serial

    def facts(self) -> dict[str, object]:
        """What `meshdp certs show` says of it."""
        now, said = time.time(), self.in_use
        return {
            "workload": self.name,
            "identity": said.identity or self.identity,
            "serial": said.serial,
            "not_before": said.not_before_unix,
            "not_after": said.not_after_unix,
            "remaining_s": max(int(said.not_after_unix - now), 0),
            "renewals": self.renewals,
            "issuer": said.issuer,
            "roots": list(self.bundle),
            "connected": self.is_here,
            "alarm": self._alarm(now),
            "error": self.error,
        }

    def _alarm(self, now: float) -> str:
        if not self.in_use.serial:
            return "no certificate"
        life, spent = self.in_use.not_after_unix - self.since, now - self.since
        if spent >= life:
            return "expired"
        return next((f"{percent} %" for percent in ALARMS if spent * 100 >= life * percent), "")

    def _refuse(self, reason: str) -> Frame:
        self.error = reason
        return Frame.of("E", message=reason)
