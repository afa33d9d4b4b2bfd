"""The rotation of a root, with sidecars that say what a test wants: who holds it up, who does not, and what is sent."""

import json
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshdp.control.authority import Authority, WrongOrder
from meshdp.control.desk import REQUESTS_PER_SECOND, Desk
from meshdp.control.frames import Frame, ProtocolError
from meshdp.control.rotation import Rotation

IDENTITY = "spiffe://cluster.local/ns/default/sa/a"
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(x509.Name([]))
    .sign(KEY, hashes.SHA256())
    .public_bytes(serialization.Encoding.PEM)
)


class Sidecar:
    """The other end of a desk: takes what it is sent and says so, when asked to."""

    def __init__(self, name: str, authority: Authority) -> None:
        self.desk = Desk(name, authority)
        self.desk.identity = IDENTITY
        self.sent: list[Frame] = []
        self._serials = 0
        self._leaf = {"serial": "", "issuer": "", "not_after_unix": int(time.time()) + 3600}
        self._roots: list[str] = []
        self.desk.join(self.sent.append)

    def asks(self) -> None:
        self.sent.append(self.desk.sign(REQUEST))

    def takes(self) -> list[str]:
        """Does what all frames ask; their kinds."""
        frames, self.sent[:] = list(self.sent), []
        for frame in frames:
            if frame.kind == "R":
                self.asks()
            elif frame.kind == "K":
                self._install(frame.fields())
        return [frame.kind for frame in frames]

    def _install(self, said: dict[str, str]) -> None:
        roots = x509.load_pem_x509_certificates(said["bundle"].encode())
        self._roots = [root.fingerprint(hashes.SHA256()).hex() for root in roots]
        if said["chain"]:
            self._serials += 1
            leaf = x509.load_pem_x509_certificate(said["chain"].encode())
            issuer = next(root for root in roots if signed(leaf, root))
            fingerprint = issuer.fingerprint(hashes.SHA256()).hex()
            self._leaf |= {"serial": f"{self.desk.name}{self._serials}", "issuer": fingerprint}
        self.says()

    def says(self, **more: str) -> None:
        roots = [{"fingerprint": root} for root in self._roots]
        self.desk.hear(Frame("I", json.dumps(self._leaf | {"roots": roots} | more).encode()))


def signed(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    key = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    return key == root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority", "root")


@pytest.fixture
def sidecars(authority: Authority) -> list[Sidecar]:
    made = [Sidecar(name, authority) for name in "ab"]
    for each in made:
        each.asks()
        each.takes()
    return made


@pytest.fixture
def rotation(authority: Authority, sidecars: list[Sidecar]) -> Rotation:
    return Rotation(authority, lambda: [each.desk for each in sidecars])


def test_ca_06_phases_follow_what_everyone_has(
    authority: Authority, sidecars: list[Sidecar], rotation: Rotation
) -> None:
    first, second = sidecars
    old = authority.signer
    rotation.start(settle_s=0)
    rotation.advance()
    assert (authority.phase, authority.signer) == ("trusting", old)
    assert first.takes() == ["K"]
    rotation.advance()
    assert rotation.waits_for() == ["b: the bundle is not in force"]
    assert second.takes() == ["K"]
    rotation.advance()
    assert authority.phase == "signing"
    assert authority.signer != old
    assert first.takes() == ["R"]
    rotation.advance()
    assert first.takes() == ["K"]
    rotation.advance()
    assert rotation.waits_for() == ["b: its certificate is of the old root"]
    assert second.takes() == ["R"]
    assert second.takes() == ["K"]
    rotation.advance()
    assert (authority.phase, len(authority.roots)) == ("settling", 2)
    for each in sidecars:
        assert each.takes() == ["K"]
    rotation.advance()
    assert (authority.phase, authority.roots) == ("distrusting", (authority.signer,))
    for each in sidecars:
        assert each.takes() == ["K"]
    assert rotation.advance() is None
    assert (authority.phase, rotation.waits_for()) == ("steady", [])


def test_ca_06_settling_takes_its_time(authority: Authority, sidecars: list[Sidecar], rotation: Rotation) -> None:
    rotation.start(settle_s=100)
    for _ in range(6):
        rotation.advance()
        for each in sidecars:
            each.takes()
    left = rotation.advance()
    assert authority.phase == "settling"
    assert left is not None
    assert 90 < left <= 100


def test_ca_06_who_is_away_holds_it_up_and_who_is_gone_does_not(
    authority: Authority, sidecars: list[Sidecar], rotation: Rotation
) -> None:
    here, away = sidecars
    away.desk.leave()
    rotation.start(settle_s=0)
    rotation.advance()
    here.takes()
    rotation.advance()
    assert rotation.waits_for() == ["b: the bundle is not in force, and it is not connected"]
    away.desk.forget()
    rotation.advance()
    assert authority.phase == "signing"
    with pytest.raises(WrongOrder):
        rotation.start()


def test_ca_06_a_certificate_on_its_way_counts_as_one_in_use(
    authority: Authority, sidecars: list[Sidecar], rotation: Rotation
) -> None:
    late = Sidecar("c", authority)
    sidecars.append(late)
    late.asks()  # signed by the old root, and not yet heard of again
    rotation.start(settle_s=0)
    for _ in range(3):
        rotation.advance()
        for each in sidecars[:2]:
            each.takes()
    assert authority.phase == "trusting"
    late.takes()
    rotation.advance()
    late.takes()
    rotation.advance()
    assert authority.phase == "signing"


def test_ca_06_a_refusal_is_shown(authority: Authority, sidecars: list[Sidecar], rotation: Rotation) -> None:
    rotation.start()
    rotation.advance()
    sidecars[1].takes()
    sidecars[0].says(reason="our own certificate would be refused")
    assert rotation.waits_for() == ["a: the bundle is not in force (our own certificate would be refused)"]
    assert sidecars[0].desk.facts()["error"] == "our own certificate would be refused"
    assert authority.phase == "trusting"


def test_ca_09_one_sidecar_cannot_take_all_the_time(authority: Authority) -> None:
    desk = Desk("a", authority)
    desk.identity = IDENTITY
    kinds = [desk.sign(REQUEST).kind for _ in range(REQUESTS_PER_SECOND + 3)]
    assert kinds == ["K"] * REQUESTS_PER_SECOND + ["E"] * 3
    assert "ask again later" in desk.error


def test_what_is_no_acknowledgement_is_refused(authority: Authority) -> None:
    with pytest.raises(ProtocolError, match="expected what is in use"):
        Desk("a", authority).hear(Frame("I", b"[]"))


def test_facts_count_renewals_and_life(authority: Authority) -> None:
    sidecar = Sidecar("a", authority)
    assert sidecar.desk.facts()["alarm"] == "no certificate"
    for _ in range(3):
        sidecar.asks()
        sidecar.takes()
    facts = sidecar.desk.facts()
    assert (facts["renewals"], facts["alarm"], facts["issuer"]) == (2, "", authority.signer)
    for spent, alarm in ((0.4, ""), (0.51, "50 %"), (0.81, "80 %"), (0.96, "95 %"), (1.1, "expired")):
        sidecar.desk.since = time.time() - 3600 * spent / (1 - spent) if spent < 1 else time.time() - 3600
        sidecar._leaf["not_after_unix"] = int(time.time()) + (3600 if spent < 1 else -60)
        sidecar.says()
        assert sidecar.desk.facts()["alarm"] == alarm, spent
