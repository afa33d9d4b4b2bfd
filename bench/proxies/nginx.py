"""nginx's configuration for a place in a scenario.

In:     a `Role`, a folder with certificates. Out: the text of a file.
Limits: one process without a master; `stream` where bytes are carried (Debian has it as a module of its own).
"""

from __future__ import annotations

from pathlib import Path

from bench.proxies import Role

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
POOLED = 2048  # connections kept to the application: more than any scenario opens


def carries_bytes() -> bool:
    """The module for plain TCP is installed."""
    return STREAM_MODULE.exists()


def configuration(folder: Path, role: Role) -> str:
    """The whole file."""
    load = f"load_module {STREAM_MODULE};\n" if role.tcp else ""
    return (
        f"{load}daemon off; master_process off; pid {folder}/nginx-{role.port}.pid; error_log stderr crit;\n"
        f"events {{ worker_connections 8192; }}\n{_stream(folder, role) if role.tcp else _http(folder, role)}"
    )


def _stream(folder: Path, role: Role) -> str:
    source = f"proxy_bind {role.source};" if role.source else ""
    return f"""stream {{
  server {{
    listen 0.0.0.0:{role.port}{_listen_tls(folder, role)}
    proxy_pass {role.upstream}; tcp_nodelay on; proxy_buffer_size 256k; {source} {_dial_tls(folder, role)}
  }}
}}
"""


def _http(folder: Path, role: Role) -> str:
    temporary = "".join(
        f"{each}_temp_path {folder}/tmp; " for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    source = f"proxy_bind {role.source};" if role.source else ""
    return f"""http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600; {temporary}
  upstream application {{
    {" ".join(f"server {each};" for each in role.upstreams)}
    keepalive {POOLED}; keepalive_requests 100000000; keepalive_timeout 600;
  }}
  server {{
    listen 0.0.0.0:{role.port}{_listen_tls(folder, role)}
    location / {{
      proxy_pass {"https" if role.tls == "client" else "http"}://application; {_dial_tls(folder, role)}
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; {source}
    }}
    {"location /admin { return 403; }" if role.policies else ""}
  }}
}}
"""


def _listen_tls(folder: Path, role: Role) -> str:
    if role.tls != "server":
        return ";"
    return (
        f" ssl; ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3;"
        f" ssl_client_certificate {folder}/ca.pem; ssl_verify_client on; ssl_session_tickets off;"
        f" ssl_conf_command Ciphersuites {CIPHERS};"
    )


def _dial_tls(folder: Path, role: Role) -> str:
    if role.tls != "client":
        return ""
    return (
        f"{'proxy_ssl on; ' if role.tcp else ''}proxy_ssl_certificate {folder}/leaf.pem;"
        f" proxy_ssl_certificate_key {folder}/key.pem; proxy_ssl_protocols TLSv1.3;"
        f" proxy_ssl_trusted_certificate {folder}/ca.pem; proxy_ssl_session_reuse off;"
    )


CIPHERS = "TLS_AES_128_GCM_SHA256"
