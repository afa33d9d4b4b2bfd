"""`meshdp sidecar`: one workload's data plane, until it is told to stop."""

from __future__ import annotations

import os
import sys

from meshdp import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping, Sequence

EXAMPLES = """\
examples:
  meshdp sidecar --workload default/details-v1 --feed /run/mesh/details-v1/feed.sock
  meshdp sidecar --workload default/details-v1 --config config/ --credentials certs/
  meshdp sidecar --workload default/details-v1 --config config/ --csr-socket /run/mesh/csr.sock

Every option can also be set as a variable: MESHDP_WORKLOAD, MESHDP_CONCURRENCY, …
SIGTERM and SIGINT drain, then stop; a second one stops at once."""

ADDRESSES = {
    "outbound": "where redirected connections of the application arrive",
    "inbound": "where redirected connections to the application arrive",
    "admin": "state of this sidecar, for people on this host",
    "status": "probes and merged metrics",
    "readiness": "answers 200 once configuration and certificate are in force",
    "metrics": "this sidecar's metrics",
}


def configure(parser: ArgumentParser) -> None:
    """Declare the options; defaults live in `meshdp.settings`, so that variables can come between."""
    parser.description = "Carry one workload's traffic: intercept, encrypt, authorize, route, observe."
    parser.epilog = EXAMPLES
    parser.add_argument("--workload", metavar="NAMESPACE/NAME", help="the workload this sidecar serves")
    source = parser.add_argument_group("configuration (one of)")
    source.add_argument(
        "--feed", metavar="SOCKET", help="Unix socket that sends compiled configuration and certificates"
    )
    source.add_argument("--config", "--directory", metavar="DIR", help="YAML to compile here, watched for changes")
    proof = parser.add_argument_group("certificates, with --config (one of)")
    proof.add_argument("--credentials", metavar="DIR", help="cert-chain.pem, key.pem, root-cert.pem, watched")
    proof.add_argument("--csr-socket", metavar="SOCKET", help="Unix socket that signs requests; the key stays inside")
    parser.add_argument(
        "--identity", metavar="SPIFFE-ID", help="expected own identity; default: what the certificate says"
    )
    parser.add_argument("--concurrency", metavar="N", help="worker threads (1)")
    for name, purpose in ADDRESSES.items():
        default = settings.DEFAULTS[name]
        parser.add_argument(f"--{name}", metavar="ADDRESS:PORT", help=f"{purpose} ({default})")
    parser.add_argument("--inbound-source", metavar="IP", help="own address towards the application (127.0.0.6)")
    parser.add_argument("--access-log", metavar="WHERE", help="stdout, off, or a file (stdout)")
    parser.add_argument("--drain-s", metavar="SECONDS", help="how long connections may finish at stop (5)")
    parser.add_argument("--idle-s", metavar="SECONDS", help="end a connection on which nothing moves for so long (300)")
    parser.add_argument(
        "--keepalive-s", metavar="SECONDS", help="notice a vanished peer within so long; 0 never asks (120)"
    )
    parser.add_argument("--uid", metavar="N", help="give up root for this user and group")
    parser.add_argument(
        "--mark", metavar="N", help="mark own packets (as meshdp-init --proxy-mark); needs CAP_NET_ADMIN"
    )
    parser.add_argument(
        "--no-post-quantum", dest="post_quantum", action="store_false", default=None, help="offer X25519 alone"
    )


def run(args: Namespace) -> int:
    """Take what argparse made of the words."""
    return _live(vars(args))


def run_plain(words: Sequence[str]) -> int | None:
    """Take plain `--name value` pairs without argparse, which costs half as much as all of Python's start.

    None when the words are anything else, such as a call for help: then argparse has them.
    """
    flags: dict[str, object] = {}
    names, values = words[::2], words[1::2]
    if len(names) != len(values):
        return None
    for flag, value in zip(names, values, strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        if flag != settings.flag_of(name) or name not in settings.DEFAULTS or value.startswith("-"):
            return None
        flags[name] = value
    return _live(flags)


def _live(flags: Mapping[str, object]) -> int:
    """Read the settings and live until a signal."""
    try:
        chosen = settings.read(flags, os.environ)
    except settings.SettingsError as wrong:
        print(f"meshdp sidecar: {wrong}", file=sys.stderr)
        return 2
    try:
        from meshdp.supervise import supervisor
    except ImportError as missing:
        print(f"meshdp sidecar: {missing}", file=sys.stderr)
        return 1
    return supervisor.run(chosen)
