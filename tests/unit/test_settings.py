"""Settings: what wins, what is refused, and the document the engine reads."""

import json
from itertools import pairwise

import pytest

from meshdp import __version__, settings


def read(environment: dict[str, str] | None = None, **flags: object) -> settings.Settings:
    return settings.read({"workload": "default/details", "feed": "/feed", **flags}, environment or {})


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    chosen = read({"MESHDP_CONCURRENCY": "4", "MESHDP_DRAIN_S": "1.5"}, concurrency=2)
    assert (chosen.concurrency, chosen.drain_s, chosen.outbound) == (2, 1.5, "0.0.0.0:15001")


def test_a_flag_that_was_not_given_is_none_and_does_not_count() -> None:
    assert read({"MESHDP_ACCESS_LOG": "off"}, access_log=None).access_log == "off"


def test_the_engine_reads_its_part_as_json() -> None:
    document = json.loads(read(identity="spiffe://cluster.local/ns/default/sa/details").for_engine())
    assert document == {
        "workload": "default/details",
        "concurrency": 1,
        "outbound": "0.0.0.0:15001",
        "inbound": "0.0.0.0:15006",
        "admin": "127.0.0.1:15000",
        "status": "0.0.0.0:15020",
        "readiness": "0.0.0.0:15021",
        "metrics": "0.0.0.0:15090",
        "inbound_source": "127.0.0.6",
        "access_log": "stdout",
        "feed": "/feed",
        "csr_socket": None,
        "identity": "spiffe://cluster.local/ns/default/sa/details",
        "post_quantum": True,
        "mark": None,
        "single_instance": True,
        "limits": {"idle_ms": 300_000, "keepalive_ms": 120_000},
        "version": __version__,
    }


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        ({"workload": None}, {}, "name it with --workload NAMESPACE/NAME"),
        ({"workload": "details"}, {}, "--workload details: expected NAMESPACE/NAME"),
        ({"workload": "a/b/c"}, {}, "--workload a/b/c: expected NAMESPACE/NAME"),
        ({"feed": None}, {}, "--feed SOCKET or --config DIR"),
        ({"config": "d", "credentials": "c"}, {}, "--feed SOCKET or --config DIR"),
        ({"feed": None, "config": "d"}, {}, "--config needs certificates from one place: --credentials DIR"),
        ({"feed": None, "config": "d", "credentials": "c", "csr_socket": "s"}, {}, "certificates from one place"),
        ({"credentials": "c"}, {}, "a feed brings the certificate"),
        ({"csr_socket": "s"}, {}, "a feed brings the certificate"),
        ({"concurrency": 0}, {}, "--concurrency 0: expected 1 to 256"),
        ({"uid": "-1"}, {}, "--uid -1: expected 0 or more"),
        ({"mark": "0"}, {}, "--mark 0x0: expected 1 to 0xffffffff"),
        ({"mark": "0x100000000"}, {}, "--mark 0x100000000: expected 1 to 0xffffffff"),
        ({}, {"MESHDP_MARK": "ours"}, "MESHDP_MARK=ours: expected a number"),
        ({"drain_s": "-1"}, {}, "--drain-s -1.0: expected 0 or more seconds"),
        ({"drain_s": "nan"}, {}, "--drain-s nan: expected 0 or more seconds"),
        ({"keepalive_s": "inf"}, {}, "--keepalive-s inf: expected seconds, or 0 for never"),
        ({"idle_s": "0"}, {}, "--idle-s 0.0: expected more than 0 seconds"),
        ({}, {"MESHDP_KEEPALIVE_S": "-5"}, "--keepalive-s -5.0: expected seconds, or 0 for never"),
        ({"inbound": "15006"}, {}, "--inbound 15006: expected ADDRESS:PORT, such as 0.0.0.0:15006"),
        ({"admin": "127.0.0.1:99999"}, {}, "--admin 127.0.0.1:99999: expected ADDRESS:PORT"),
        ({}, {"MESHDP_CONCURRENCY": "many"}, "MESHDP_CONCURRENCY=many: expected a number"),
        ({}, {"MESHDP_POST_QUANTUM": "maybe"}, "MESHDP_POST_QUANTUM=maybe: expected true or false"),
        ({}, {"MESHDP_UID": "proxy"}, "MESHDP_UID=proxy: expected a number"),
    ],
)
def test_refusals_name_the_flag_and_what_is_expected(
    flags: dict[str, object], environment: dict[str, str], said: str
) -> None:
    with pytest.raises(settings.SettingsError, match=said.replace("(", r"\(")):
        read(environment, **flags)


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError, match="frozen: uid"):
        read().uid = 0


def test_two_listeners_cannot_share_a_port() -> None:
    ports = [getattr(read(), name).rpartition(":")[2] for name in settings.ADDRESSES]
    assert all(first != second for first, second in pairwise(sorted(ports)))
    with pytest.raises(settings.SettingsError, match="--inbound and --outbound"):
        read(inbound="0.0.0.0:15001")
