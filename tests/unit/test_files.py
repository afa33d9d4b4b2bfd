"""The directory source against a real file system: every way in which people and programs write files."""

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshdp.resources import Loaded
from meshdp.sources import files
from meshdp.sources.files import FileSource, read_once

SOON_S = 3.0  # less than `LOOK_EVERY_S`: a note wakes, not the look at everything


def document(name: str, **labels: str) -> str:
    written = ", ".join(f"{key}: {value}" for key, value in labels.items())
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{written}}}}}\n"


def names(loaded: Loaded) -> list[str]:
    return [resource.name for resource in loaded.resources]


def woken(source: FileSource, within_s: float = SOON_S) -> bool:
    """Wait as a user of the source does, until something is worth loading or the time is over."""
    deadline = time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0:
        select.select([source], [], [], min(left, source.wait_s()))
        if source.changed():
            return True
    return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.yaml").write_text(document("one"))
    return tmp_path / "conf"


@pytest.fixture
def source(folder: Path) -> Iterator[FileSource]:
    opened = FileSource([folder])
    assert names(opened.load()) == ["one"]
    yield opened
    opened.close()


def test_quiet_while_nothing_happens(source: FileSource, folder: Path) -> None:
    (folder / "a.yaml").read_text()
    assert source.wait_s() > 1
    assert not woken(source, 0.05)


def test_atomic_rename(source: FileSource, folder: Path) -> None:
    fresh = folder / ".a.yaml.new"
    fresh.write_text(document("two"))
    fresh.replace(folder / "a.yaml")
    assert woken(source)
    assert names(source.load()) == ["two"]
    assert not woken(source, 0.05)


def test_in_place_write(source: FileSource, folder: Path) -> None:
    (folder / "a.yaml").write_text(document("two"))
    assert woken(source)
    assert names(source.load()) == ["two"]


def test_new_file_and_removed_file(source: FileSource, folder: Path) -> None:
    (folder / "b.yml").write_text(document("two"))
    assert woken(source)
    assert names(source.load()) == ["one", "two"]
    (folder / "a.yaml").unlink()
    assert woken(source)
    assert names(source.load()) == ["two"]


def test_an_editor_that_keeps_a_backup_never_makes_the_document_vanish(source: FileSource, folder: Path) -> None:
    """vim with `backupcopy=no`: rename the old file away, write a new one, delete the backup."""
    os.rename(folder / "a.yaml", folder / "a.yaml~")
    with open(folder / "a.yaml", "w") as file:
        file.write(document("one", version="two"))
        file.flush()
        assert names(source.load()) == ["one"]
    (folder / "a.yaml~").unlink()
    assert woken(source)
    loaded = source.load()
    assert [dict(item.meta.labels) for item in loaded.resources] == [{"version": "two"}]


def test_half_written_file_is_not_believed_until_it_is_closed(source: FileSource, folder: Path) -> None:
    with open(folder / "a.yaml", "w") as file:
        file.write(document("two"))
        file.flush()
        woken(source, 0.05)
        assert names(source.load()) == ["one"], "half a file is no file"
        file.write("---\n" + document("three"))
    assert woken(source)
    assert names(source.load()) == ["three", "two"]


def test_truncated_file_is_not_an_empty_one(source: FileSource, folder: Path) -> None:
    fd = os.open(folder / "a.yaml", os.O_WRONLY | os.O_TRUNC)
    assert names(source.load()) == ["one"]
    os.close(fd)
    assert woken(source)
    loaded = source.load()
    assert names(loaded) == ["one"], "an empty file is what a full disk leaves"
    assert [finding.code for finding in loaded.errors] == ["MDP0108"]
    (folder / "a.yaml").write_text("# nothing any more\n")
    assert woken(source)
    assert names(source.load()) == []


def test_a_file_cut_off_in_place_is_not_believed_and_a_renamed_one_is(source: FileSource, folder: Path) -> None:
    whole = document("one") + "---\n" + document("two")
    (folder / "a.yaml").write_text(whole)
    assert names(source.load()) == ["one", "two"]
    (folder / "a.yaml").write_text(document("one"))
    loaded = source.load()
    assert names(loaded) == ["one", "two"]
    assert [finding.code for finding in loaded.errors] == ["MDP0108"]
    (folder / "a.yaml").write_text(whole)
    assert source.load().errors == (), "written whole again, there is nothing to say"
    (folder / "staged").write_text(document("one"))
    (folder / "staged").rename(folder / "a.yaml")
    assert names(source.load()) == ["one"]


def test_a_writer_that_never_closes_is_read_in_the_end(
    source: FileSource, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WRITING_LIMIT_S", 1.5)
    with open(folder / "a.yaml", "w") as file:
        file.write(document("two"))
        file.flush()
        assert woken(source, 1)
        assert names(source.load()) == ["one"]
        assert source.wait_s() <= 1.5
        assert woken(source)
        assert names(source.load()) == ["two"]


def test_symlink_swap_of_a_mounted_volume(tmp_path: Path) -> None:
    """What kubelet does with a ConfigMap: files are links through `..data`, which is renamed over."""
    volume = tmp_path / "volume"
    for version, name in (("..1", "one"), ("..2", "two")):
        (volume / version).mkdir(parents=True)
        (volume / version / "a.yaml").write_text(document(name))
    (volume / "..data").symlink_to("..1")
    (volume / "a.yaml").symlink_to("..data/a.yaml")
    source = FileSource([volume])
    assert names(source.load()) == ["one"]
    (volume / "..data_tmp").symlink_to("..2")
    os.rename(volume / "..data_tmp", volume / "..data")
    assert woken(source)
    assert names(source.load()) == ["two"]
    (volume / "..2" / "a.yaml").write_text(document("three"))
    assert woken(source), "the target of a link is watched too"
    assert names(source.load()) == ["three"]
    source.close()


def test_a_single_file_is_watched_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("one"))
    source = FileSource([path])
    assert names(source.load()) == ["one"]
    (tmp_path / "other.yaml").write_text("ignored")
    assert not woken(source, 0.05)
    path.write_text(document("two"))
    assert woken(source)
    assert names(source.load()) == ["two"]
    source.close()


def test_new_directories_are_followed(source: FileSource, folder: Path) -> None:
    deep = folder / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "x.yaml").write_text(document("two"))
    assert woken(source)
    assert names(source.load()) == ["one", "two"]
    (deep / "x.yaml").write_text(document("three"))
    assert woken(source)
    assert names(source.load()) == ["one", "three"]


def test_a_named_path_that_vanishes_keeps_what_it_said(source: FileSource, folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    assert woken(source)
    loaded = source.load()
    assert names(loaded) == ["one"]
    assert [finding.code for finding in loaded.findings] == ["MDP0107"]
    folder.with_name("away").rename(folder)
    assert woken(source)
    assert source.load().findings == ()


def test_a_broken_file_keeps_its_last_good_version(source: FileSource, folder: Path) -> None:
    (folder / "a.yaml").write_text("kind: [")
    assert woken(source)
    loaded = source.load()
    assert names(loaded) == ["one"]
    assert [finding.code for finding in loaded.findings] == ["MDP0101"]
    (folder / "a.yaml").write_text(document("two"))
    assert woken(source)
    loaded = source.load()
    assert (names(loaded), loaded.findings) == (["two"], ())


def test_what_is_no_yaml_file_is_left_alone(folder: Path) -> None:
    (folder / "README.md").write_text("kind: [")
    (folder / ".hidden.yaml").write_text("kind: [")
    os.mkfifo(folder / "pipe.yaml")
    loaded = read_once([folder])
    assert names(loaded) == ["one"]
    assert [(Path(found.where.file).name, found.message) for found in loaded.findings] == [
        ("pipe.yaml", "not a regular file")
    ]


def test_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_LIMIT", 1)
    monkeypatch.setattr(files, "FILE_SIZE_LIMIT_BYTES", 10)
    (folder / "b.yaml").write_text(document("two"))
    said = [finding.message for finding in read_once([folder]).findings]
    assert said == ["more than 1 files", "the file is larger than 10 bytes"]


def test_a_loop_of_links_ends(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "self.yaml").symlink_to("self.yaml")
    loaded = read_once([folder])
    assert "one" in names(loaded)


def test_many_renames_lose_none(source: FileSource, folder: Path) -> None:
    for turn in range(50):
        fresh = folder / ".new"
        fresh.write_text(document(f"turn-{turn}"))
        fresh.replace(folder / "a.yaml")
        assert woken(source)
        assert names(source.load()) == [f"turn-{turn}"]
