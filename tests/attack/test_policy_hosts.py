"""Hosts and headers that claim something: which of them policy believes, which reach the application.

In:     a pair with its application; policies on hosts, headers and addresses.
Source: attack cases 2.5; istio-semantics D.3 and D.4; istio-observed 1, 2, 7; decision 0003 (x-forwarded-client-cert).
"""

from __future__ import annotations

import pytest

from tests.attack.policies import CLIENT, Judged, head, in_force, judged, policy, source, to, when
from tests.support.mesh import Mesh


def ask(mesh: Mesh, *fields: str, host: str = "server", direction: str = "inbound") -> Judged:
    return judged(mesh, head("/", *fields, host=host), direction)


def test_hd_01_hosts_are_compared_without_case(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to("hosts: [Secret.com]")))
    assert [ask(mesh, host=host).status for host in ("secret.com", "SECRET.COM", "sEcret.cOm", "secret.org")] == [
        403
    ] * 3 + [200]


def test_hd_02_a_port_is_part_of_the_host_as_in_istio(mesh: Mesh) -> None:
    """Deviation from the catalogue, which wants both: Istio compares `:authority` whole (D.3); `authz check` names such rules."""
    in_force(mesh, policy("DENY", to("hosts: [secret.com]")))
    assert [ask(mesh, host=host).status for host in ("secret.com", "secret.com:80", "secret.com.")] == [403, 200, 200]
    in_force(mesh, policy("DENY", to('hosts: [secret.com, "secret.com:*"]')))
    assert [ask(mesh, host=host).status for host in ("secret.com", "secret.com:80", "secret.com:8080")] == [403] * 3


def test_hd_03_what_is_not_ascii_is_no_host(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to("hosts: [xn--bcher-kva.example]")))
    assert ask(mesh, host="xn--bcher-kva.example").status == 403
    assert ask(mesh, host="b\xfccher.example").status == 400


@pytest.mark.parametrize(
    ("host", "status"), [("[::1]", 403), ("[fe80::1%25eth0]", 400), ("fe80::1%eth0", 400), ("[::1", 400), ("::1]", 400)]
)
def test_hd_04_addresses_in_the_place_of_a_host(mesh: Mesh, host: str, status: int) -> None:
    in_force(mesh, policy("DENY", to('hosts: ["[::1]"]')))
    assert ask(mesh, host=host).status == status


def test_hd_05_each_rule_reads_its_own_field(mesh: Mesh) -> None:
    """The server name of the mesh's handshake and the Host of a request in it are two things."""
    in_force(
        mesh, policy("DENY", when("connection.sni", 'values: ["outbound_.9080_._.server.default.svc.cluster.local"]'))
    )
    assert ask(mesh, direction="outbound").status == 403
    assert ask(mesh, host="outbound_.9080_._.server.default.svc.cluster.local").status == 200


def test_hd_06_a_repeated_header_is_matched_value_by_value(mesh: Mesh) -> None:
    key = "request.headers[x-role]"
    in_force(mesh, policy("DENY", when(key, "values: [bad]")))
    assert ask(mesh, "X-Role: good", "x-role: bad").status == 403
    assert ask(mesh, "x-role: bad", "x-role: good").status == 403
    # istio-observed 1: a joined value is one value, which is another.
    assert ask(mesh, "x-role: good,bad").status == 200
    in_force(mesh, policy("ALLOW", when(key, "values: [good]")))
    assert [
        ask(mesh, *fields).status for fields in (("x-role: good",), ("x-role: good", "x-role: bad"), ("x-role: bad",))
    ] == [200, 200, 403]
    in_force(mesh, policy("ALLOW", when(key, "notValues: [bad]")))
    assert [ask(mesh, *fields).status for fields in ((), ("x-role: good", "x-role: bad"))] == [200, 403]


FORGED = f"By=spiffe://x;Hash=00;URI=spiffe://{CLIENT}"


@pytest.mark.parametrize(
    "value", [FORGED, f'Subject="a,b";{FORGED},{FORGED}', "," * 2000, '"' * 999, f"URI=spiffe://{CLIENT};" * 200]
)
def test_hd_07_a_forged_client_certificate_says_nothing(mesh: Mesh, value: str) -> None:
    in_force(mesh, policy("ALLOW", source(f"principals: ['{CLIENT}']")))
    assert ask(mesh, f"x-forwarded-client-cert: {value}").status == 403
    in_force(mesh)
    (request,) = ask(mesh, f"x-forwarded-client-cert: {value}").reached
    assert request.values(b"x-forwarded-client-cert") == []
    (request,) = ask(mesh, direction="outbound").reached
    (element,) = request.values(b"x-forwarded-client-cert")
    assert element.endswith(f"URI=spiffe://{CLIENT}".encode()) and b"," not in element


def test_hd_08_the_socket_is_the_source_and_the_last_forwarded_address_the_client(mesh: Mesh) -> None:
    in_force(mesh, policy("ALLOW", source('ipBlocks: ["192.0.2.0/24"]')))
    assert ask(mesh, "x-forwarded-for: 192.0.2.1").status == 403
    in_force(mesh, policy("ALLOW", source('remoteIpBlocks: ["192.0.2.0/24"]')))
    for value, allowed in (
        ("192.0.2.1", True),
        ("198.51.100.1, 192.0.2.1", True),
        ("192.0.2.1, 198.51.100.1", False),
        ("192.0.2.1:80", False),
        ("192.0.2.1,", False),
        ("garbage", False),
        ("192.0.2.1, ::ffff:192.0.2.1", False),
        (",".join(["192.0.2.1"] * 2000), True),
    ):
        assert (ask(mesh, f"x-forwarded-for: {value}").status == 200) is allowed, value[:60]
    assert ask(mesh, "x-forwarded-for: 192.0.2.1", "x-forwarded-for: 198.51.100.1").status == 403
    assert ask(mesh).status == 403
    in_force(mesh, policy("DENY", source('notRemoteIpBlocks: ["2001:db8::/32"]')))
    assert [ask(mesh, f"x-forwarded-for: {ip}").status for ip in ("2001:db8::1", "2001:db9::1", "192.0.2.1")] == [
        200,
        403,
        403,
    ]


@pytest.mark.parametrize(
    "name", ["x-forwarded-host", "x-forwarded-port", "forwarded", "x-http-method-override", "x-original-host"]
)
def test_hd_10_hd_15_what_a_header_says_of_host_method_and_port_decides_nothing(mesh: Mesh, name: str) -> None:
    in_force(mesh, policy("DENY", to("hosts: [secret.com]")), policy("DENY", to("methods: [DELETE]"), name="q"))
    value = {
        "x-forwarded-port": "1",
        "forwarded": "for=1.2.3.4;host=secret.com",
        "x-http-method-override": "DELETE",
    }.get(name, "secret.com")
    assert ask(mesh, f"{name}: {value}").status == 200
    assert ask(mesh, f"{name}: other.com", host="secret.com").status == 403
    assert judged(mesh, head("/", f"{name}: GET", method="DELETE")).status == 403


@pytest.mark.parametrize(
    "field",
    [
        "x-request-id: " + "a" * 10_000,
        "traceparent: broken",
        "b3: x",
        "traceparent: " + "0" * 10_000,
        "x-b3-traceid: zz",
    ],
)
def test_hd_13_odd_trace_headers_harm_nobody(mesh: Mesh, field: str) -> None:
    in_force(mesh)
    found = ask(mesh, field)
    assert found.status in (200, 431)
    for request in found.reached:
        assert len(request.values(field.partition(":")[0].encode())) == 1
    assert ask(mesh).status == 200


def test_hd_12_hd_16_headers_of_ours_that_a_client_sends_are_gone_in_every_spelling(mesh: Mesh) -> None:
    in_force(mesh)
    (request,) = ask(
        mesh, "X-Forwarded-Client-Cert: a", "x-forwarded-client-cert: b", "X-FORWARDED-CLIENT-CERT: c"
    ).reached
    assert request.values(b"x-forwarded-client-cert") == []


@pytest.mark.parametrize(
    "name", ["x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms", "x-envoy-decorator-operation", "X-Envoy-Internal"]
)
def test_hd_09_control_headers_of_whoever_proved_nothing_go_no_further(mesh: Mesh, name: str) -> None:
    """And none is honoured; gateways of the mesh tell applications with some of them where a call came from (decision 0141)."""
    in_force(mesh)
    for direction, kept in (("inbound", []), ("outbound", [b"1"])):
        (request,) = ask(mesh, f"{name}: 1", direction=direction).reached
        assert request.values(name.lower().encode()) == kept, direction
