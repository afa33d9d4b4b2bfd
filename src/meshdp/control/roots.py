"""The roots of an authority on disk: each a key and a certificate, and one small file that says which of them count.

In:      a folder that only its owner enters.
Out:     `Root`s, and `Ledger`, the state of a rotation; both survive the end of the process at any moment.
Limits:  a file is replaced in one step and reaches the disk before the next is touched, the ledger last: what the
         ledger does not name does not exist.
Fails:   AuthorityDamaged, what lies in the folder cannot be used; OSError where the disk is full: the old state stays.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT_LIFE = datetime.timedelta(days=3650)
CLOCK_SKEW = datetime.timedelta(minutes=1)

Phase = Literal["steady", "trusting", "signing", "settling", "distrusting"]


class AuthorityDamaged(ValueError):
    """The authority's files do not belong together or cannot be read; the message says what to remove."""


class Ledger(msgspec.Struct, frozen=True):
    """Which roots count. trusted: their numbers, the bundle's order. signer: who signs. phase: of a rotation."""

    trusted: tuple[int, ...] = (1,)
    signer: int = 1
    phase: Phase = "steady"


@dataclass(frozen=True, slots=True)
class Root:
    """A key that signs and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hexadecimal."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


class RootFolder:
    """The files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_empty(self) -> bool:
        """No root was ever finished here."""
        return not self._key_path(1).exists() and not self._ledger_path.exists()

    def demand_own(self) -> None:
        """Refuses a folder in which others could put roots of theirs, or take ours away.

        Raises:
            AuthorityDamaged: another user's it is, or others may write in it.
        """
        if not self._folder.exists():
            return
        found = self._folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            expected = f"must belong to user {os.geteuid()} and be closed to the writing of others"
            raise AuthorityDamaged(f"{self._folder} {expected}: chmod go-w, or name another folder")

    def make(self, number: int, name: str) -> Root:
        """Makes a root; it exists for others once the ledger names it."""
        root = _make_root(name)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = root.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # The certificate first: a key alone would be taken for a damaged root.
        self._replace(self._certificate_path(number), root.pem.encode())
        self._replace(self._key_path(number), key)
        return root

    def read(self, number: int) -> Root:
        """A root that the ledger names.

        Raises:
            AuthorityDamaged: it cannot be read, or its files do not belong together.
        """
        cure = f"remove {self._folder} to have a new root made"
        try:
            key = serialization.load_pem_private_key(self._key_path(number).read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(self._certificate_path(number).read_bytes())
        except (OSError, ValueError) as error:
            raise AuthorityDamaged(f"the root in {self._folder} cannot be read ({error}); {cure}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            problem = f"the root key in {self._folder} does not belong to the certificate beside it"
            raise AuthorityDamaged(f"{problem}; {cure}")
        return Root(key, certificate)

    def ledger(self) -> Ledger:
        """The state; without a file there is one root and no rotation.

        Raises:
            AuthorityDamaged: the file is none of ours.
        """
        try:
            return msgspec.json.decode(self._ledger_path.read_bytes(), type=Ledger)
        except FileNotFoundError:
            return Ledger()
        except (OSError, msgspec.DecodeError) as error:
            cure = f"remove {self._folder} to have a new root made"
            raise AuthorityDamaged(f"{self._ledger_path} cannot be read ({error}); {cure}") from error

    def write(self, ledger: Ledger) -> None:
        """Puts a state in force, in one step."""
        self._replace(self._ledger_path, msgspec.json.encode(ledger))

    def sweep(self, ledger: Ledger) -> None:
        """Removes what no state names: unfinished files, and the keys of roots that are trusted no more."""
        kept = {self._ledger_path}
        for number in ledger.trusted:
            kept |= {self._key_path(number), self._certificate_path(number)}
        for path in self._folder.iterdir():
            if path not in kept and (path.name.startswith("root-") or path.name.endswith(_UNFINISHED)):
                path.unlink(missing_ok=True)

    @property
    def _ledger_path(self) -> Path:
        return self._folder / "roots.json"

    def _key_path(self, number: int) -> Path:
        return self._folder / ("root-key.pem" if number == 1 else f"root-{number}-key.pem")

    def _certificate_path(self, number: int) -> Path:
        return self._folder / ("root-cert.pem" if number == 1 else f"root-{number}-cert.pem")

    def _replace(self, path: Path, text: bytes) -> None:
        """Through a new file that only its owner could ever open, and onto the disk."""
        fresh = path.with_name(path.name + _UNFINISHED)
        fresh.unlink(missing_ok=True)
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _make_root(name: str) -> Root:
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
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Root(key, certificate)


_UNFINISHED = ".new"
