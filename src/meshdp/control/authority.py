"""Certificate authority: a proven identity and a certificate request become a short-lived SPIFFE certificate.

In:      PEM requests from the feed, with the identity that the socket proves; what the request claims is ignored.
Out:     the leaf's chain and the trust bundle, PEM. The root key stays in one file, readable by its owner only.
Limits:  requests of at most 16 KiB, P-256 keys; leaves live 24 h from one minute ago and never outlive the root.
Fails:   RequestRefused, the requester's fault; AuthorityDamaged, what lies in the folder cannot be used.
Source:  SPIFFE X.509-SVID sections 2 to 4, RFC 5280 section 4.2.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

REQUEST_LIMIT_BYTES = 16 * 1024
LEAF_LIFE = datetime.timedelta(hours=24)
ROOT_LIFE = datetime.timedelta(days=3650)
CLOCK_SKEW = datetime.timedelta(minutes=1)


class RequestRefused(ValueError):
    """A certificate request that is not signed for; the message says what was expected."""


class AuthorityDamaged(ValueError):
    """The authority's files do not belong together or cannot be read; the message says what to remove."""


class Authority:
    """One mesh's root. Opened from a folder, made there when the folder is empty."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def open(cls, folder: Path, name: str) -> Authority:
        """Reads the root in `folder`, or makes one named for the mesh `name`."""
        if (folder / ROOT_KEY).exists():
            return cls._read(folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = cls(*_make_root(name))
        _write_private(folder / ROOT_KEY, authority._key_pem())
        (folder / ROOT_CERTIFICATE).write_text(authority.bundle)
        return authority

    @property
    def bundle(self) -> str:
        """The trust bundle, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, request_pem: bytes, identity: str) -> str:
        """The chain, leaf first, that says the request's key belongs to `identity`.

        Raises:
            RequestRefused: the request is not PEM, not P-256, or not signed by its own key.
        """
        key = _proven_key(request_pem)
        now = datetime.datetime.now(datetime.UTC)
        not_after = min(now + LEAF_LIFE, self._certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(not_after)
        )
        for extension, critical in self._leaf_extensions(key, identity):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _leaf_extensions(self, key: ec.EllipticCurvePublicKey, identity: str) -> list[tuple[x509.ExtensionType, bool]]:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage(usages), False),
            (x509.SubjectKeyIdentifier.from_public_key(key), False),
            (issuer, False),
            # Critical, for the subject is empty (RFC 5280 section 4.2.1.6).
            (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), True),
        ]

    @classmethod
    def _read(cls, folder: Path) -> Authority:
        cure = f"remove {folder} to have a new root made"
        try:
            key = serialization.load_pem_private_key((folder / ROOT_KEY).read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((folder / ROOT_CERTIFICATE).read_bytes())
        except (OSError, ValueError) as error:
            raise AuthorityDamaged(f"the root in {folder} cannot be read ({error}); {cure}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityDamaged(f"the root key in {folder} does not belong to the certificate beside it; {cure}")
        return cls(key, certificate)

    def _key_pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _proven_key(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The request's public key, after its own signature shows that the requester holds the private one."""
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
    return key


def _make_root(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "meshdp"), x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]
    )
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """SPIFFE X.509-SVID section 4.3: signing authorities sign certificates, leaves sign handshakes, neither both."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_private(path: Path, text: bytes) -> None:
    """Writes through a new file that only its owner could ever open."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)


ROOT_KEY = "root-key.pem"
ROOT_CERTIFICATE = "root-cert.pem"
