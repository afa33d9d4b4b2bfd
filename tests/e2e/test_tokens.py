"""Tokens through two real sidecars: refused with Envoy's words, taken out, turned into headers, their keys fetched.

In:     RequestAuthentication with inline keys, and with keys that a server in the other namespace hands out.
Source: spec/istio-semantics.md E; attack cases HD-12, JW-18, JW-19.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import wire
from tests.support.http2 import Client
from tests.support.mesh import Mesh, get, position
from tests.support.pair import CLIENT_IP, HTTP_PORT, SERVICE_IP, UNCAPTURED_PORT
from tests.support.tokens import URL, Issuer, KeyServer, authentication

NEED_ALICE = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: need-alice, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  rules:
  - from: [{source: {requestPrincipals: ["https://issuer.example.com/alice"]}}]
    when: [{key: "request.auth.claims[groups]", values: [staff]}]
  - to: [{operation: {paths: [/open*]}}]
"""
OUTPUTS = {
    "outputPayloadToHeader": "x-payload",
    "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}, {"header": "x-tier", "claim": "account.tier"}],
}


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def tokens(mesh: Mesh, issuer: Issuer) -> Iterator[Mesh]:
    """The server asks for tokens of the issuer."""
    mesh.pair.configure(authentication([{"issuer": URL, "jwks": issuer.jwks()} | OUTPUTS], NEED_ALICE))
    yield mesh
    mesh.pair.configure("# none\n")


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_jw_19_a_token_is_taken_out_and_becomes_headers(tokens: Mesh, issuer: Issuer, direction: str) -> None:
    token = issuer.token(groups=["staff"], account={"tier": 3})
    forged = ("X-Sub: root", "x-tier: 9", "X-Payload: e30")
    for target, carrier in (("/a?x=1", [f"Authorization: Bearer {token}"]), (f"/a?x=1&access_token={token}", [])):
        heard = tokens.ask(get(target, *forged, *carrier), direction=direction)
        assert heard.statuses == [200]
        request = tokens.origin.requests[-1]
        assert (request.target, request.value(b"authorization")) == (b"/a?x=1", None)
        assert (request.value(b"x-sub"), request.value(b"x-tier")) == (b"alice", b"3")
        assert request.value(b"x-payload") == token.split(".")[1].encode()


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_hd_12_nobody_else_sends_what_tokens_become(tokens: Mesh, direction: str) -> None:
    heard = tokens.ask(get("/open", "x-sub: root", "X-Tier: 9", "x-payload: e30"), direction=direction)
    assert heard.statuses == [200]
    request = tokens.origin.requests[-1]
    assert [request.values(name) for name in (b"x-sub", b"x-tier", b"x-payload")] == [[], [], []]


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_a_bad_token_is_refused_in_envoys_words(tokens: Mesh, issuer: Issuer, direction: str) -> None:
    expired = issuer.token(exp=1_000_000_000)
    at = position(tokens.pair.server)
    (answer,) = tokens.ask(get(f"/a?access_token={expired}"), direction=direction).answers
    assert (answer.status, answer.body) == (401, b"Jwt is expired")
    assert answer.value(b"www-authenticate") == b'Bearer realm="https://server/a", error="invalid_token"'
    line = tokens.logged(tokens.pair.server, at, lambda line: line["response_code"] == 401)
    assert (line["path"], line["response_code_details"]) == ("/a", "token_refused"), "no token in the log"
    assert expired not in tokens.pair.server.log.read_text()
    grpc = get("/pkg.Svc/Get", f"Authorization: Bearer {expired}", "Content-Type: application/grpc", method="POST")
    (answer,) = tokens.ask(grpc, direction=direction).answers
    assert (answer.status, answer.value(b"grpc-status"), answer.body) == (200, b"16", b"")


def test_who_is_nobody_or_another_is_denied_by_policy(tokens: Mesh, issuer: Issuer) -> None:
    for token in (None, issuer.token(sub="bob", groups=["staff"]), issuer.token(groups=["guest"])):
        fields = [] if token is None else [f"Authorization: Bearer {token}"]
        (answer,) = tokens.ask(get("/a", *fields)).answers
        assert (answer.status, answer.body) == (403, b"RBAC: access denied")


def test_the_same_over_http2(tokens: Mesh, issuer: Issuer) -> None:
    connected = tokens.pair.client.connect((SERVICE_IP, HTTP_PORT))
    with Client(connected) as client:
        bad = client.ask("/a", ("authorization", f"Bearer {issuer.token(exp=1)}"))
        good = client.ask("/a", ("authorization", f"Bearer {issuer.token(groups=['staff'])}"), ("x-sub", "root"))
        assert (good.status, bad.status, bad.data) == (200, 401, b"Jwt is expired")
        assert bad.value(b"www-authenticate") is not None
    request = tokens.origin.requests[-1]
    assert (request.values(b"x-sub"), request.values(b"authorization")) == ([b"alice"], [])


def test_jw_18_fetched_keys_are_renewed_when_a_token_names_a_new_one(mesh: Mesh) -> None:
    old, new = Issuer("old"), Issuer("new")
    server = KeyServer(mesh.pair.client, UNCAPTURED_PORT, old.jwks())
    try:
        uri = f"http://{CLIENT_IP}:{UNCAPTURED_PORT}/keys"
        mesh.pair.configure(authentication([{"issuer": URL, "jwksUri": uri}]))

        def status(issuer: Issuer) -> int:
            return mesh.ask(get("/", f"Authorization: Bearer {issuer.token()}")).statuses[0]

        assert mesh.origin.wait(lambda: status(old) == 200, 20), mesh.pair.server.admin("/certs")
        (row,) = json.loads(mesh.pair.server.admin("/certs"))["token_keys"]
        assert (row["address"], row["keys"], row["error"]) == (uri, 1, "")
        server.body = new.jwks()
        assert mesh.origin.wait(lambda: status(new) == 200, 30), "a key that is not there is looked for"
        assert status(old) == 401, "one that went away proves nothing any more"
        assert server.asked <= 8, "not once for each request"
        server.body = "nothing of the kind"
        assert status(new) == 200, "the last good keys stay"
    finally:
        mesh.pair.configure("# none\n")
        server.stop()


def test_a_token_loses_its_stream_when_its_issuer_goes(tokens: Mesh, issuer: Issuer) -> None:
    """A swap asks again, with the tokens of the request (DESIGN section 3)."""
    other = Issuer("k2")
    held = f"Authorization: Bearer {issuer.token(groups=['staff'])}"
    with wire.connect(tokens.pair, "outbound") as connection:
        connection.sendall(get("/a", held, "Transfer-Encoding: chunked", method="POST"))
        assert tokens.origin.wait(lambda: tokens.origin.connections[-1].received != b"")
        tokens.pair.configure(authentication([{"issuer": URL, "jwks": other.jwks()} | OUTPUTS], NEED_ALICE))
        heard = wire.listen(connection, 1)
        assert 200 not in heard.statuses, heard
