"""Certificate authority: a proven identity and a certificate request become a short-lived SPIFFE certificate.

In:      PEM requests from the feed, with the identity that the socket proves; a request may claim nothing else.
Out:     the leaf's chain and the trust bundle, PEM. The root keys stay in files readable by their owner only.
Limits:  requests of at most 16 KiB, P-256 keys; leaves live LEAF_LIFE from one minute ago and never outlive the root;
         two roots at once, one of which signs.
Fails:   RequestRefused, the requester's fault; AuthorityDamaged, what lies in the folder cannot be used; WrongOrder, a
         step of a rotation that would cut somebody off.
Source:  SPIFFE X.509-SVID sections 2 to 4, RFC 5280 section 4.2; docs/certificates.md.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshdp.control.roots import CLOCK_SKEW, AuthorityDamaged, Ledger, Phase, Root, RootFolder, key_usage

__all__ = ["LEAF_LIFE", "Authority", "AuthorityDamaged", "RequestRefused", "WrongOrder"]

REQUEST_LIMIT_BYTES = 16 * 1024
LEAF_LIFE = datetime.timedelta(hours=1)


class RequestRefused(ValueError):
    """A certificate request that is not signed for; the message says what was expected."""


class WrongOrder(ValueError):
    """A step of a rotation that does not follow from the state; the message says what would."""


class Authority:
    """One mesh's roots. Opened from a folder, a root made there when the folder is empty."""

    def __init__(self, files: RootFolder, name: str, leaf_life: datetime.timedelta | None) -> None:
        self._files = files
        self._name = name
        self._leaf_life = leaf_life
        self._ledger = files.ledger()
        self._roots = {number: files.read(number) for number in {*self._ledger.trusted, self._ledger.signer}}

    @classmethod
    def open(cls, folder: Path, name: str, leaf_life: datetime.timedelta | None = None) -> Authority:
        """Reads the roots in `folder`, or makes one named for the mesh `name`; a rotation goes on where it was."""
        files = RootFolder(folder)
        files.demand_own()
        if files.is_empty():
            files.make(1, name)
        authority = cls(files, name, leaf_life)
        files.sweep(authority._ledger)
        return authority

    @property
    def bundle(self) -> str:
        """The trust bundle, PEM: every root that is trusted."""
        return "".join(self._roots[number].pem for number in self._ledger.trusted)

    @property
    def roots(self) -> tuple[str, ...]:
        """The fingerprints of the bundle, in its order."""
        return tuple(self._roots[number].fingerprint for number in self._ledger.trusted)

    @property
    def signer(self) -> str:
        """The fingerprint of the root that signs."""
        return self._signer.fingerprint

    @property
    def phase(self) -> Phase:
        """Where a rotation of the root is."""
        return self._ledger.phase

    def sign(self, request_pem: bytes, identity: str) -> str:
        """The chain, leaf first, that says the request's key belongs to `identity`.

        Raises:
            RequestRefused: the request is not PEM, not P-256, not signed by its own key, or claims to be somebody else.
        """
        key = _proven_key(request_pem, identity)
        root = self._signer
        # Certificates count whole seconds: what is asked for is what remains at least.
        now = (datetime.datetime.now(datetime.UTC) + _ALMOST_A_SECOND).replace(microsecond=0)
        last = now + (self._leaf_life or LEAF_LIFE)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(root.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(min(last, root.certificate.not_valid_after_utc))
        )
        for extension, critical in _leaf_extensions(key, root, identity):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(root.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def trust_new_root(self) -> None:
        """Phase 1: a new root is trusted beside the old one, which still signs."""
        self._expect("steady", "a rotation of the root is under way; let it end first")
        number = self._ledger.signer + 1
        self._roots[number] = self._files.make(number, self._name)
        self._record(Ledger((*self._ledger.trusted, number), self._ledger.signer, "trusting"))

    def sign_with_new_root(self) -> None:
        """Phase 2: the new root signs. For when everyone trusts it."""
        self._expect("trusting", "the new root must be trusted first")
        self._record(Ledger(self._ledger.trusted, self._ledger.trusted[-1], "signing"))

    def settle(self) -> None:
        """The same roots in another order: another bundle, before which sidecars open their connections anew."""
        self._expect("signing", "the new root must sign first")
        new, old = self._ledger.trusted[-1], self._ledger.trusted[:-1]
        self._record(Ledger((new, *old), self._ledger.signer, "settling"))

    def distrust_old_root(self) -> None:
        """Phase 3: the old root leaves the bundle. For when no leaf in use was signed by it."""
        self._expect("settling", "connections of the old root must have had time to end")
        self._record(Ledger((self._ledger.signer,), self._ledger.signer, "distrusting"))

    def finish_rotation(self) -> None:
        """The old root is gone from every bundle; its key is removed."""
        self._expect("distrusting", "the old root must leave the bundle first")
        self._record(Ledger(self._ledger.trusted, self._ledger.signer, "steady"))
        self._files.sweep(self._ledger)

    @property
    def _signer(self) -> Root:
        return self._roots[self._ledger.signer]

    def _expect(self, phase: Phase, cure: str) -> None:
        if self._ledger.phase != phase:
            raise WrongOrder(f"expected phase {phase}, found {self._ledger.phase}: {cure}")

    def _record(self, ledger: Ledger) -> None:
        """On disk before it counts here: after a fall the same state is found."""
        self._files.write(ledger)
        self._ledger = ledger


def _leaf_extensions(
    key: ec.EllipticCurvePublicKey, root: Root, identity: str
) -> list[tuple[x509.ExtensionType, bool]]:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage(usages), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (issuer, False),
        # Critical, for the subject is empty (RFC 5280 section 4.2.1.6).
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), True),
    ]


def _proven_key(request_pem: bytes, identity: str) -> ec.EllipticCurvePublicKey:
    """The request's public key, after its own signature shows that the requester holds the private one.

    Nothing that it claims goes into a certificate; a claim that is not the proven identity is a mistake or an attack.
    """
    if len(request_pem) > REQUEST_LIMIT_BYTES:
        raise RequestRefused(f"expected a certificate request of at most {REQUEST_LIMIT_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise RequestRefused("expected a PEM certificate request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestRefused("expected a request for a P-256 key")
    if not signed:
        raise RequestRefused("expected a request signed by the key that it holds")
    _check_claims(request, identity)
    return key


def _check_claims(request: x509.CertificateSigningRequest, identity: str) -> None:
    for extension in _extensions_of(request):
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise RequestRefused("expected a request for a leaf, not for an authority")
        if isinstance(value, x509.SubjectAlternativeName):
            claimed = [str(name.value) for name in value]
            if claimed != [identity]:
                shown = ", ".join(claimed)[:_SHOWN_CHARACTERS]
                raise RequestRefused(f"expected a request for {identity} or for nobody, found {shown}")


def _extensions_of(request: x509.CertificateSigningRequest) -> list[x509.Extension[x509.ExtensionType]]:
    try:
        return list(request.extensions)
    except (ValueError, x509.DuplicateExtension) as error:
        raise RequestRefused("expected a request whose extensions can be read") from error


_SHOWN_CHARACTERS = 200
_ALMOST_A_SECOND = datetime.timedelta(microseconds=999_999)
