"""Table 2.14 where one sidecar or the authority alone is asked: bad files, bad answers, floods, falls, steps of the clock.

In:      real `meshdp sidecar` processes on loopback with files, with a scripted feed, or with `meshdp certs serve`.
Fails:   bad credentials in use, a half-written authority, a serial given twice, a key where it must not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshdp.control.authority import Authority, WrongOrder
from meshdp.control.frames import Frame, read_frame
from meshdp.local.feed import Feed
from tests.support.certificates import Root
from tests.support.scripted_feed import ScriptedFeed
from tests.support.sidecar import Sidecar, until

IDENTITY = "spiffe://cluster.local/ns/default/sa/web"
OTHER = "spiffe://cluster.local/ns/default/sa/other"
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}, annotations: {sidecar.istio.io/status: "{}"}}
spec: {serviceAccountName: web, containers: [{name: web}]}
status: {podIP: 10.0.0.1, phase: Running}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "pod.yaml").write_text(POD)
    return tmp_path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority", "test root")


def with_files(home: Path) -> Sidecar:
    flags = ("--config", str(home / "conf"), "--credentials", str(home / "certs"))
    return Sidecar(home, "--workload", "default/web", *flags)


def with_feed(home: Path, feed: ScriptedFeed) -> Sidecar:
    return Sidecar(home, "--workload", "default/web", "--feed", str(feed.path), "--identity", IDENTITY)


def certs(sidecar: Sidecar) -> Any:
    return json.loads(sidecar.get("admin", "/certs")[1])


def serial(sidecar: Sidecar) -> str:
    """The certificate in use; empty without one, or before the page answers."""
    with contextlib.suppress(OSError):
        certificate = certs(sidecar)["certificate"]
        return str(certificate["serial"]) if certificate else ""
    return ""


def request(key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    made = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


# --- CA-04: files ----------------------------------------------------------------------------------------------------


def emptied(folder: Path) -> None:
    (folder / "key.pem").write_bytes(b"")


def cut(folder: Path) -> None:
    whole = (folder / "key.pem").read_bytes()
    (folder / "key.pem").write_bytes(whole[: len(whole) // 2])


def mismatched(folder: Path) -> None:
    (folder / "key.pem").write_bytes(Root().leaf(IDENTITY)[1])


def circular(folder: Path) -> None:
    (folder / "loop").symlink_to("key.pem")
    (folder / "fresh").symlink_to("loop")
    (folder / "fresh").replace(folder / "key.pem")


def unreadable_chain(folder: Path) -> None:
    chain = (folder / "cert-chain.pem").read_bytes()
    (folder / "cert-chain.pem").write_bytes(chain[: len(chain) // 2])


def endless(folder: Path) -> None:
    (folder / "fresh").symlink_to("/dev/zero")
    (folder / "fresh").replace(folder / "key.pem")


def a_pipe(folder: Path) -> None:
    """Whoever opens it to read waits for somebody who writes."""
    os.mkfifo(folder / "fresh")
    (folder / "fresh").replace(folder / "key.pem")


SPOILED = [emptied, cut, mismatched, circular, endless, a_pipe, unreadable_chain]


@pytest.mark.parametrize("spoil", SPOILED)
def test_ca_04_spoiled_files_leave_the_last_good_ones(home: Path, spoil: Callable[[Path], None]) -> None:
    Root().write(home / "certs", IDENTITY)
    with with_files(home) as sidecar:
        until(sidecar.is_ready, "ready")
        before = serial(sidecar)
        spoil(home / "certs")
        until(lambda: sidecar.said("the old ones stay in use"), "the refusal")
        assert (serial(sidecar), sidecar.is_ready()) == (before, True)
        for path in (home / "certs").iterdir():
            path.unlink()
        Root().write(home / "certs", IDENTITY)
        until(lambda: serial(sidecar) != before, "the repaired files")


@pytest.mark.parametrize("spoil", SPOILED)
def test_ca_04_without_a_good_one_it_never_serves(home: Path, spoil: Callable[[Path], None]) -> None:
    Root().write(home / "certs", IDENTITY)
    spoil(home / "certs")
    with with_files(home) as sidecar:
        until(lambda: sidecar.said("the old ones stay in use"), "the refusal")
        assert not sidecar.is_ready()
        assert certs(sidecar)["certificate"] is None


def test_ca_04_a_key_that_everybody_may_read_is_used_and_reported(home: Path) -> None:
    Root().write(home / "certs", IDENTITY)
    (home / "certs" / "key.pem").chmod(0o644)
    with with_files(home) as sidecar:
        until(sidecar.is_ready, "ready")
        until(lambda: sidecar.said("key.pem may be read by everybody on this machine: chmod o="), "the warning")


# --- CA-05, CA-06: what the authority answers --------------------------------------------------------------------------


def bad_answers(root: Root) -> dict[str, Callable[[bytes], tuple[str, str]]]:
    """By the words of the refusal."""
    bundle, foreign, another_key = root.bundle.decode(), Root("foreign"), request()
    return {
        "names spiffe://cluster.local/ns/default/sa/other where": lambda csr: (root.certify(csr, OTHER), bundle),
        "is for another key": lambda _: (root.certify(another_key, IDENTITY), bundle),
        "s ago": lambda csr: (root.certify(csr, IDENTITY, datetime.timedelta(seconds=-30)), bundle),
        "holds no certificate": lambda _: ("nothing", bundle),
        "lives 3650 days": lambda csr: (root.certify(csr, IDENTITY, datetime.timedelta(days=3650)), bundle),
        "would be refused": lambda csr: (foreign.certify(csr, IDENTITY), bundle),
    }


def test_ca_05_bad_answers_are_refused_and_the_old_certificate_stays(home: Path) -> None:
    root = Root()

    def good(csr: bytes) -> tuple[str, str]:
        return root.certify(csr, IDENTITY), root.bundle.decode()

    with ScriptedFeed(home / "feed.sock", good) as feed, with_feed(home, feed) as sidecar:
        until(lambda: serial(sidecar) != "", "a certificate")
        before = serial(sidecar)
        for words, bad in bad_answers(root).items():
            feed.sign = bad
            said = len(feed.in_use)
            feed.push("R")
            until(lambda said=said: len(feed.in_use) > said, words)
            assert words in feed.in_use[-1]["reason"]
            assert feed.in_use[-1]["serial"] == serial(sidecar) == before
            assert words in certs(sidecar)["turnover"]["last_error"]
            feed.sign = good  # so that the retry ends this case
            until(lambda before=before: serial(sidecar) != before, "a good certificate again")
            before = serial(sidecar)


def test_ca_06_a_bundle_in_the_wrong_order_is_refused_before_it_cuts(home: Path, authority: Authority) -> None:
    new = Authority.open(home / "new", "new root")

    def sign(csr: bytes) -> tuple[str, str]:
        return authority.sign(csr, IDENTITY), authority.bundle

    with ScriptedFeed(home / "feed.sock", sign) as feed, with_feed(home, feed):
        until(lambda: len(feed.in_use) == 1, "a certificate")
        before = feed.in_use[-1]
        feed.push("K", chain="", bundle=new.bundle)  # the old root leaves although our certificate is of it
        until(lambda: len(feed.in_use) == 2, "the refusal")
        refused = feed.in_use[-1]
        assert "our own certificate would be refused" in refused["reason"]
        assert (refused["serial"], refused["roots"]) == (before["serial"], before["roots"])
        feed.push("K", chain="", bundle=authority.bundle + new.bundle)
        until(lambda: len(feed.in_use) == 3, "the right order")
        assert feed.in_use[-1]["reason"] == ""
        found = [root["fingerprint"] for root in feed.in_use[-1]["roots"]]
        assert found == [authority.signer, new.signer]


def test_ca_06_an_authority_takes_no_step_out_of_turn(authority: Authority) -> None:
    steps = [
        authority.trust_new_root,
        authority.sign_with_new_root,
        authority.settle,
        authority.distrust_old_root,
        authority.finish_rotation,
    ]
    for turn, step in enumerate(steps):
        for wrong in (each for each in steps if each is not step):
            before = (authority.phase, authority.signer, authority.roots)
            with pytest.raises(WrongOrder):
                wrong()
            assert (authority.phase, authority.signer, authority.roots) == before
        step()
        assert len(authority.roots) == (2 if turn < 3 else 1)
    assert authority.phase == "steady"


# --- CA-09: floods -----------------------------------------------------------------------------------------------------

SIDECARS, REQUESTS_EACH = 100, 100


def test_ca_09_ten_thousand_requests_at_once_are_answered_or_told_to_come_back(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "chown", lambda *_: None)
    csr = Frame("C", request())

    async def one(number: int) -> list[Frame]:
        name = f"default/w{number}"
        feed = Feed(name, authority, lambda: None)
        feed.desk.identity = IDENTITY
        path = tmp_path / str(number) / "s"
        await feed.open(path)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(Frame.of("H", workload=name).encode() + csr.encode() * REQUESTS_EACH)
        answers = [frame async for frame in frames(reader, REQUESTS_EACH)]
        writer.close()
        await feed.close()
        return answers

    async def all_at_once() -> list[Frame]:
        return [frame for each in await asyncio.gather(*map(one, range(SIDECARS))) for frame in each]

    answers = asyncio.run(asyncio.wait_for(all_at_once(), 60))
    signed = [frame.fields()["chain"] for frame in answers if frame.kind == "K"]
    later = [frame for frame in answers if frame.kind == "E" and "ask again later" in frame.fields()["message"]]
    assert len(signed) + len(later) == SIDECARS * REQUESTS_EACH
    assert len(signed) >= SIDECARS * 20
    serials = {x509.load_pem_x509_certificate(chain.encode()).serial_number for chain in signed}
    assert len(serials) == len(signed)


async def frames(reader: asyncio.StreamReader, count: int) -> Any:
    for _ in range(count):
        frame = await read_frame(reader)
        assert frame is not None
        yield frame


# --- CA-10: falls ------------------------------------------------------------------------------------------------------

TURN_FOR_EVER = """\
import sys
from pathlib import Path
from meshdp.control.authority import Authority
from cryptography import x509
folder, request = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
authority = Authority.open(folder, "root")
steps = {"steady": "trust_new_root", "trusting": "sign_with_new_root", "signing": "settle",
         "settling": "distrust_old_root", "distrusting": "finish_rotation"}
while True:
    leaf = x509.load_pem_x509_certificate(authority.sign(request, "spiffe://cluster.local/ns/default/sa/web").encode())
    print(leaf.serial_number, flush=True)
    getattr(authority, steps[authority.phase])()
"""


def test_ca_10_an_authority_killed_at_any_moment_is_whole_and_repeats_no_serial(tmp_path: Path) -> None:
    csr = tmp_path / "request.pem"
    csr.write_bytes(request())
    folder, serials = tmp_path / "authority", []
    for round_ in range(15):
        command = [sys.executable, "-c", TURN_FOR_EVER, str(folder), str(csr)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            serials += [running.stdout.readline().strip() for _ in range(1 + round_ * 3)]
            running.kill()
            serials += running.stdout.read().split("\n")[:-1]
        found = Authority.open(folder, "root")
        leaf = x509.load_pem_x509_certificate(found.sign(csr.read_bytes(), IDENTITY).encode())
        signer = next(
            root for root in x509.load_pem_x509_certificates(found.bundle.encode()) if leaf.issuer == root.subject
        )
        assert signer is not None
        assert found.signer in found.roots
        assert not list(folder.glob("*.new"))
    assert all(serials)
    assert len(set(serials)) == len(serials) > 100


FULL_DISK = """\
import os, sys
from pathlib import Path
from meshdp.control.authority import Authority
folder = Path(sys.argv[1])
os.system(f"mount -t tmpfs -o size=64k tmpfs {folder}")
authority = Authority.open(folder / "authority", "root")
before = (authority.phase, authority.roots)
with open(folder / "filler", "wb", buffering=0) as filler:
    try:
        while filler.write(b"x" * 1024):
            pass
    except OSError:
        pass
try:
    authority.trust_new_root()
    sys.exit("there was room")
except OSError as error:
    print(error.strerror)
assert (authority.phase, authority.roots) == before
again = Authority.open(folder / "authority", "root")
assert (again.phase, again.roots) == before
assert "BEGIN CERTIFICATE" in again.sign(Path(sys.argv[2]).read_bytes(), "spiffe://cluster.local/ns/default/sa/web")
(folder / "filler").unlink()
again.trust_new_root()
assert len(again.roots) == 2
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk of its own")
def test_ca_10_a_full_disk_leaves_the_old_state_and_certificates_are_signed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "request.pem").write_bytes(request())
    script = [sys.executable, "-c", FULL_DISK, str(tmp_path / "disk"), str(tmp_path / "request.pem")]
    done = subprocess.run(["unshare", "--mount", *script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No space left" in done.stdout


# --- CA-11: the key ------------------------------------------------------------------------------------------------------


def test_ca_11_the_key_is_in_no_page_no_log_no_proc_and_no_dump(home: Path) -> None:
    Root().write(home / "certs", IDENTITY)
    secret = "".join((home / "certs" / "key.pem").read_text().splitlines()[1:-1])
    with with_files(home) as sidecar:
        until(sidecar.is_ready, "ready")
        pid = sidecar.process.pid
        pages = [sidecar.get("admin", path)[1] for path in ("/certs", "/config", "/connections", "/stats")]
        public = [Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ", "status")]
        for text in (*pages, *public, sidecar.errors.read_text()):
            assert "PRIVATE KEY" not in text
            assert secret[:24] not in text
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
        sidecar.process.send_signal(signal.SIGABRT)
        sidecar.process.wait(60)
        assert not os.WCOREDUMP(signal.SIGABRT)
    assert [path.name for path in home.iterdir() if path.name.startswith("core")] == []


# --- CA-02, CA-03: away, and clocks ----------------------------------------------------------------------------------------


def test_ca_02_a_refusing_authority_is_asked_with_growing_pauses(home: Path) -> None:
    with ScriptedFeed(home / "feed.sock", lambda _: None) as feed, with_feed(home, feed) as sidecar:
        until(lambda: len(feed.requests) >= 7, "requests")
        assert not sidecar.is_ready()
        assert certs(sidecar)["turnover"]["last_error"] == "the authority refuses"
    pauses = [late - early for early, late in zip(feed.requests, feed.requests[1:], strict=False)]
    assert min(pauses) > 0.02, "never a busy loop"
    assert max(pauses[4:]) > 0.35, pauses


@pytest.fixture
def faketime() -> str:
    found = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if found is None:
        pytest.skip("needs Debian's libfaketime, which scripts/debian-packages installs")
    return str(found)


STEPS = ["+1h", "-1h", "+1d", "-1d", "+3600d", "+0"]


def test_ca_03_steps_of_the_clock_crash_nothing_and_are_recovered_from(
    home: Path, authority: Authority, faketime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libfaketime moves the sidecar's wall clock alone; the authority keeps the right time."""
    clock = home / "clock"
    clock.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", faketime)
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")

    def sign(csr: bytes) -> tuple[str, str]:
        return authority.sign(csr, IDENTITY), authority.bundle

    with ScriptedFeed(home / "feed.sock", sign) as feed, with_feed(home, feed) as sidecar:
        monkeypatch.delenv("LD_PRELOAD")
        until(lambda: serial(sidecar) != "", "a certificate")
        for step in STEPS:
            asked = len(feed.requests)
            clock.write_text(step)
            if step != "+0":
                until(lambda asked=asked: len(feed.requests) > asked, f"a renewal after {step}")
        until(lambda: not certs(sidecar)["turnover"]["last_error"], "a good certificate once the clock is right")
        assert certs(sidecar)["turnover"]["alarm"] == "none"
        assert sidecar.process.poll() is None
    assert "panicked" not in sidecar.errors.read_text()


# --- a sidecar that stands alone -----------------------------------------------------------------------------------------


def test_a_lone_sidecar_gets_its_certificates_from_a_socket_and_renews_them(home: Path) -> None:
    """`meshdp certs serve` on one side, `meshdp sidecar --config --csr-socket` on the other."""
    path = home / "csr.sock"
    words = ["certs", "serve", "--socket", str(path), "--identity", IDENTITY, "--authority", str(home / "ca")]
    command = [sys.executable, "-m", "meshdp", *words, "--certificate-life", "2"]
    flags = ("--workload", "default/web", "--config", str(home / "conf"), "--csr-socket", str(path))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as signer, Sidecar(home, *flags) as sidecar:
        until(sidecar.is_ready, "ready")
        assert path.stat().st_mode & 0o777 == 0o600
        seen = {serial(sidecar)}
        until(lambda: seen.add(serial(sidecar)) or len(seen) >= 3, "renewals")
        assert certs(sidecar)["certificate"]["identity"] == IDENTITY
        signer.kill()
        signer.wait()
        until(lambda: not sidecar.is_ready(), "it expires without its authority")
        assert "expired" in sidecar.get("readiness", "/healthz/ready")[1]
        with subprocess.Popen(command) as again:
            until(sidecar.is_ready, "ready again")
            again.terminate()
            assert again.wait(60) == 0
    keys = [found for found in home.rglob("*.pem") if "PRIVATE" in found.read_text()]
    assert [found.name for found in keys] == ["root-key.pem"], "the sidecar's key was on no disk"


def test_a_lone_sidecar_with_another_identity_gets_nothing(home: Path) -> None:
    path = home / "csr.sock"
    words = ["certs", "serve", "--socket", str(path), "--identity", OTHER, "--authority", str(home / "ca")]
    flags = ("--workload", "default/web", "--config", str(home / "conf"), "--csr-socket", str(path))
    with subprocess.Popen([sys.executable, "-m", "meshdp", *words]) as signer, Sidecar(home, *flags) as sidecar:
        until(lambda: sidecar.said("no certificate: "), "the refusal")
        until(lambda: sidecar.said(f"expected a request for {OTHER}"), "its reason")
        assert not sidecar.is_ready()
        signer.terminate()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(home / "ca")
