"""A LocalMesh file: what it becomes, and how its mistakes are named."""

from pathlib import Path

import pytest

from meshdp.errors import Refused, UsageError
from meshdp.local.mesh_file import InstanceKey, load

GOOD = """\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {name: bookinfo}
spec:
  resources: [services.yaml, policies/]
  workloads:
  - name: details-v1
    serviceAccount: bookinfo-details
    labels: {app: details, version: v1}
    command: [python3, details.py, "9080"]
    workingDir: src
    env: {PYTHONUNBUFFERED: "1"}
  - name: web
    namespace: other
    command: [web]
    replicas: 2
    sidecar: false
"""


def write(folder: Path, text: str) -> Path:
    (folder / "src").mkdir()
    (folder / "policies").mkdir()
    (folder / "services.yaml").write_text("")
    path = folder / "mesh.yaml"
    path.write_text(text)
    return path


def test_instances_have_defaults_absolute_paths_and_numbers(tmp_path: Path) -> None:
    mesh = load(write(tmp_path, GOOD))
    assert mesh.name == "bookinfo"
    assert mesh.resources == (tmp_path / "services.yaml", tmp_path / "policies")
    assert [str(each.key) for each in mesh.instances] == ["default/details-v1", "other/web-0", "other/web-1"]
    details, web, _ = mesh.instances
    assert details.key == InstanceKey("default", "details-v1")
    assert details.working_dir == tmp_path / "src"
    assert details.command == ("python3", "details.py", "9080")
    assert details.env == {"PYTHONUNBUFFERED": "1"}
    assert details.sidecar
    assert (web.workload, web.service_account, web.sidecar) == ("web", "default", False)


@pytest.mark.parametrize(
    ("change", "place", "said"),
    [
        (("command:", "comand:"), ":10: error MDP0201: LocalMesh bookinfo spec.workloads[0].comand", "'command'"),
        (
            ("replicas: 2", 'replicas: "2"'),
            ":16: error MDP0202: LocalMesh bookinfo spec.workloads[1].replicas",
            "integer",
        ),
        (("replicas: 2", "replicas: -1"), ":16: error MDP0204", "0 or more"),
        (("workingDir: src", "workingDir: nowhere"), ":11: error MDP0204", "not a folder"),
        (("policies/", "missing/"), ":5: error MDP0204: LocalMesh bookinfo spec.resources[1]", "does not exist"),
        (("name: web", "name: We_b"), ":13: error MDP0205", "DNS label"),
        (("[web]", "[]"), ":15: error MDP0203", "expected a program"),
        (("name: web\n    namespace: other", "name: details-v1"), ":6: error MDP0206", ""),
        (("{name: bookinfo}", "{name: Book info}"), ":3: error MDP0205", "lower-case"),
        (("kind: LocalMesh", "kind: LocalMess"), ":1: error MDP0207", "expected meshdp.io/v1alpha1 LocalMesh"),
        (("spec:", "spec: ["), ": error MDP0101", ""),
    ],
)
def test_mistakes_name_line_and_field(tmp_path: Path, change: tuple[str, str], place: str, said: str) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    if "MDP0206" in place:
        text = text.replace("replicas: 2\n", "replicas: 1\n")
    path = write(tmp_path, text)
    with pytest.raises(Refused) as refused:
        load(path)
    assert f"{path}" in refused.value.message
    assert place in refused.value.message
    assert said in refused.value.message


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("replicas: 2", "replicas: two").replace("command:", "comand:", 1))
    with pytest.raises(Refused) as refused:
        load(path)
    assert len(refused.value.message.splitlines()) == 3


def test_a_second_document_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "---\n" + GOOD)
    with pytest.raises(Refused, match="expected one document"):
        load(path)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "none.yaml")
