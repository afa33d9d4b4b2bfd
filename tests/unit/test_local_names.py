"""Addresses, hosts files and translation rules of a local mesh: pure functions with exact results."""

import ipaddress

import pytest

from meshdp.local.addresses import PODS, SERVICES, Pool, PoolExhausted
from meshdp.local.hosts import ServiceAddress, hosts_file, resolver_file
from meshdp.local.translation import Target, render


def test_addresses_do_not_depend_on_who_else_is_there() -> None:
    alone = Pool(PODS).assign(["default/details-v1"])
    together = Pool(PODS).assign(["default/ratings-v1", "default/details-v1", "default/reviews-v1"])
    assert together["default/details-v1"] == alone["default/details-v1"]


def test_addresses_are_distinct_inside_the_range_and_stay() -> None:
    pool = Pool(SERVICES)
    names = [f"default/service-{number}" for number in range(500)]
    first = pool.assign(names)
    assert len(set(first.values())) == 500
    network = ipaddress.ip_network(SERVICES)
    assert all(ipaddress.ip_address(address) in network for address in first.values())
    assert pool.assign([*names, "default/one-more"]).items() >= first.items()


def test_written_addresses_are_kept_and_given_to_nobody_else() -> None:
    free = Pool("10.0.0.0/23").assign(["a"])["a"]
    given = Pool("10.0.0.0/23").assign(["a", "b"], {"b": free})
    assert given["b"] == free
    assert given["a"] != free


def test_a_full_range_is_said_to_be_full() -> None:
    with pytest.raises(PoolExhausted, match=r"10\.0\.0\.0/23"):
        Pool("10.0.0.0/23").assign(str(number) for number in range(300))


def test_short_names_are_those_of_the_own_namespace() -> None:
    services = [ServiceAddress("default", "details", "10.96.1.1"), ServiceAddress("shop", "cart", "10.96.1.2")]
    lines = hosts_file(services, "default", ("details", "10.244.1.1")).splitlines()
    assert lines[1:] == [
        "127.0.0.1 localhost",
        "10.96.1.1 details details.default details.default.svc details.default.svc.cluster.local",
        "10.96.1.2 cart.shop cart.shop.svc cart.shop.svc.cluster.local",
        "10.244.1.1 details",
    ]


def test_the_resolver_searches_like_a_pod_and_fails_at_once() -> None:
    text = resolver_file("shop")
    assert "search shop.svc.cluster.local svc.cluster.local cluster.local" in text
    assert "nameserver 127.0.0.1" in text


def test_each_backend_gets_an_equal_share() -> None:
    target = Target("10.96.1.1", 80, (("10.244.0.1", 8080), ("10.244.0.2", 8080), ("10.244.0.3", 8080)))
    rules = [line for line in render([target]).splitlines() if "DNAT" in line]
    match = "-A MESHDP_SERVICES -d 10.96.1.1/32 -p tcp -m tcp --dport 80"
    assert rules == [
        f"{match} -m statistic --mode random --probability 0.33333333 -j DNAT --to-destination 10.244.0.1:8080",
        f"{match} -m statistic --mode random --probability 0.50000000 -j DNAT --to-destination 10.244.0.2:8080",
        f"{match} -j DNAT --to-destination 10.244.0.3:8080",
    ]


def test_a_service_without_backends_has_no_rule() -> None:
    assert "DNAT" not in render([Target("10.96.1.1", 80, ())])
