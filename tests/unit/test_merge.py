"""What stays in force when documents break, vanish or collide."""

from meshdp.errors import Finding, Where
from meshdp.resources import Key, Resource, load
from meshdp.sources.merge import Reading, keep_last_good, merge

BROKEN = Finding.of("MDP0101", Where("a.yaml", 9), "", "", "broken")


def policy(name: str, action: str = "DENY", file: str = "a.yaml") -> Resource:
    """An AuthorizationPolicy; any other action than Istio's makes a broken one."""
    text = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: {name}, namespace: default}}\nspec: {{action: {action}, rules: [{{}}]}}\n"
    )
    return load([(file, text)]).resources[Key("AuthorizationPolicy", "default", name)]


def test_a_whole_reading_replaces_what_was() -> None:
    before = Reading([policy("one"), policy("two")])
    now = Reading([policy("two", "ALLOW")])
    assert list(keep_last_good(now, before).resources) == [policy("two", "ALLOW")]


def test_a_broken_document_keeps_what_vanished_from_its_file() -> None:
    kept = keep_last_good(
        Reading([policy("two", "ALLOW")], [BROKEN], whole=False), Reading([policy("one"), policy("two")])
    )
    assert list(kept.resources) == [policy("two", "ALLOW"), policy("one")]
    assert list(kept.findings) == [BROKEN]


def test_a_broken_policy_keeps_its_last_good_version() -> None:
    broken = policy("one", "NONSENSE")
    assert broken.broken
    assert list(keep_last_good(Reading([broken]), Reading([policy("one")])).resources) == [policy("one")]


def test_a_policy_broken_from_the_start_is_handed_on_to_fail_closed() -> None:
    broken = policy("one", "NONSENSE")
    assert list(keep_last_good(Reading([broken]), None).resources) == [broken]
    assert list(keep_last_good(Reading([broken]), Reading([broken])).resources) == [broken]


def test_the_last_good_version_survives_any_number_of_broken_ones() -> None:
    reading = Reading([policy("one")])
    for _ in range(3):
        reading = keep_last_good(Reading([policy("one", "NONSENSE")]), reading)
    assert list(reading.resources) == [policy("one")]


def test_of_two_documents_for_one_object_the_first_by_place_stays() -> None:
    first, second = policy("one", "DENY", "a.yaml"), policy("one", "ALLOW", "b.yaml")
    resources, findings = merge([Reading([second]), Reading([first])])
    assert resources[first.key] == first
    assert [finding.code for finding in findings] == ["MDP0206"]
    assert findings[0].where.file == "b.yaml"
