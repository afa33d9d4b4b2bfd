"""What istiod's validation webhook refuses in security policies, as problems with field paths.

In:     decoded specs, from `decode`.
Out:    errors (the policy is not accepted) and warnings (a condition that is not honoured yet).
Source: spec/istio-semantics.md D.2 to D.5, spec/istio-observed.md 13; istio pkg/config/validation (behaviour).
"""

from __future__ import annotations

from collections.abc import Iterator

from meshdp.resources.security import AuthorizationPolicy, PeerAuthenticationSpec, RequestAuthentication
from meshdp.resources.shape import Problem


def peer_authentication(spec: PeerAuthenticationSpec) -> Iterator[Problem]:
    """Port-level settings need a selector and real port numbers."""
    if spec.port_level_mtls and not spec.selector.match_labels:
        yield Problem("MDP0301", ("spec", "portLevelMtls"), "portLevelMtls needs a selector")
    for port in spec.port_level_mtls:
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            yield Problem("MDP0301", ("spec", "portLevelMtls", port), f"{port!r} is not a port (1 to 65535)")


def request_authentication(policy: RequestAuthentication) -> Iterator[Problem]:
    """Tokens are verified from M4 on."""
    if not policy.targets_gateway:
        yield Problem("MDP0304", (), "tokens are not verified before M4")


def authorization_policy(policy: AuthorizationPolicy) -> Iterator[Problem]:
    """Rules, values and combinations that a cluster would not store."""
    yield from ()
