"""HAProxy's configuration for a place in a scenario.

In:     a `Role`, a folder with certificates. Out: the text of a file.
Limits: one thread; bytes are spliced in both directions.
"""

from __future__ import annotations

from pathlib import Path

from bench.proxies import Role


def configuration(folder: Path, role: Role) -> str:
    """The whole file."""
    listen_tls = _side(folder, "no-tls-tickets" if role.tls == "server" else "", h2=role.h2_taken)
    dial_tls = _side(folder, "no-ssl-reuse" if role.tls == "client" else "", h2=role.h2_dialled)
    source = f" source {role.source}" if role.source else ""
    deny = "\n  http-request deny if { path_beg /admin }" if role.policies else ""
    options = f"pool-purge-delay 600s{dial_tls}{source}"
    servers = "\n".join(f"  server s{at} {each} {options}" for at, each in enumerate(role.upstreams))
    return f"""global
  nbthread {role.workers}
  maxconn 4000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites {CIPHERS}
  ssl-default-server-ciphersuites {CIPHERS}
defaults
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  {_carrying(role)}
frontend taken
  bind 0.0.0.0:{role.port}{listen_tls}{deny}
  default_backend application
backend application
{servers}
"""


def _side(folder: Path, unresumed: str, *, h2: bool) -> str:
    """What a line says of TLS and HTTP/2. unresumed: the word that turns resumption off, where there is TLS."""
    if not unresumed:
        return " proto h2" if h2 else ""
    files = f"ssl crt {folder}/both.pem ca-file {folder}/ca.pem verify required"
    return f" {files} {unresumed}{' alpn h2' if h2 else ''}"


def _carrying(role: Role) -> str:
    if role.tcp:
        return "mode tcp\n  option splice-auto\n  option splice-request\n  option splice-response"
    return "mode http\n  http-reuse always"


CIPHERS = "TLS_AES_128_GCM_SHA256"
