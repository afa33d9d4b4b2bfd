"""`meshdp check`: what it prints, for people and for programs, and how it exits."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent / "check"
ROOT = Path(__file__).resolve().parents[2]


def check(*words: str, expect: int, cwd: Path = HERE) -> str:
    command = [sys.executable, "-m", "meshdp", "check", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done
    return done.stdout if expect != 2 else done.stderr


def test_findings_are_printed_with_place_object_field_and_cure() -> None:
    assert check("broken.yaml", expect=1) == (HERE / "broken.txt").read_text()


def test_programs_get_the_same_facts() -> None:
    answer = json.loads(check("broken.yaml", "-o", "json", expect=1))
    assert list(answer) == ["findings", "resources", "workloads", "passed_over"]
    assert list(answer["findings"][0]) == [
        "code",
        "severity",
        "title",
        "file",
        "line",
        "object",
        "path",
        "message",
        "hint",
    ]
    assert yaml.safe_load(check("broken.yaml", "-o", "yaml", expect=1)) == answer
    lines = (HERE / "broken.txt").read_text().splitlines()
    shown = [f"{found['file']}:{found['line']}: {found['severity']} {found['code']}" for found in answer["findings"]]
    assert [line.rpartition(shown[index])[0] for index, line in enumerate(lines[:-1:2])] == [""] * len(shown)


def test_warnings_count_when_asked_to(tmp_path: Path) -> None:
    (tmp_path / "later.yaml").write_text(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [web]}\n"
    )
    check("later.yaml", expect=0, cwd=tmp_path)
    check("later.yaml", "--strict", expect=1, cwd=tmp_path)


def test_a_path_that_is_not_there_is_a_usage_error() -> None:
    assert check("nowhere", "broken.yaml", expect=2) == "meshdp check: no such file or directory: nowhere\n"


def test_an_empty_directory_is_fine_and_says_so(tmp_path: Path) -> None:
    assert check(".", expect=0, cwd=tmp_path) == "0 resources, 0 workloads, 0 errors, 0 warnings\n"


def test_examples_have_no_findings() -> None:
    said = check("configs/examples/", "--strict", expect=0, cwd=ROOT)
    assert said.endswith("0 errors, 0 warnings, 1 document of other kinds passed over\n")


def test_the_file_of_a_mesh_is_checked_as_up_would(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    head = "apiVersion: meshdp.io/v1alpha1\nkind: LocalMesh\nmetadata: {name: shop}\nspec:\n"
    file.write_text(head + "  workloads: [{name: web, command: [web], replica: 2}]\n")
    assert "unknown field 'replica': did you mean 'replicas'?" in check(str(tmp_path), expect=1)
    file.write_text(head + "  workloads: [{name: web, command: [web]}]\n  resources: [nowhere.yaml]\n")
    assert "'nowhere.yaml' does not exist beside this file" in check("mesh.yaml", expect=1, cwd=tmp_path)
    file.write_text(head + "  workloads: [{name: web, command: [web]}]\n")
    assert "0 errors" in check("mesh.yaml", expect=0, cwd=tmp_path)
