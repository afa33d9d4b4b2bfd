"""Text to raw documents: lines, traps of YAML 1.1, bounds."""

from __future__ import annotations

import pytest

from meshdp.documents import ALIASED_NODES_LIMIT, SIZE_LIMIT_BYTES, embedded, parse

HEAD = "apiVersion: v1\nkind: X\n"


def _codes(text: str | bytes) -> list[tuple[str, int]]:
    return [(finding.code, finding.where.line) for finding in parse(text, "f.yaml")[1]]


def test_lines_point_at_keys_and_items_of_every_document() -> None:
    documents, findings = parse(f"# one\n{HEAD}---\n{HEAD}spec:\n  rules:\n  - a: 1\n  - a: 2\n", "f.yaml")
    assert findings == []
    assert [document.where.line for document in documents] == [2, 5]
    assert documents[1].line_of(("spec", "rules", 1, "a")) == 10
    assert documents[1].line_of(("spec", "rules", 1, "missing")) == 10
    assert str(documents[1].where) == "f.yaml:5"


def test_a_broken_document_leaves_its_neighbours_alone() -> None:
    documents, findings = parse(f"{HEAD}---\nkind: [\n---\n{HEAD}", "f.yaml")
    assert [document.where.line for document in documents] == [1, 6]
    assert [(finding.code, finding.where.line) for finding in findings] == [("MDP0101", 5)]


def test_a_list_counts_as_its_items() -> None:
    items = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: A\n- apiVersion: v1\n  kind: B\n"
    documents, findings = parse(items, "f.yaml")
    assert findings == []
    assert [(document.kind, document.where.line) for document in documents] == [("A", 4), ("B", 6)]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2001-01-01", "2001-01-01"),
        ("22:22", "22:22"),
        ("1e3", 1000.0),
        ("on", True),
        ("No", False),
        ("y", "y"),
        ("0644", 420),
        ("0o17", 15),
        ("0x1F", 31),
        ("-1_000", -1000),
        ("1.5", 1.5),
        ('"8080"', "8080"),
        ("1.2.3.4", "1.2.3.4"),
        ("=", "="),
        ("0b", "0b"),
        ("089", "089"),
    ],
)
def test_scalars_read_as_kubectl_reads_them(written: str, value: object) -> None:
    documents, findings = parse(f"{HEAD}v: {written}\n", "f.yaml")
    assert findings == []
    assert documents[0].data["v"] == value
    assert type(documents[0].data["v"]) is type(value)


def test_null_fields_are_absent_and_keys_are_strings() -> None:
    documents, _ = parse(f"{HEAD}a: ~\nb:\nports: {{8080: x, true: z}}\n", "f.yaml")
    assert documents[0].data == {"apiVersion": "v1", "kind": "X", "ports": {"8080": "x", "true": "z"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HEAD}a: 1\na: 2\n", ("MDP0102", 4)),
        (f"{HEAD}a: .nan\n", ("MDP0106", 3)),
        (f"{HEAD}a: .inf\n", ("MDP0106", 3)),
        (f"{HEAD}a: !!python/object:os.system x\n", ("MDP0106", 3)),
        (f"{HEAD}a: !!binary aGk=\n", ("MDP0106", 3)),
        (f"{HEAD}a: &a {{b: 1}}\nc:\n  <<: *a\n", ("MDP0106", 5)),
        (f"{HEAD}? [a]\n: 1\n", ("MDP0106", 3)),
        (f"{HEAD}a:\n\tb: 1\n", ("MDP0101", 4)),
        ("- a\n", ("MDP0104", 1)),
        ("just text\n", ("MDP0104", 1)),
        ("kind: X\n", ("MDP0104", 1)),
        ("a: \x00\n", ("MDP0105", 1)),
        (b"a: 1\nb: \xff\n", ("MDP0105", 2)),
        (f"{HEAD}a: {'9' * 400}\n", ("MDP0106", 3)),
        (f"{HEAD}a: {'[' * 200}{']' * 200}\n", ("MDP0103", 3)),
        (f"{HEAD}a: {'[' * 10000}", ("MDP0103", 3)),
    ],
)
def test_what_cannot_be_an_object_is_one_finding_with_its_line(text: str | bytes, expected: tuple[str, int]) -> None:
    assert _codes(text) == [expected]


def test_cf_01_an_alias_bomb_is_refused_before_it_grows() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 10):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    ((code, _line),) = _codes(HEAD + bomb)
    assert code == "MDP0103"


def test_aliases_within_the_bound_are_expanded() -> None:
    documents, findings = parse(f"{HEAD}a: &x [1, 2]\nb: *x\n", "f.yaml")
    assert findings == []
    assert documents[0].data["b"] == [1, 2]


def test_text_without_aliases_is_bounded_by_its_size_alone() -> None:
    documents, findings = parse(f"{HEAD}a: [{'1,' * (ALIASED_NODES_LIMIT + 1)}]\n", "f.yaml")
    assert findings == []
    assert len(documents[0].data["a"]) == ALIASED_NODES_LIMIT + 1


def test_a_file_beyond_the_size_bound_is_not_read() -> None:
    assert _codes(" " * (SIZE_LIMIT_BYTES + 1)) == [("MDP0103", 1)]


@pytest.mark.parametrize("text", ["", "---\n", "# only a comment\n", "---\n---\n...\n", "%YAML 1.1\n---\n", "\ufeff"])
def test_nothing_is_nothing(text: str) -> None:
    assert parse(text, "f.yaml") == ([], [])


def test_a_byte_order_mark_is_skipped() -> None:
    documents, findings = parse(b"\xef\xbb\xbf" + HEAD.encode(), "f.yaml")
    assert len(documents) == 1
    assert findings == []


def test_a_block_string_keeps_the_lines_of_its_file() -> None:
    (outer,), _ = parse(f"{HEAD}data:\n  mesh: |-\n    a: 1\n    b: 2\n", "f.yaml")
    inner, findings = embedded(outer, ("data", "mesh"))
    assert inner is not None
    assert findings == []
    assert inner.line_of(("b",)) == 6
