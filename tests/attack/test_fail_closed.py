"""Attack table 2.19: what happens when something is missing, broken or unknown. One entry of `ROWS` for each row of the table.

In:      a pair of sidecars that is given broken documents, certificates, logs and moments.
Out:     one test a row (`test_2_19_…`), or the place of the test that somebody else's table has, or the milestone it waits for.
Fails:   a row without any of the three, a place that does not exist.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.test_swap import STRICT, deny
from tests.support import wire
from tests.support.mesh import Mesh, get, opened_mesh, position
from tests.support.origin import Origin
from tests.support.pair import HTTP_PORT, SERVER_IP, TCP_PORT

ROOT = Path(__file__).resolve().parents[2]
NONE = "# none\n"
BAD_INPUT = "tests/e2e/test_bad_input.py"

# The rows of the table in its words, each with who tests it: names of tests here, `path::name` elsewhere, or `waits: M…: why`.
ROWS: dict[str, tuple[str, ...]] = {
    "no configuration ever received": (f"{BAD_INPUT}::test_az_13_no_configuration_yet",),
    "control plane lost later": (
        "test_2_19_a_source_that_is_lost_keeps_what_is_in_force",
        "tests/e2e/test_inspection.py::test_a_mesh_that_hangs_keeps_enforcing",
    ),
    "AuthorizationPolicy does not compile (any action)": ("test_2_19_a_policy_that_does_not_compile_denies",),
    "ALLOW rule has a field we do not know": ("test_2_19_an_allow_rule_with_an_unknown_condition_never_matches",),
    "DENY rule has a field we do not know": ("test_2_19_a_deny_rule_with_an_unknown_condition_matches_more",),
    "L7 rule, protocol not HTTP": ("test_2_19_a_rule_about_http_on_a_port_that_is_not",),
    "peer identity missing, malformed or ambiguous": (
        "test_2_19_a_peer_without_an_identity_is_nobody",
        "test_2_19_a_certificate_that_names_nobody_or_several_is_refused",
    ),
    "PeerAuthentication unreadable": ("test_2_19_an_unreadable_peer_authentication_is_strict",),
    "JWKS unavailable": (
        "test_2_19_without_keys_tokens_are_refused_and_nothing_else",
        "test_2_19_a_request_authentication_that_cannot_be_honoured_denies",
    ),
    "ext-authz unavailable": ("waits: M4: CUSTOM; until then test_2_19_what_waits_for_an_external_authorizer_denies",),
    "own certificate expired, no renewal": (f"{BAD_INPUT}::test_own_certificate_that_expires",),
    "CRL expected but absent/stale": ("waits: M4: revocation lists are not read",),
    "rate-limit service unavailable": ("waits: M4: there is no rate limit yet",),
    "telemetry, tracing, access log failing": ("test_2_19_a_log_that_cannot_be_written_stops_nothing_and_is_counted",),
    "route or cluster missing": (
        "tests/attack/test_configuration_running.py::test_cf_05_a_service_that_leads_nowhere_is_503_and_others_are_fine",
    ),
    "unknown outbound destination": ("test_2_19_an_unknown_destination_goes_as_the_mesh_says",),
    "metrics cap reached": (
        "native/engine/src/observe/telemetry_tests.rs::beyond_the_bound_series_are_summed_under_other",
    ),
    "memory or fd limit near": (
        "tests/attack/test_process_faults.py::test_pr_04_out_of_descriptors",
        "tests/attack/test_process_faults.py::test_pr_04_a_full_sidecar_refuses_with_a_reason",
        "tests/attack/test_process_shares.py::test_pr_05_memory_near_its_limit",
    ),
    "panic in a request task": ("test_2_19_a_panic_ends_one_connection_and_forwards_nothing_unchecked",),
    "iptables incomplete": (
        "tests/e2e/test_local_mesh.py::test_rules_that_cannot_be_made_end_the_start_and_leave_nothing",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_table_2_19_has_a_test_or_waits_with_a_milestone(row: str) -> None:
    for place in ROWS[row]:
        if place.startswith("waits: "):
            assert re.match(r"waits: (M\d|later Kubernetes): \w", place)
            continue
        path, _, name = place.rpartition("::")
        file = ROOT / path if path else Path(__file__)
        there = file.exists() and re.search(rf"^\s*(?:async )?(?:def|fn) {name}\(", file.read_text(), re.MULTILINE)
        assert there, place


def test_the_table_is_whole() -> None:
    """20 rows; and no test of this module stands for nothing."""
    assert len(ROWS) == 20
    own = re.findall(r"^def (test_2_19_\w+)", Path(__file__).read_text(), re.MULTILINE)
    said = " ".join(place for places in ROWS.values() for place in places)
    assert [name for name in own if name not in said] == []


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    with opened_mesh() as mesh:
        yield mesh


@pytest.fixture
def quiet(running: Mesh) -> Iterator[Mesh]:
    yield running
    running.pair.configure(NONE)
    assert Origin.wait(lambda: (running.status(), running.status(direction="inbound")) == (200, 200))


def authorization(spec: str, name: str = "p") -> str:
    head = (
        f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n"
    )
    return f"{head}spec:\n  selector: {{matchLabels: {{app: server}}}}\n  {spec}\n"


# --- documents -----------------------------------------------------------------------------------------------------------


def test_2_19_a_source_that_is_lost_keeps_what_is_in_force(quiet: Mesh) -> None:
    quiet.pair.configure(deny("/secret"))
    there, gone = quiet.pair.configuration, quiet.pair.folder / "gone"
    at = len(quiet.pair.server.log.read_text())
    there.rename(gone)
    assert Origin.wait(lambda: "MDP0107" in quiet.pair.server.log.read_text()[at:])
    assert (quiet.status("/secret"), quiet.status("/open")) == (403, 200)
    gone.rename(there)
    quiet.pair.configure(NONE)
    assert quiet.status("/secret") == 200, "and it is followed again"


@pytest.mark.parametrize("action", ["ALLOW", "DENY", "AUDIT", "CUSTOM"])
@pytest.mark.parametrize("fault", ["rulez: []", 'rules: [{to: [{operation: {ports: ["http"]}}]}]', "rules: 7"])
def test_2_19_a_policy_that_does_not_compile_denies(quiet: Mesh, action: str, fault: str) -> None:
    quiet.pair.configure(authorization(f"action: {action}\n  {fault}"))
    assert (quiet.status("/any"), quiet.status("/any", "inbound")) == (403, 403)
    assert opaque(quiet) == b""


def opaque(mesh: Mesh, direction: str = "outbound") -> bytes:
    """What the opaque application answers; a connection that is denied may be reset before it is used."""
    try:
        with wire.connect(mesh.pair, direction, TCP_PORT) as connection:
            connection.sendall(b"Ehello")
            return connection.recv(5, socket.MSG_WAITALL)
    except OSError:
        return b""


UNKNOWN = [
    'when: [{key: "experimental.envoy.filters.a[b]", values: [a]}]',
    'when: [{key: "experimental.envoy.filters.http.jwt_authn[payload]", values: ["*"]}]',
]


@pytest.mark.parametrize("condition", UNKNOWN)
def test_2_19_an_allow_rule_with_an_unknown_condition_never_matches(quiet: Mesh, condition: str) -> None:
    quiet.pair.configure(authorization(f"action: ALLOW\n  rules: [{{{condition}}}]"))
    assert quiet.status("/any") == 403, "the policy still counts as an ALLOW that exists"
    other = "rules: [{to: [{operation: {paths: [/open]}}]}]"
    quiet.pair.configure(
        authorization(f"action: ALLOW\n  rules: [{{{condition}}}]") + "---\n" + authorization(other, "q")
    )
    assert (quiet.status("/any"), quiet.status("/open")) == (403, 200)


@pytest.mark.parametrize("condition", UNKNOWN)
def test_2_19_a_deny_rule_with_an_unknown_condition_matches_more(quiet: Mesh, condition: str) -> None:
    quiet.pair.configure(
        authorization(f"action: DENY\n  rules: [{{{condition}, to: [{{operation: {{paths: [/shut]}}}}]}}]")
    )
    assert (quiet.status("/shut"), quiet.status("/open")) == (403, 200)


def test_2_19_a_rule_about_http_on_a_port_that_is_not(quiet: Mesh) -> None:
    """AZ-03, AZ-04: ALLOW never matches there, DENY matches without the condition."""
    assert opaque(quiet) == b"hello"
    quiet.pair.configure(authorization("action: ALLOW\n  rules: [{to: [{operation: {methods: [GET]}}]}]"))
    assert (opaque(quiet), quiet.status()) == (b"", 200)
    quiet.pair.configure(authorization("action: DENY\n  rules: [{to: [{operation: {methods: [POST]}}]}]"))
    assert (opaque(quiet), quiet.status()) == (b"", 200)


def test_2_19_a_request_authentication_that_cannot_be_honoured_denies(quiet: Mesh) -> None:
    head = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: default}\n"
    quiet.pair.configure(f"{head}spec: {{selector: {{matchLabels: {{app: server}}}}, jwtRules: [{{issuer: ''}}]}}\n")
    assert quiet.status("/any") == 403


def test_2_19_without_keys_tokens_are_refused_and_nothing_else(quiet: Mesh) -> None:
    head = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: default}\n"
    rule = "jwtRules: [{issuer: i, jwksUri: 'https://127.0.0.1:1/keys'}]"
    quiet.pair.configure(f"{head}spec: {{selector: {{matchLabels: {{app: server}}}}, {rule}}}\n")
    # {"alg":"ES256"} and {"iss":"i"}
    token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJpIn0.AAAA"
    refused = quiet.ask(get("/any", f"Authorization: Bearer {token}")).answers[0]
    assert (refused.status, refused.body) == (401, b"Jwks remote fetch is failed")
    assert quiet.status("/any") == 200


def test_2_19_what_waits_for_an_external_authorizer_denies(quiet: Mesh) -> None:
    rules = "provider: {name: nobody}\n  rules: [{to: [{operation: {paths: [/asked]}}]}]"
    quiet.pair.configure(authorization(f"action: CUSTOM\n  {rules}"))
    assert (quiet.status("/asked"), quiet.status("/other")) == (403, 200)


@pytest.mark.parametrize(
    "spec", ["{mtls: {mode: LOOSE}}", "{mtlz: {mode: PERMISSIVE}}", "{portLevelMtls: {http: {}}}", "7"]
)
def test_2_19_an_unreadable_peer_authentication_is_strict(quiet: Mesh, spec: str) -> None:
    head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\n"
    quiet.pair.configure(f"{head}spec: {spec}\n")
    assert (quiet.status(direction="inbound"), opaque(quiet, "inbound")) == (0, b""), "plaintext is refused"
    assert (quiet.status(), opaque(quiet)) == (200, b"hello"), "mutual TLS is not"


# --- peers ---------------------------------------------------------------------------------------------------------------


def test_2_19_a_peer_without_an_identity_is_nobody(quiet: Mesh) -> None:
    who = 'rules: [{from: [{source: {principals: ["*"]}}]}]'
    quiet.pair.configure(authorization(f"action: ALLOW\n  {who}"))
    assert (quiet.status(direction="outbound"), quiet.status(direction="inbound")) == (200, 403)
    quiet.pair.configure(STRICT)
    assert (quiet.status(direction="outbound"), quiet.status(direction="inbound")) == (200, 0)


NAMES: dict[str, list[x509.GeneralName]] = {
    "nobody": [x509.DNSName("client.default")],
    "two": [
        x509.UniformResourceIdentifier(f"spiffe://cluster.local/ns/default/sa/{name}") for name in ("client", "admin")
    ],
    "another scheme": [x509.UniformResourceIdentifier("https://cluster.local/ns/default/sa/client")],
    "no path": [x509.UniformResourceIdentifier("spiffe://cluster.local")],
    "an empty segment": [x509.UniformResourceIdentifier("spiffe://cluster.local/ns//sa/client")],
    "another domain": [x509.UniformResourceIdentifier("spiffe://elsewhere.example/ns/default/sa/client")],
}


class Forger:
    """An authority that the server trusts beside its own, and that signs anything."""

    def __init__(self, mesh: Mesh) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "forger")])
        self._folder = mesh.pair.folder / "credentials-server"
        basic = x509.BasicConstraints(ca=True, path_length=None)
        root = self._builder(self._name, self._key).add_extension(basic, critical=True)
        self.bundle = self._pem(root.sign(self._key, hashes.SHA256()))

    def leaf(self, folder: Path, names: list[x509.GeneralName]) -> Path:
        """A key and a certificate in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(x509.Name([]), key).add_extension(x509.SubjectAlternativeName(names), critical=True)
        usages = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])
        made = made.add_extension(usages, critical=False)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        pem = serialization.Encoding.PEM
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path = folder / "leaf.pem"
        path.write_bytes(secret + self._pem(made.sign(self._key, hashes.SHA256())))
        return path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().issuer_name(self._name).subject_name(subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))

    @staticmethod
    def _pem(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)


def epoch_of(running: Mesh) -> int:
    """Grows with each certificate and each bundle."""
    return int(json.loads(running.pair.server.admin("/certs"))["epoch"])


@pytest.fixture(scope="module")
def forger(running: Mesh) -> Iterator[Forger]:
    made = Forger(running)
    path = running.pair.folder / "credentials-server" / "root-cert.pem"
    before, epoch = path.read_bytes(), epoch_of(running)
    path.write_bytes(before + made.bundle)
    assert Origin.wait(lambda: epoch_of(running) != epoch)
    yield made
    path.write_bytes(before)


def test_2_19_a_certificate_that_names_nobody_or_several_is_refused(
    quiet: Mesh, forger: Forger, tmp_path: Path
) -> None:
    one = x509.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/client")
    assert tls_answer(quiet, forger.leaf(tmp_path, [one])).startswith(b"HTTP/1.1 200"), "the test of the test"
    before = quiet.origin.received()
    for case, names in NAMES.items():
        assert tls_answer(quiet, forger.leaf(tmp_path, names)) == b"", case
    assert quiet.origin.received() == before
    assert quiet.status() == 200


def tls_answer(mesh: Mesh, leaf: Path) -> bytes:
    """What the server's sidecar answers to a request over TLS with this certificate; nothing when it refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(leaf)
    context.set_alpn_protocols(["istio-http/1.1"])
    try:
        with context.wrap_socket(wire.connect_uncaptured(mesh.pair.client, (SERVER_IP, HTTP_PORT))) as connection:
            connection.sendall(get())
            return connection.recv(12)
    except (ssl.SSLError, OSError):
        return b""


# --- destinations, logs, bugs ----------------------------------------------------------------------------------------------


def test_2_19_an_unknown_destination_goes_as_the_mesh_says(quiet: Mesh) -> None:
    base = quiet.pair.configuration / "base.yaml"
    kept = base.read_text()

    def reached() -> tuple[int, bytes]:
        """By a host that no service has, and by the address of a pod, which is no service's."""
        heard = quiet.ask(get(host="unknown.example"))
        with quiet.pair.client.connect((SERVER_IP, TCP_PORT)) as connection:
            try:
                connection.sendall(b"Ehello")
                return heard.statuses[0], connection.recv(5, socket.MSG_WAITALL)
            except OSError:
                return heard.statuses[0], b""

    allowed = reached()
    assert allowed[1] == b"hello"
    strict = kept.replace("spec: {accessLogFile", "spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}, accessLogFile")
    assert strict != kept
    quiet.pair.replace("base.yaml", strict, quiet.pair.client)
    status, answer = reached()
    assert (status in (404, 502, 503), answer) == (True, b"")
    assert quiet.status() == 200, "services are known"
    quiet.pair.replace("base.yaml", kept, quiet.pair.client)
    assert reached() == allowed


def restarted(mesh: Mesh, *arguments: str) -> None:
    mesh.pair.server.stop()
    mesh.pair.server.start(mesh.pair.configuration, list(arguments))


def test_2_19_a_log_that_cannot_be_written_stops_nothing_and_is_counted(quiet: Mesh) -> None:
    restarted(quiet, "--access-log", "/dev/full")
    try:
        quiet.pair.configure(deny("/secret"))
        assert {quiet.status("/open") for _ in range(20)} == {200}
        assert quiet.status("/secret") == 403
        assert Origin.wait(lambda: stats(quiet)["access_log_dropped"] > 0)
    finally:
        restarted(quiet)


def stats(mesh: Mesh) -> dict[str, int]:
    found: dict[str, int] = json.loads(mesh.pair.server.admin("/stats"))
    return found


CLOCK_THAT_FAILS_ONCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *trigger = getenv("MESHDP_TEST_TRIGGER");
    char thread[16] = "";
    prctl(PR_GET_NAME, thread);
    if (id == CLOCK_REALTIME && trigger && strcmp(thread, "meshdp-worker") == 0 && unlink(trigger) == 0) {
        errno = EINVAL;
        return -1;
    }
    return real(id, at);
}
"""


def test_2_19_a_panic_ends_one_connection_and_forwards_nothing_unchecked(
    quiet: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that fails makes the standard library panic where a request's record is made: in the task of its connection."""
    folder = quiet.pair.folder / "shim"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    (tmp_path / "clock.c").write_text(CLOCK_THAT_FAILS_ONCE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "clock.so", tmp_path / "clock.c", "-ldl"], check=True)
    trigger = folder / "trigger"
    monkeypatch.setenv("LD_PRELOAD", str(folder / "clock.so"))
    monkeypatch.setenv("MESHDP_TEST_TRIGGER", str(trigger))
    restarted(quiet)
    monkeypatch.delenv("LD_PRELOAD")
    try:
        quiet.pair.configure(deny("/secret"))
        panics(quiet, trigger)
    finally:
        restarted(quiet)


def panics(mesh: Mesh, trigger: Path) -> None:
    process = mesh.pair.server.process
    assert process is not None
    at = position(mesh.pair.server)
    with wire.connect(mesh.pair, "inbound") as unlucky, wire.connect(mesh.pair, "inbound") as other:
        for name, connection in (("/first", unlucky), ("/second", other)):
            connection.sendall(get(name))
            assert wire.listen(connection, 1).statuses == [200]
            # Recorded too: nothing but the next request asks for the time.
            mesh.logged(mesh.pair.server, at, lambda line, name=name: line["path"] == name)
        before = len(mesh.origin.requests)
        trigger.touch()
        unlucky.sendall(get("/secret") + get("/secret"))
        heard = wire.listen(unlucky)
        assert not trigger.exists(), "the clock failed"
        assert heard.ended in ("fin", "reset"), heard
        assert set(heard.statuses) <= {403, 500}
        assert len(mesh.origin.requests) == before, "nothing was forwarded"
        assert Origin.wait(lambda: stats(mesh)["panics"] == 1)
        other.sendall(get("/open"))
        kept = wire.listen(other, 1)
        assert kept.statuses == [200], (
            "the others go on",
            kept,
            heard,
            [line for line in mesh.pair.server.log.read_text().splitlines() if not line.startswith("{")],
            stats(mesh),
        )
    assert process.poll() is None
    assert (mesh.status("/secret"), mesh.status("/open")) == (403, 200)
