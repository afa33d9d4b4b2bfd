"""A denied gRPC call over HTTP/1.1 is told so in gRPC's words, as recorded of Envoy (authz-verdicts 0277, 0278)."""

from __future__ import annotations

import pytest

from tests.support import wire
from tests.support.mesh import Mesh, get, position

DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-calls, namespace: default}
spec: {selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {paths: ["/pkg.Svc/*"]}}]}]}
"""


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_a_denied_call_over_http_1_has_a_grpc_status(mesh: Mesh, direction: str) -> None:
    mesh.pair.configure(DENY)
    at = position(mesh.pair.server)
    with wire.connect(mesh.pair, direction) as connection:
        for content_type, status, told in (
            ("application/grpc", 200, b"7"),
            ("application/grpc+proto", 200, b"7"),
            ("application/json", 403, None),
        ):
            fields = (f"Content-Type: {content_type}", "Content-Length: 5")
            connection.sendall(get("/pkg.Svc/Get", *fields, method="POST", body=b"\0\0\0\0\0"))
            (answer,) = wire.listen(connection, 1).answers
            assert (answer.status, answer.value(b"grpc-status")) == (status, told)
            assert answer.body == (b"" if told else b"RBAC: access denied")
            assert answer.value(b"grpc-message") == (b"RBAC: access denied" if told else None)
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/pkg.Svc/Get")
    assert (line["response_code"], line["response_code_details"]) == (200, "rbac_denied")
    mesh.pair.configure("# none\n")
