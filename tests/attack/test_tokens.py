"""Table 2.7 where no traffic is needed: the manipulations of `jwt_tool` against the data plane's own verdict.

In:     a workload that lets nobody in without a token of its issuer.  Out: no manipulated token is ever let in.
Source: attack case JW-24; RFC 8725.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable

import pytest

from meshdp.compiler import compile_workload
from meshdp.compiler.select import Workload
from meshdp.resources import load
from tests.support.judges import judge
from tests.support.tokens import URL, Issuer, authentication, encode

ISSUER, FORGER = Issuer(), Issuer()
JUDGE, JUDGED_BY = judge()
pytestmark = pytest.mark.skipif(JUDGE != "native", reason="the reference reads no tokens")
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: need, namespace: default}
spec: {rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}
"""


def _transaction() -> bytes:
    loaded = load([("in.yaml", authentication([{"issuer": URL, "jwks": ISSUER.jwks()}], POLICY))])
    assert not loaded.findings, loaded.findings
    workload = Workload("w", "default", "w", {"app": "server"}, ("10.20.0.1",))
    return compile_workload(loaded.resources, workload).transaction(None)


TRANSACTION = _transaction()


def status(token: str) -> int:
    head = f"GET / HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {token}\r\n\r\n"
    request = {
        "direction": "inbound",
        "peer": None,
        "source": "10.1.0.1:40000",
        "destination": "10.20.0.1:8080",
        "sni": None,
        "head": head,
        "detected": {"tls": False, "alpn": ["http/1.1"]},
    }
    return int(JUDGED_BY(TRANSACTION, request)["status"])


def _hmac(secret: bytes) -> str:
    signed = f"{encode(json.dumps({'alg': 'HS256', 'kid': 'k1'}).encode())}.{ISSUER.token().split('.')[1]}"
    return f"{signed}.{encode(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def _parts(change: Callable[[list[str]], list[str]]) -> str:
    return ".".join(change(ISSUER.token().split(".")))


def _claims(**claims: object) -> str:
    """The claims of a good token changed behind its signature."""
    header, payload, signature = ISSUER.token().split(".")
    read = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return f"{header}.{encode(json.dumps(read | claims).encode())}.{signature}"


PLAYBOOK = {
    "alg none": _parts(lambda part: [encode(b'{"alg":"none"}'), part[1], ""]),
    "alg none, signature kept": _parts(lambda part: [encode(b'{"alg":"none"}'), *part[1:]]),
    "alg nOnE": _parts(lambda part: [encode(b'{"alg":"nOnE"}'), *part[1:]]),
    "empty signature": _parts(lambda part: [*part[:2], ""]),
    "no signature": _parts(lambda part: part[:2]),
    "zero signature (psychic)": _parts(lambda part: [*part[:2], encode(bytes(64))]),
    "signature of another token": _parts(lambda part: [*part[:2], ISSUER.token(sub="bob").split(".")[2]]),
    "key confusion, JWK": _hmac(json.dumps(ISSUER.jwk()).encode()),
    "key confusion, JWKS": _hmac(ISSUER.jwks().encode()),
    "key confusion, x": _hmac(ISSUER.jwk()["x"].encode()),
    "empty secret": _hmac(b""),
    "embedded jwk": FORGER.token({"jwk": FORGER.jwk()}),
    "jku": FORGER.token({"jku": "https://forger.example/keys"}),
    "x5u": FORGER.token({"x5u": "https://forger.example/cert"}),
    "x5c": FORGER.token({"x5c": ["AA=="]}),
    "kid traversal": FORGER.token({"kid": "../../../../dev/null"}),
    "kid injection": FORGER.token({"kid": "x' UNION SELECT 'secret"}),
    "kid command": FORGER.token({"kid": "k1; sleep 10"}),
    "kid list": ISSUER.token({"kid": ["k1"]}),
    "own key, same kid": FORGER.token(),
    "claims changed": _claims(sub="root"),
    "longer life": _claims(exp=9_999_999_999),
    "expired": ISSUER.token(exp=1),
    "not yet": ISSUER.token(nbf=9_999_999_999),
    "other issuer": ISSUER.token(iss="https://forger.example"),
    "issuer as prefix": ISSUER.token(iss=f"{URL}.forger.example"),
    "null issuer": ISSUER.token(iss=None),
    "crit": ISSUER.token({"crit": ["exp"]}),
    "b64": ISSUER.token({"b64": False}),
    "zip": ISSUER.token({"zip": "DEF"}),
    "alg list": ISSUER.token({"alg": ["ES256"]}),
    "other curve": ISSUER.token({"alg": "ES384"}),
    "duplicate header": ISSUER.sign(b'{"alg":"ES256","alg":"ES256"}', json.dumps({"iss": URL, "sub": "a"}).encode()),
    "duplicate claim": ISSUER.sign(b'{"alg":"ES256"}', f'{{"iss":"{URL}","sub":"a","sub":"b"}}'.encode()),
    "payload list": ISSUER.sign(b'{"alg":"ES256"}', b"[]"),
    "deep payload": ISSUER.sign(b'{"alg":"ES256"}', b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    "padding": ISSUER.token() + "==",
    "another section": ISSUER.token() + ".x",
    "JSON form": json.dumps({"payload": "x", "signature": "y"}),
}


@pytest.mark.parametrize("name", PLAYBOOK)
def test_jw_24_no_manipulated_token_is_let_in(name: str) -> None:
    assert status(PLAYBOOK[name]) == 401


def test_jw_24_the_honest_token_is_let_in() -> None:
    assert status(ISSUER.token()) == 200
