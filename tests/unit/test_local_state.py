"""State on disk: one writer a mesh, a lock that tells the living from the dead, names that people type."""

import os
from argparse import Namespace
from pathlib import Path

import pytest

from meshdp.commands import down
from meshdp.errors import MeshdpError, Refused, Unreachable, UsageError
from meshdp.local import homes
from meshdp.local import state as states
from meshdp.local.report import table
from meshdp.local.state import Folder, InstanceState, MeshState, ProcessState


def instance(name: str, workload: str, namespace: str = "default") -> InstanceState:
    return InstanceState(namespace, name, workload, "default", "10.244.1.1", "port1", True, ProcessState(1, 1))


def mesh(*instances: InstanceState) -> MeshState:
    process = ProcessState(1, 1)
    return MeshState("bookinfo", "mesh.yaml", process, process, "someone", instances=list(instances))


@pytest.fixture(autouse=True)
def _own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHDP_STATE_DIR", str(tmp_path / "state"))


def test_a_mesh_has_one_writer_and_leaves_nothing() -> None:
    first = Folder("bookinfo")
    first.acquire()
    assert Folder("bookinfo").held
    with pytest.raises(Refused, match="is up already"):
        Folder("bookinfo").acquire()
    first.write(mesh(instance("a", "a")))
    assert Folder("bookinfo").read() == mesh(instance("a", "a"))
    first.release()
    assert not first.path.parent.exists()
    assert not Folder("bookinfo").held


def test_asking_leaves_no_trace() -> None:
    assert not Folder("bookinfo").held
    assert not Folder("bookinfo").path.parent.exists()


def test_pr_03_of_a_crash_only_the_authority_and_the_logs_stay() -> None:
    folder = Folder("bookinfo")
    assert not folder.acquire()
    folder.authority.mkdir()
    for name in (
        "authority/root-key.pem",
        "logs/a.b.log",
        "files/a.b",
        "feed/1",
        "up.log",
        "state.json",
        "state.json.new",
    ):
        (folder.path / name).write_text(name)
    folder.leave()  # the crash
    again = Folder("bookinfo")
    assert again.acquire()
    files = {str(path.relative_to(again.path)) for path in again.path.rglob("*") if path.is_file()}
    assert files == {"authority/root-key.pem", "logs/a.b.log.1", "up.log.1"}
    (again.path / "logs" / "a.b.log").write_text("second")
    again.leave()
    assert again.acquire()
    assert (again.path / "logs" / "a.b.log.1").read_text() == "second", "one previous log, not more"
    again.release()
    assert not again.path.exists()


def test_a_state_of_another_version_is_none() -> None:
    folder = Folder("bookinfo")
    folder.acquire()
    (folder.path / "state.json").write_text("{}")
    assert folder.read() is None
    folder.release()


def test_folders_are_closed_but_can_be_passed_through() -> None:
    folder = Folder("bookinfo")
    folder.acquire()
    folder.write(mesh())
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder.path, *folder.path.iterdir())}
    assert modes == {"bookinfo": 0o711, "logs": 0o700, "files": 0o700, "feed": 0o711, "state.json": 0o600}
    folder.release()


def test_the_only_mesh_needs_no_name() -> None:
    with pytest.raises(Unreachable, match="no mesh is up"):
        states.running(None)
    one, two = Folder("one"), Folder("two")
    one.acquire()
    one.write(mesh())
    assert states.running(None)[0].mesh == "one"
    two.acquire()
    two.write(mesh())
    with pytest.raises(UsageError, match="several meshes are up: one, two"):
        states.running(None)
    assert states.running("two")[0].mesh == "two"
    one.release()
    two.release()


def test_instances_are_found_by_the_names_people_use() -> None:
    known = mesh(instance("web-0", "web"), instance("web-1", "web"), instance("db", "db"), instance("db", "db", "shop"))
    assert states.instance_named(known, "web-1").name == "web-1"
    assert states.instance_named(known, "shop/db").namespace == "shop"
    for ambiguous in ("db", "web", "default/web"):
        with pytest.raises(UsageError, match="several workloads"):
            states.instance_named(known, ambiguous)
    with pytest.raises(UsageError, match="no workload is named nothing"):
        states.instance_named(known, "nothing")
    assert states.instance_named(mesh(instance("web-0", "web")), "web").name == "web-0"


def test_tables_are_aligned_and_dashes_stand_for_nothing() -> None:
    rows: list[dict[str, object]] = [
        {"workload": "default/a", "pid": 1, "exit_code": None, "ready": True},
        {"workload": "b", "pid": 22, "exit_code": 0, "ready": False},
    ]
    assert table(rows).splitlines() == [
        "WORKLOAD   PID  EXIT CODE  READY",
        "default/a  1    -          yes",
        "b          22   0          no",
    ]


@pytest.mark.parametrize("name", ["..", ".", "", "../state", "/etc", "a/b", "a\n", "A", "x" * 41])
def test_cf_17_a_mesh_name_is_never_a_way_to_another_folder(name: str) -> None:
    """Below the folder of a mesh everything is removed when it ends."""
    with pytest.raises(UsageError, match="no mesh is named"):
        Folder(name)


def test_what_no_mesh_has_made_is_neither_listed_nor_removed_nor_adopted(capsys: pytest.CaptureFixture[str]) -> None:
    root = homes.state_root(os.environ)
    kept = root / "letters" / "to-nobody"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    (root / "letters.lock").write_text("[[package]]")  # as package managers write beside their folders
    assert list(states.folders()) == []
    down.run(Namespace(mesh=None, file=None))
    down.run(Namespace(mesh="letters", file=None))
    assert capsys.readouterr().out == "no mesh is up\nmesh letters is not up\n"
    with pytest.raises(Refused, match="was not made by a mesh"):
        Folder("letters").acquire()
    assert kept.read_text() == "kept"
    assert {path.name for path in root.iterdir()} == {"letters", "letters.lock"}


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_state_folder_in_which_others_may_write_is_refused(mode: int) -> None:
    """They would put an authority of theirs there, which a mesh adopts, or a state that says whom `down` ends."""
    root = homes.state_root(os.environ)
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(MeshdpError, match="nobody else may write"):
        Folder("bookinfo")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's folder")
def test_a_state_folder_of_another_user_is_refused() -> None:
    folder = Folder("bookinfo")
    folder.path.mkdir(parents=True)
    os.chown(folder.path.parent, 65534, 65534)
    for act in (folder.acquire, lambda: Folder("bookinfo"), lambda: states.running("bookinfo")):
        with pytest.raises(MeshdpError, match="must be a folder that belongs to user 0"):
            act()


def test_a_misspelt_mesh_is_answered_with_those_that_are_up(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Folder("bookinfo")
    folder.acquire()
    assert down.run(Namespace(mesh="bokinfo", file=None)) == 0
    assert capsys.readouterr().out == "mesh bokinfo is not up; these are: bookinfo\n"
    assert folder.held
    folder.release()


def test_a_state_folder_that_cannot_be_used_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere but below a file or /proc: the same errors as an ordinary user's elsewhere."""
    for place in (Path(__file__), Path("/proc/meshdp")):
        monkeypatch.setenv("MESHDP_STATE_DIR", str(place / "state"))
        folder = Folder("bookinfo")
        assert not folder.held
        with pytest.raises(MeshdpError, match=f"cannot be kept in {place}") as refused:
            folder.acquire()
        assert "MESHDP_STATE_DIR" in (refused.value.hint or "")
