"""Which tokens are accepted: the rules of RequestAuthentication, and what istiod and its CRD refuse of them.

In:     decoded rules, from `security` and `validate`.
Out:    `JwtRule`, read by `meshdp.compiler.tokens`; problems with field paths, MDP0301 and MDP0330.
Limits: as many rules, places and headers as native/model/src/jwt/rules.rs takes.
Source: istio/api security/v1 JWTRule with its CRD; spec/istio-semantics.md E; conformance/validation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from meshdp.documents import Path
from meshdp.resources import values as value
from meshdp.resources.mesh import duration_ms
from meshdp.resources.shape import Problem, Shape

REFUSED = "MDP0301"
NO_KEYS = "MDP0330"
RULES_LIMIT = 64
PLACES_LIMIT = 32
OUTPUTS_LIMIT = 32
JWKS_LENGTH_LIMIT = 1 << 20
DEFAULT_TIMEOUT_MS = 5_000


class JwtHeader(Shape, frozen=True):
    """A header that carries a token behind a prefix."""

    name: str = ""
    prefix: str = ""


class ClaimToHeader(Shape, frozen=True):
    """A claim that the application gets in a header."""

    header: str = ""
    claim: str = ""


class JwtRule(Shape, frozen=True):
    """Which tokens of one issuer are accepted, and what becomes of them."""

    issuer: str = ""
    audiences: list[str] = []
    jwks: str = ""
    jwks_uri: str = ""
    jwks_uri_too: str = msgspec.field(name="jwks_uri", default="")
    from_headers: list[JwtHeader] = []
    from_params: list[str] = []
    from_cookies: list[str] = []
    output_payload_to_header: str = ""
    output_claim_to_headers: list[ClaimToHeader] = []
    forward_original_token: bool = False
    timeout: str = ""
    space_delimited_claims: list[str] = []

    @property
    def keys_at(self) -> str:
        """Where the key set is fetched, in either spelling."""
        return self.jwks_uri or self.jwks_uri_too


def problems_of(rules: list[JwtRule], written: Mapping[str, object]) -> Iterator[Problem]:
    """Everything that is wrong with the rules. written: the spec before decoding."""
    if len(rules) > RULES_LIMIT:
        yield Problem(REFUSED, ("spec", "jwtRules"), f"more than {RULES_LIMIT} rules")
    raw = written.get("jwtRules")
    for index, rule in enumerate(rules):
        path: Path = ("spec", "jwtRules", index)
        as_written = raw[index] if isinstance(raw, list) and isinstance(raw[index], dict) else {}
        yield from _keys(rule, as_written, path)
        yield from _places(rule, path)
        yield from _outputs(rule, path)
        yield from _lists(rule, path)
        if rule.timeout and not duration_ms(rule.timeout):
            yield Problem(REFUSED, (*path, "timeout"), f"{rule.timeout!r} is not a duration of 1ms or more")


def usable_keys(jwks: str) -> str:
    """The public members of the keys in a JWKS as canonical text; empty when it is none or there is nothing to use.

    Secrets do not travel in snapshots: private parts are left out, symmetric keys altogether.
    """
    try:
        listed = json.loads(jwks).get("keys")
    except (ValueError, AttributeError, RecursionError):
        return ""
    keys = [_public(key) for key in listed if isinstance(key, dict)] if isinstance(listed, list) else []
    usable = [key for key in keys if key]
    return json.dumps({"keys": usable}, sort_keys=True, separators=(",", ":")) if usable else ""


def _public(key: dict[str, Any]) -> dict[str, Any]:
    members = _PUBLIC.get(key.get("kty", "") if isinstance(key.get("kty"), str) else "", ())
    needed = all(isinstance(key.get(name), str) for name in members)
    return {name: key[name] for name in (*members, *_ABOUT_KEYS) if name in key} if members and needed else {}


def _keys(rule: JwtRule, written: Mapping[str, object], path: Path) -> Iterator[Problem]:
    sources = [name for name in ("jwks", "jwksUri", "jwks_uri") if name in written]
    if len(sources) > 1:
        yield Problem(REFUSED, path, f"only one of {' and '.join(sources)} can be given")
    if not rule.issuer and ("issuer" in written or not sources):
        yield Problem(REFUSED, (*path, "issuer"), "an issuer must not be empty (without jwks or jwksUri it is needed)")
    for name in sources:
        text = written[name]
        if name != "jwks" and isinstance(text, str):
            problem = value.jwks_uri_problem(text) if text else "an address must not be empty"
            if problem:
                yield Problem(REFUSED, (*path, name), problem)
    if "jwks" in sources and rule.jwks:
        if len(rule.jwks) > JWKS_LENGTH_LIMIT:
            yield Problem(REFUSED, (*path, "jwks"), f"longer than {JWKS_LENGTH_LIMIT} characters")
        elif not usable_keys(rule.jwks):
            yield Problem(NO_KEYS, (*path, "jwks"), "there is no key in it that could prove a token: all are refused")
    if not sources and rule.issuer and value.jwks_uri_problem(rule.issuer):
        yield Problem(NO_KEYS, (*path, "issuer"), f"{rule.issuer!r} is no address: keys cannot be discovered there")


def _places(rule: JwtRule, path: Path) -> Iterator[Problem]:
    for index, header in enumerate(rule.from_headers):
        if not _HEADER_NAME.fullmatch(header.name):
            yield Problem(REFUSED, (*path, "fromHeaders", index, "name"), f"{header.name!r} is no header name")
    if len(rule.from_headers) + len(rule.from_params) + len(rule.from_cookies) > PLACES_LIMIT:
        yield Problem(REFUSED, path, f"a token is looked for in at most {PLACES_LIMIT} places")


def _outputs(rule: JwtRule, path: Path) -> Iterator[Problem]:
    named = [(("outputClaimToHeaders", index, "header"), item.header) for index, item in enumerate(_claims(rule))]
    outputs: list[tuple[Path, str]] = [*named]
    if rule.output_payload_to_header:
        outputs.append((("outputPayloadToHeader",), rule.output_payload_to_header))
    for steps, name in outputs:
        if not _HEADER_NAME.fullmatch(name):
            yield Problem(REFUSED, (*path, *steps), f"{name!r} is no header name")
        elif _is_ours(name.lower()):
            yield Problem(REFUSED, (*path, *steps), f"{name!r} says how a request is sent: a token must not")
    for index, item in enumerate(_claims(rule)):
        if not item.claim:
            yield Problem(REFUSED, (*path, "outputClaimToHeaders", index, "claim"), "a claim must not be empty")
    if len(outputs) > OUTPUTS_LIMIT:
        yield Problem(REFUSED, path, f"a token becomes at most {OUTPUTS_LIMIT} headers")


def _claims(rule: JwtRule) -> list[ClaimToHeader]:
    return rule.output_claim_to_headers


def _lists(rule: JwtRule, path: Path) -> Iterator[Problem]:
    lists = {
        "audiences": rule.audiences,
        "fromParams": rule.from_params,
        "fromCookies": rule.from_cookies,
        "spaceDelimitedClaims": rule.space_delimited_claims,
    }
    for name, texts in lists.items():
        for index, text in enumerate(texts):
            if not text:
                yield Problem(REFUSED, (*path, name, index), "a value must not be empty")
    if len(rule.space_delimited_claims) > RULES_LIMIT:
        yield Problem(REFUSED, (*path, "spaceDelimitedClaims"), f"more than {RULES_LIMIT} claims")


def _is_ours(name: str) -> bool:
    return name in _FRAMING or name.startswith(("x-forwarded-", "x-envoy-", "x-meshdp-"))


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_PUBLIC: dict[str, tuple[str, ...]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_ABOUT_KEYS = ("kty", "kid", "alg", "use", "key_ops")
_FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)
