"""The sidecar process that compiles for itself: starts, follows its directories, refuses clearly, stops in order."""

import json
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.certificates import Root
from tests.support.sidecar import Sidecar, until

IDENTITY = "spiffe://cluster.local/ns/default/sa/web"
POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: default
  labels: {app: web}
  annotations: {sidecar.istio.io/status: "{}"}
spec: {serviceAccountName: web, containers: [{name: web}]}
status: {podIP: 10.0.0.1, phase: Running}
"""
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of configuration and one of credentials, both in order."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "pod.yaml").write_text(POD)
    Root().write(tmp_path / "certs", IDENTITY)
    return tmp_path


def start(home: Path, *flags: str, single_instance: bool = False) -> Sidecar:
    where = ("--config", str(home / "conf"), "--credentials", str(home / "certs"))
    return Sidecar(home, "--workload", "default/web", *where, *flags, single_instance=single_instance)


def version(sidecar: Sidecar) -> str:
    """The digest in force, as the admin page says it."""
    found = json.loads(sidecar.get("admin", "/config")[1])["digest"]
    assert isinstance(found, str)
    return found


def serial(sidecar: Sidecar) -> str:
    """The certificate in use, as the admin page says it."""
    return str(json.loads(sidecar.get("admin", "/certs")[1])["certificate"]["serial"])


def test_becomes_ready_and_stops_in_order(home: Path) -> None:
    with start(home) as sidecar:
        until(sidecar.is_ready, "ready")
        assert version(sidecar)
        assert sidecar.stop() == 0
        assert sidecar.errors.read_text() == ""


def test_sigint_stops_it_as_well(home: Path) -> None:
    with start(home) as sidecar:
        until(sidecar.is_ready, "ready")
        assert sidecar.stop(signal.SIGINT) == 0


def test_a_changed_directory_is_a_new_version_and_back_again(home: Path) -> None:
    with start(home) as sidecar:
        until(sidecar.is_ready, "ready")
        first = version(sidecar)
        (home / "conf" / "strict.yaml").write_text(STRICT)
        until(lambda: version(sidecar) != first, "a new version")
        (home / "conf" / "strict.yaml").unlink()
        until(lambda: version(sidecar) == first, "the first version again")


def test_a_broken_document_is_said_once_and_the_last_good_version_stays(home: Path) -> None:
    strict = home / "conf" / "strict.yaml"
    strict.write_text(STRICT)
    with start(home) as sidecar:
        until(sidecar.is_ready, "ready")
        first = version(sidecar)
        for _ in range(2):
            strict.write_text(STRICT.replace("mtls", "mtsl"))
            until(lambda: sidecar.said("did you mean 'mtls'?"), "the finding")
        assert version(sidecar) == first
        assert sidecar.errors.read_text().count("MDP0201") == 1
        strict.write_text(STRICT.replace("STRICT", "PERMISSIVE"))
        until(lambda: version(sidecar) != first, "a new version")


def test_not_ready_while_nothing_describes_the_workload(home: Path) -> None:
    (home / "conf" / "pod.yaml").unlink()
    with start(home) as sidecar:
        until(lambda: sidecar.said("no Pod or WorkloadEntry describes default/web"), "the reason")
        assert not sidecar.is_ready()
        (home / "conf" / "pod.yaml").write_text(POD)
        until(sidecar.is_ready, "ready")


def test_credentials_may_come_late_and_be_replaced(home: Path) -> None:
    chain = home / "certs" / "cert-chain.pem"
    chain.rename(home / "chain")
    with start(home) as sidecar:
        until(lambda: sidecar.said("cert-chain.pem: No such file"), "the reason")
        assert not sidecar.is_ready()
        (home / "chain").rename(chain)
        until(sidecar.is_ready, "ready")
        before = serial(sidecar)
        Root().write(home / "certs", IDENTITY)
        until(lambda: serial(sidecar) != before, "the new certificate")
        assert "PRIVATE" not in sidecar.get("admin", "/certs")[1]


def foreign(folder: Path) -> None:
    (folder / "cert-chain.pem").write_bytes(Root("another root").leaf(IDENTITY)[0])


def expired(folder: Path) -> None:
    root = Root()
    chain, key = root.leaf(IDENTITY, timedelta(hours=-1))
    for name, text in (("cert-chain.pem", chain), ("key.pem", key), ("root-cert.pem", root.bundle)):
        (folder / name).write_bytes(text)


def empty(folder: Path) -> None:
    (folder / "root-cert.pem").write_bytes(b"")


def huge(folder: Path) -> None:
    (folder / "key.pem").write_bytes(b"x" * (1024 * 1024 + 1))


@pytest.mark.parametrize("spoil", [foreign, expired, empty, huge])
def test_bad_credentials_are_refused_and_never_ready(home: Path, spoil: Callable[[Path], None]) -> None:
    spoil(home / "certs")
    with start(home) as sidecar:
        until(lambda: sidecar.said("were refused, the old ones stay in use"), "the refusal")
        assert not sidecar.is_ready()


def test_a_port_in_use_is_one_line_with_the_cure(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start(home, "--admin", f"127.0.0.1:{port}") as refused:
            assert refused.process.wait(20) == 1
            said = refused.errors.read_text()
    assert said.count("\n") == 1
    assert str(port) in said
    assert "in use" in said


def test_a_second_sidecar_in_the_namespace_is_refused(home: Path) -> None:
    (home / "second").mkdir()
    with start(home, single_instance=True) as first:
        until(lambda: first.is_ready() or first.process.poll() is not None, "the first")
        with Sidecar(home / "second", "--workload", "a/b", "--feed", "/nowhere", single_instance=True) as second:
            assert second.process.wait(20) == 1
            assert second.said("another sidecar runs in this network namespace")
