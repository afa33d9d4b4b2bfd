"""What policies mean, on sockets: combination, layers, identities, addresses, selection, dry run, and each form of a denial.

In:     a pair with its applications; policies one after another. Two judges agree on random ones in tests/property and native/model.
Source: attack cases 2.6; istio-semantics D; conformance/authz-verdicts holds what a real istiod and Envoy answered.
"""

from __future__ import annotations

import json
import socket
import time

import pytest

from tests.attack.policies import CLIENT, head, in_force, judged, peer_authentication, policy, source, to, when
from tests.support import wire
from tests.support.http2 import Client
from tests.support.mesh import Mesh, position
from tests.support.pair import HTTP_PORT, SERVER_IP, TCP_PORT

ALL, NONE = "[{}]", "[]"


def ask(mesh: Mesh, target: str = "/", direction: str = "inbound") -> int:
    return judged(mesh, head(target), direction).status


def echoed(mesh: Mesh, direction: str = "inbound") -> bool:
    """Whether the opaque application answers."""
    try:
        with wire.connect(mesh.pair, direction, TCP_PORT) as connection:
            connection.settimeout(5)
            connection.sendall(b"E" + b"x" * 8)
            return connection.recv(8) == b"x" * 8
    except OSError:
        return False


@pytest.mark.parametrize(
    ("documents", "status"),
    [
        ((), 200),
        ((policy("ALLOW", NONE),), 403),
        ((policy("ALLOW", ALL),), 200),
        ((policy("DENY", ALL),), 403),
        ((policy("AUDIT", ALL),), 200),
        ((policy("ALLOW", ALL), policy("DENY", ALL, name="q")), 403),
        ((policy("ALLOW", NONE), policy("ALLOW", ALL, name="q")), 200),
        ((policy("ALLOW", ALL), policy("AUDIT", ALL, name="q")), 200),
    ],
)
def test_az_01_az_02_combinations(mesh: Mesh, documents: tuple[str, ...], status: int) -> None:
    in_force(mesh, *documents)
    assert (ask(mesh), echoed(mesh)) == (status, status == 200)


def test_az_01_a_deny_without_rules_is_refused_and_then_denies(mesh: Mesh) -> None:
    """istio-observed 13: a webhook refuses it; what reaches us all the same fails closed."""
    in_force(mesh, policy("DENY", NONE, name="none"))
    assert ask(mesh) == 403


@pytest.mark.parametrize("field", ["methods: [GET]", 'paths: ["/*"]', 'hosts: ["*"]'])
def test_az_03_az_04_fields_of_http_on_opaque_connections(mesh: Mesh, field: str) -> None:
    in_force(mesh, policy("ALLOW", to(field)))
    assert (ask(mesh), echoed(mesh)) == (200, False), "the rule never matches there, and the policy still is one"
    in_force(
        mesh, policy("DENY", to(field.replace("GET", "DELETE").replace('"/*"', '"/no"').replace('"*"', '"no.com"')))
    )
    assert (ask(mesh), echoed(mesh)) == (200, False), "the rest of the rule is wider there"
    in_force(mesh, policy("DENY", to(f"{field.replace('GET', 'DELETE')}, ports: ['{HTTP_PORT}']")))
    assert echoed(mesh), "what the rest does not name stays open"
    in_force(mesh, policy("AUDIT", to(field)))
    assert echoed(mesh)


def test_az_05_a_plaintext_caller_is_nobody(mesh: Mesh) -> None:
    for rules in (
        source('principals: ["*"]'),
        source("namespaces: [default]"),
        source('namespaces: ["*"]'),
        when("source.principal", 'values: ["*"]'),
    ):
        in_force(mesh, policy("ALLOW", rules))
        assert (ask(mesh), ask(mesh, direction="outbound")) == (403, 200), rules
    in_force(mesh, policy("DENY", source(f"notPrincipals: ['{CLIENT}']")))
    assert (ask(mesh), ask(mesh, direction="outbound")) == (403, 200)
    in_force(mesh, policy("DENY", source("notNamespaces: [default]")))
    assert (ask(mesh), ask(mesh, direction="outbound")) == (403, 200)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (f"principals: ['{CLIENT}']", True),
        ("principals: ['*/sa/client']", True),
        ("principals: ['cluster.local/ns/default/*']", True),
        ("principals: ['other.local/ns/default/sa/client']", False),
        ("principals: ['cluster.local/ns/default/sa/clien']", False),
        ("serviceAccounts: [client]", True),
        ("serviceAccounts: [default/client]", True),
        ("serviceAccounts: [other/client]", False),
        ("serviceAccounts: [c.ient]", False),
        ("trustDomains: [cluster.local]", True),
        ("trustDomains: ['*.local']", True),
        ("trustDomains: [clusterxlocal]", False),
        ("notTrustDomains: [cluster.local]", False),
        ("namespaces: ['def*t']", True),
        ("namespaces: ['def.*']", False),
    ],
)
def test_az_06_identities(mesh: Mesh, text: str, allowed: bool) -> None:
    in_force(mesh, policy("ALLOW", source(text)))
    assert ask(mesh, direction="outbound") == (200 if allowed else 403)


def test_az_07_addresses_and_networks(mesh: Mesh) -> None:
    for block, inside in (
        ("10.99.0.1", True),
        ("10.99.0.1/32", True),
        ("10.99.0.7/24", True),  # host bits set
        ("0.0.0.0/0", True),
        ("10.99.0.2/32", False),
        ("10.98.0.0/16", False),
        ("::/0", False),
        ("::ffff:10.99.0.1", False),  # istio-observed 7: another family
    ):
        in_force(mesh, policy("ALLOW", source(f"ipBlocks: ['{block}']")))
        assert (ask(mesh) == 200) is inside, block
        in_force(mesh, policy("ALLOW", source(f"notIpBlocks: ['{block}']")))
        assert (ask(mesh) == 403) is inside, block


def test_az_08_ports_are_those_the_workload_was_asked_on(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to(f"ports: ['{HTTP_PORT}']")))
    assert [ask(mesh), ask(mesh, direction="outbound"), echoed(mesh)] == [403, 403, True]
    in_force(mesh, policy("DENY", to(f"notPorts: ['{HTTP_PORT}']")))
    assert [ask(mesh), echoed(mesh)] == [200, False]
    in_force(mesh, policy("DENY", when("destination.port", "values: ['15006']")))
    assert ask(mesh) == 200, "the port that the redirection leads to is nobody's"
    in_force(mesh, policy("DENY", when("destination.ip", f"values: ['{SERVER_IP}']")))
    assert ask(mesh) == 403


def test_az_09_selectors_and_the_root_namespace(mesh: Mesh) -> None:
    deny = policy("DENY", ALL)
    elsewhere = deny.replace("namespace: default", "namespace: elsewhere")
    root = deny.replace("namespace: default", "namespace: istio-system")
    in_force(mesh, elsewhere)
    assert ask(mesh) == 200
    in_force(mesh, root)
    assert ask(mesh) == 403
    in_force(mesh, policy("DENY", ALL, selector="{app: other}"))
    assert ask(mesh) == 200
    in_force(mesh, policy("DENY", ALL, selector="{}"))
    assert ask(mesh) == 403


def test_az_10_conditions(mesh: Mesh) -> None:
    for key, values, inbound, outbound in (
        ("source.namespace", "values: [default]", 403, 200),
        ("source.principal", f"notValues: ['{CLIENT}']", 200, 403),
        ("source.serviceAccount", "values: [client]", 403, 200),
        ("source.trustDomain", "values: [cluster.local]", 403, 200),
        ("source.ip", "values: ['10.99.0.0/24']", 200, 200),
        ("connection.sni", 'values: ["*"]', 403, 200),
        ("connection.sni", 'notValues: ["*"]', 200, 403),
        ("request.headers[x-nonce]", 'values: ["*"]', 200, 200),
        ("request.headers[x-none]", 'notValues: ["*"]', 200, 200),
        ("request.headers[:path]", "values: [/]", 200, 200),
    ):
        in_force(mesh, policy("ALLOW", when(key, values)))
        assert (ask(mesh), ask(mesh, direction="outbound")) == (inbound, outbound), (key, values)
    in_force(mesh, policy("ALLOW", when("source.nonsense", "values: [x]"), name="unknown"))
    assert ask(mesh) == 403


def test_az_11_every_request_of_a_connection_is_judged(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to('paths: ["/no*"]')))
    asked = ["/a", "/no", "/b", "/nope", "/c"]
    for direction in wire.DIRECTIONS:
        with wire.connect(mesh.pair, direction) as connection:
            wire.send_pieces(connection, [b"".join(head(target) for target in asked)])
            assert wire.listen(connection, len(asked), 5).statuses == [200, 403, 200, 403, 200]
    with Client(wire.connect(mesh.pair, "inbound")) as client:
        assert [client.ask(target).status for target in asked] == [200, 403, 200, 403, 200]


def test_az_12_an_opaque_connection_ends_within_a_second_of_losing_its_permit(mesh: Mesh) -> None:
    in_force(mesh)
    with wire.connect(mesh.pair, "inbound", TCP_PORT) as connection:
        connection.settimeout(10)
        connection.sendall(b"Ex")
        assert connection.recv(1) == b"x"
        in_force(mesh, policy("DENY", to(f"ports: ['{TCP_PORT}']")))
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_az_15_dry_runs_and_audits_are_told_of_and_decide_nothing(mesh: Mesh) -> None:
    dry = ", annotations: {istio.io/dry-run: 'true'}"
    in_force(
        mesh,
        policy("DENY", to("paths: [/dry-a]"), name="d", more=dry),
        policy("ALLOW", to("paths: [/dry-b]"), name="w", more=dry),
        policy("AUDIT", to("paths: [/dry-a]"), name="x"),
    )
    at = position(mesh.pair.server)
    assert [ask(mesh, "/dry-a"), ask(mesh, "/dry-b")] == [200, 200]
    rule = "ns[default]-policy[{}]-rule[0]".format
    for path, said in (
        ("/dry-a", f"deny=denied:{rule('d')},allow=denied,audit=matched:{rule('x')}"),
        ("/dry-b", f"deny=allowed,allow=allowed:{rule('w')}"),
    ):
        line = mesh.logged(mesh.pair.server, at, lambda line, path=path: line["path"] == path)
        assert line["shadow_policy"] == said
    counted = mesh.pair.server.admin("/stats/prometheus").splitlines()
    row = 'meshdp_policy_shadow_total{action="deny",result="denied",policy="default/d"} '
    assert sum(int(line.rpartition(" ")[2]) for line in counted if line.startswith(row)) >= 1
    assert echoed(mesh)
    said = f"deny=denied:{rule('d')},allow=denied,audit=matched:{rule('x')}"
    mesh.logged(mesh.pair.server, at, lambda line: line["method"] is None and line["shadow_policy"] == said)


def test_the_form_of_a_denial_names_the_rule_in_the_log_and_in_the_metric(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", f"[{to('paths: [/never]')[1:-1]}, {to('paths: [/no-form]')[1:-1]}]", name="form"))
    at = position(mesh.pair.server)
    found = judged(mesh, head("/no-form"))
    assert found.answer is not None
    assert (found.status, found.answer.body) == (403, b"RBAC: access denied")
    assert found.answer.value(b"content-type") == b"text/plain"
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/no-form")
    detail = "rbac_access_denied_matched_policy[ns[default]-policy[form]-rule[1]]"
    assert line["connection_termination_details"].startswith(detail)
    assert json.loads(mesh.pair.server.admin("/stats"))["denied"]["default/form"] >= 1
    with Client(wire.connect(mesh.pair, "inbound")) as client:
        call = client.ask("/no-form", ("content-type", "application/grpc"), ("te", "trailers"), method="POST")
        assert (call.status, call.value(b"grpc-status") or call.trailer(b"grpc-status")) == (200, b"7")
    in_force(mesh, policy("DENY", to(f"ports: ['{TCP_PORT}']"), name="form"))
    at = position(mesh.pair.server)
    assert not echoed(mesh)
    detail = "rbac_access_denied_matched_policy[ns[default]-policy[form]-rule[0]]"
    told = lambda line: (line["connection_termination_details"] or "").startswith(detail)  # noqa: E731
    assert mesh.logged(mesh.pair.server, at, told)["response_flags"] == "UAEX"


@pytest.mark.parametrize(
    "broken",
    ["action: NEVER", "action: ALLOW, typo: 1", "action: ALLOW, rules: 7", "action: AUDIT, rules: [{from: []}]"],
)
def test_az_18_a_policy_that_cannot_be_read_denies_for_what_it_selects(mesh: Mesh, broken: str) -> None:
    in_force(mesh)
    text = f"---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: broken}}\nspec: {{{broken}}}\n"
    in_force(mesh, text)
    assert (ask(mesh), echoed(mesh)) == (403, False)
    other = "spec: {selector: {matchLabels: {app: other}}, "
    in_force(mesh, text.replace("spec: {", other).replace("name: broken", "name: others"))
    assert (ask(mesh), echoed(mesh)) == (200, True)


def test_az_16_many_policies_cost_no_time(mesh: Mesh) -> None:
    """1,000 rules that nearly match: what a request waits does not grow with them. The figures are in bench/."""
    rules = ", ".join(to(f'paths: ["/p{number}/*"], hosts: ["h{number}.example"]')[1:-1] for number in range(100))
    in_force(mesh, *(policy("DENY", f"[{rules}]", name=f"p{number}") for number in range(10)))
    started = time.monotonic()
    assert {ask(mesh, f"/p{number}/x") for number in range(50)} == {200}
    assert time.monotonic() - started < 10


def test_tl_01_tl_20_strict_answers_nobody_without_a_certificate(mesh: Mesh) -> None:
    in_force(mesh, peer_authentication("STRICT"))
    before = mesh.origin.received()
    for data in (head("/"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(range(256)), b"\x16\x03\x01"):
        with wire.connect(mesh.pair, "inbound") as connection:
            connection.settimeout(10)
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b"", data
    assert mesh.origin.received() == before
    assert ask(mesh, direction="outbound") == 200


def test_tl_27_permissive_takes_both_on_one_port_and_plaintext_is_nobody(mesh: Mesh) -> None:
    in_force(mesh, peer_authentication("PERMISSIVE"))
    at = position(mesh.pair.server)
    assert [ask(mesh, "/plain"), ask(mesh, "/mutual", "outbound")] == [200, 200]
    for path, principal in (("/plain", None), ("/mutual", f"spiffe://{CLIENT}")):
        line = mesh.logged(mesh.pair.server, at, lambda line, path=path: line["path"] == path)
        assert line["source_principal"] == principal


def test_tl_28_strict_ends_plaintext_that_was_permitted(mesh: Mesh) -> None:
    in_force(mesh, peer_authentication("PERMISSIVE"))
    with wire.connect(mesh.pair, "inbound", TCP_PORT) as connection:
        connection.settimeout(10)
        connection.sendall(b"Ex")
        assert connection.recv(1) == b"x"
        in_force(mesh, peer_authentication("STRICT"))
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert not echoed(mesh)
