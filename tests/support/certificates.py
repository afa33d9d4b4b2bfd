"""Certificates for tests: a root, and leaves for SPIFFE identities, as PEM.

Source: RFC 5280; SPIFFE X509-SVID (one URI SAN, no subject needed).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM


class Root:
    """A certificate authority that lives as long as a test."""

    def __init__(self, name: str = "test root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        authority = self._builder(self._name, self._key.public_key(), timedelta(hours=1))
        authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.bundle = authority.sign(self._key, hashes.SHA256()).public_bytes(PEM)

    def leaf(self, identity: str, lifetime: timedelta = timedelta(hours=1)) -> tuple[bytes, bytes]:
        """A certificate for an identity and its key; a negative lifetime makes one that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        leaf = self._builder(x509.Name([]), key.public_key(), lifetime)
        leaf = leaf.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True
        ).add_extension(usages, critical=False)
        leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return leaf.sign(self._key, hashes.SHA256()).public_bytes(PEM), secret

    def server(self, name: str) -> tuple[bytes, bytes]:
        """A certificate of a server outside any mesh, for a DNS name, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._builder(x509.Name([]), key.public_key(), timedelta(hours=1))
        leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return leaf.sign(self._key, hashes.SHA256()).public_bytes(PEM), secret

    def certify(self, csr: bytes, identity: str, lifetime: timedelta = timedelta(hours=1)) -> str:
        """Signs whatever it is asked for, as an authority that checks nothing would."""
        key = x509.load_pem_x509_csr(csr).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        leaf = self._builder(x509.Name([]), key, lifetime).add_extension(names, critical=True)
        return leaf.sign(self._key, hashes.SHA256()).public_bytes(PEM).decode()

    def write(self, folder: Path, identity: str) -> None:
        """Write the three files that a sidecar's `--credentials` names."""
        folder.mkdir(parents=True, exist_ok=True)
        chain, key = self.leaf(identity)
        for name, text in (("cert-chain.pem", chain), ("key.pem", key), ("root-cert.pem", self.bundle)):
            fresh = folder / f".{name}"
            fresh.write_bytes(text)
            fresh.chmod(0o600)
            fresh.replace(folder / name)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .subject_name(subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=2))
            .not_valid_after(now + life)
        )
