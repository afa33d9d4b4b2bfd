"""Gives every instance and service of a mesh a stable IPv4 address.

In:      names, and the addresses that documents ask for. Pure: the same names give the same addresses.
Out:     `Pool.assign`, used for pods (10.244.0.0/16) and for services (10.96.0.0/12).
Limits:  the pool's size; addresses are taken from the name's hash, so that a new name moves no other.
Fails:   PoolExhausted.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping


class PoolExhausted(ValueError):
    """Every address of the range is taken."""


class Pool:
    """One range of addresses. What was assigned stays assigned for the pool's life."""

    def __init__(self, network: str) -> None:
        self.network = ipaddress.IPv4Network(network)
        self._by_name: dict[str, ipaddress.IPv4Address] = {}
        self._taken: set[ipaddress.IPv4Address] = set()

    def assign(self, names: Iterable[str], wanted: Mapping[str, str] | None = None) -> dict[str, str]:
        """Addresses by name, sorted by name; `wanted` holds those that documents fix."""
        fixed = {name: ipaddress.IPv4Address(address) for name, address in (wanted or {}).items()}
        self._taken.update(fixed.values())
        ordered = sorted(names)
        for name in ordered:
            if name in fixed:
                self._by_name[name] = fixed[name]
            elif name not in self._by_name:
                self._by_name[name] = self._free(name)
        return {name: str(self._by_name[name]) for name in ordered}

    def _free(self, name: str) -> ipaddress.IPv4Address:
        # The first 256 are kept for gateways and the addresses that Kubernetes' own services take.
        usable = self.network.num_addresses - _RESERVED - 1
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % usable
        for step in range(usable):
            address = self.network.network_address + _RESERVED + (start + step) % usable
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise PoolExhausted(f"no address of {self.network} is free for {name}")


PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/12"
GATEWAY = "10.244.0.1"
POD_PREFIX = 16

_RESERVED = 256
