"""The certificate authority: what it signs, for whom, and what it refuses."""

import asyncio
import datetime
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshdp.control.authority import Authority, AuthorityDamaged, RequestRefused
from meshdp.control.signer import Signer

IDENTITY = "spiffe://cluster.local/ns/default/sa/details"
EVIL = "spiffe://cluster.local/ns/default/sa/admin"
PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())

SMALL_RSA = rsa.generate_private_key(65537, 1024)


def request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = PRIVATE_KEY, *claims: str, authority: bool = False
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever I say I am")])
    )
    if claims:
        names = [x509.UniformResourceIdentifier(claim) for claim in claims]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority", "test root")


def test_the_leaf_is_an_svid_of_the_proven_identity_alone(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.sign(request(PRIVATE_KEY, IDENTITY), IDENTITY).encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.UniformResourceIdentifier(IDENTITY)]
    assert names.critical
    assert list(leaf.subject) == []
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    purposes = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert purposes == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert leaf.public_key() == PRIVATE_KEY.public_key()


def test_the_leaf_lives_an_hour_from_a_minute_ago(authority: Authority) -> None:
    now = datetime.datetime.now(datetime.UTC)
    leaf = x509.load_pem_x509_certificate(authority.sign(request(), IDENTITY).encode())
    assert abs((leaf.not_valid_before_utc - (now - datetime.timedelta(minutes=1))).total_seconds()) < 20
    assert abs((leaf.not_valid_after_utc - (now + datetime.timedelta(hours=1))).total_seconds()) < 20


def test_the_leaf_verifies_against_the_bundle_and_no_other(authority: Authority, tmp_path: Path) -> None:
    leaf = x509.load_pem_x509_certificate(authority.sign(request(), IDENTITY).encode())
    root = x509.load_pem_x509_certificate(authority.bundle.encode())
    leaf.verify_directly_issued_by(root)
    foreign = x509.load_pem_x509_certificate(Authority.open(tmp_path / "other", "test root").bundle.encode())
    with pytest.raises(InvalidSignature):
        leaf.verify_directly_issued_by(foreign)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)


def test_opening_again_gives_the_same_root_and_the_key_is_private(tmp_path: Path) -> None:
    first = Authority.open(tmp_path / "authority", "test root")
    second = Authority.open(tmp_path / "authority", "test root")
    assert first.bundle == second.bundle
    assert stat.S_IMODE((tmp_path / "authority" / "root-key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "authority").stat().st_mode) == 0o700


def tampered() -> bytes:
    """A request whose signature was made with another key."""
    body = x509.load_pem_x509_csr(request()).public_bytes(serialization.Encoding.DER)
    return x509.load_der_x509_csr(body[:-1] + bytes([body[-1] ^ 1])).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"no request", "expected a PEM certificate request"),
        (request(ec.generate_private_key(ec.SECP384R1())), "expected a request for a P-256 key"),
        (request(SMALL_RSA), "expected a request for a P-256 key"),
        (tampered(), "signed by the key that it holds"),
        (b"x" * 1_000_000, "at most 16384 bytes"),
        (request(PRIVATE_KEY, EVIL), f"expected a request for {IDENTITY} or for nobody, found {EVIL}"),
        (request(PRIVATE_KEY, IDENTITY, EVIL), "or for nobody, found"),
        (request(authority=True), "for a leaf, not for an authority"),
    ],
    ids=["garbage", "p384", "rsa1024", "tampered", "megabyte", "another", "two", "authority"],
)
def test_ca_07_what_is_not_proven_is_not_signed(authority: Authority, text: bytes, expected: str) -> None:
    with pytest.raises(RequestRefused, match=expected):
        authority.sign(text, IDENTITY)


def test_a_root_whose_files_do_not_belong_together_is_not_used(tmp_path: Path) -> None:
    Authority.open(tmp_path / "one", "one")
    other = Authority.open(tmp_path / "two", "two")
    (tmp_path / "one" / "root-cert.pem").write_text(other.bundle)
    with pytest.raises(AuthorityDamaged, match="does not belong"):
        Authority.open(tmp_path / "one", "one")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_folder_in_which_others_may_write_holds_no_authority(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "authority"
    Authority.open(folder, "test root")
    folder.chmod(mode)
    with pytest.raises(AuthorityDamaged, match="closed to the writing of others"):
        Authority.open(folder, "test root")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's folder")
def test_another_users_folder_holds_no_authority_of_ours(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    Authority.open(folder, "planted root")
    os.chown(folder, 65534, 65534)
    with pytest.raises(AuthorityDamaged, match="must belong to user 0"):
        Authority.open(folder, "test root")


def test_a_file_in_the_place_of_a_certificate_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("kept")
    signer = Signer(Authority.open(tmp_path / "authority", "test root"), IDENTITY)
    with pytest.raises(OSError, match="Address already in use"):
        asyncio.run(signer.serve(path))
    assert path.read_text() == "kept"
