"""HAProxy's configuration for a place in a scenario.

In:     a `Role`, a folder with certificates. Out: the text of a file.
Limits: one thread; bytes are spliced in both directions.
"""

from __future__ import annotations

from pathlib import Path

from bench.proxies import Role


def configuration(folder: Path, role: Role) -> str:
    """The whole file."""
    listen_tls = (
        f" ssl crt {folder}/both.pem ca-file {folder}/ca.pem verify required no-tls-tickets"
        if role.tls == "server"
        else ""
    )
    dial_tls = (
        f" ssl crt {folder}/both.pem ca-file {folder}/ca.pem verify required no-ssl-reuse"
        if role.tls == "client"
        else ""
    )
    source = f" source {role.source}" if role.source else ""
    deny = "\n  http-request deny if { path_beg /admin }" if role.policies else ""
    return f"""global
  nbthread 1
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
  server one {role.upstream} pool-purge-delay 600s{dial_tls}{source}
"""


def _carrying(role: Role) -> str:
    if role.tcp:
        return "mode tcp\n  option splice-auto\n  option splice-request\n  option splice-response"
    return "mode http\n  http-reuse always"


CIPHERS = "TLS_AES_128_GCM_SHA256"
