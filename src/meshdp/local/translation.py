"""Renders the address translation by which an instance without a sidecar reaches services.

In:      virtual addresses and their backends, from `configuration`. Pure.
Out:     one iptables-restore document for the instance's own namespace; `mesh` applies it.
Limits:  IPv4 TCP, as the mesh itself; each connection picks a backend at random.
Source:  iptables-extensions(8), statistic and DNAT.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A service port and the addresses behind it, sorted; none: connections find no route."""

    address: str
    port: int
    backends: tuple[tuple[str, int], ...]


def render(targets: Iterable[Target]) -> str:
    """The whole table: restoring it replaces what an earlier one said, in one step."""
    rules = [rule for target in sorted(targets) for rule in _rules(target)]
    lines = ["*nat", ":OUTPUT ACCEPT [0:0]", f":{_CHAIN} - [0:0]", f"-A OUTPUT -p tcp -j {_CHAIN}", *rules, "COMMIT"]
    return "\n".join(lines) + "\n"


def _rules(target: Target) -> Iterator[str]:
    match = f"-A {_CHAIN} -d {target.address}/32 -p tcp -m tcp --dport {target.port}"
    for index, (address, port) in enumerate(target.backends):
        left = len(target.backends) - index
        # Each rule takes its share of what the rules before it left over.
        share = f" -m statistic --mode random --probability {1 / left:.8f}" if left > 1 else ""
        yield f"{match}{share} -j DNAT --to-destination {address}:{port}"


_CHAIN = "MESHDP_SERVICES"
