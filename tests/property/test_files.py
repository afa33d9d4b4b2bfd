"""The directory source against a small model: whatever is written, what is in force is the last good version."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from meshdp.sources.files import FileSource

NAMES = ("one", "two", "three")
GOOD, BAD_FIELD, BAD_YAML = "good", "bad field", "bad yaml"

# One writing of the file: for each name it holds, a version and whether that document is in order.
WRITINGS = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(st.integers(0, 9), st.sampled_from((GOOD, BAD_FIELD, BAD_YAML)))
)


def text_of(writing: dict[str, tuple[int, str]]) -> str:
    """Namespaces whose label is their version; the broken ones in two ways."""
    documents = []
    for name, (version, state) in writing.items():
        label = "[" if state == BAD_YAML else f"{{version: 'v{version}'}}"
        kind = "kind: Namespace\nmetadata:" if state != BAD_FIELD else "kind: Namespace\nmetadata: 7\nwrong:"
        documents.append(f"apiVersion: v1\n{kind} {{name: {name}, labels: {label}}}\n")
    return "---\n".join(documents)


def expected(writing: dict[str, tuple[int, str]], before: dict[str, int]) -> dict[str, int]:
    """The rule of `sources.merge`, said another way."""
    now = {name: version for name, (version, state) in writing.items() if state == GOOD}
    is_whole = all(state == GOOD for _, state in writing.values())
    return now if is_whole else before | now


@settings(max_examples=60, deadline=None)
@given(st.lists(WRITINGS, min_size=1, max_size=6))
def test_what_is_in_force_is_the_last_good_version(writings: list[dict[str, tuple[int, str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.yaml")
        source = FileSource([Path(folder)])
        in_force: dict[str, int] = {}
        for number, writing in enumerate(writings):
            # Said anew each time: a mere beginning of what stood there would be taken for cut off.
            path.write_text(f"# {number}\n{text_of(writing)}")
            loaded = source.load()
            in_force = expected(writing, in_force)
            found = {item.name: int(item.meta.labels["version"][1:]) for item in loaded.resources}
            assert found == in_force
            assert bool(loaded.errors) == any(state != GOOD for _, state in writing.values())
        source.close()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_can_stop_the_source(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.yaml")
        path.write_text(text_of({"one": (1, GOOD)}))
        source = FileSource([path])
        source.load()
        path.write_bytes(content)
        loaded = source.load()
        assert not loaded.errors or [item.name for item in loaded.resources] == ["one"]
        source.close()
