"""The package describes itself once: versions agree, every dependency has a reason and a pin at or above its floor."""

import re
import tomllib
from pathlib import Path

import meshdp

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)
PIN_FILES = ("requirements.txt", "bench/requirements.txt", "tests/interop/requirements.txt")
PINNED = "".join((ROOT / name).read_text() for name in PIN_FILES)
PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", PINNED, re.MULTILINE))


def floors() -> dict[str, str]:
    declared = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared += extra
    found = [re.match(r"([\w.-]+)(?:>=([\d.]+))?", requirement) for requirement in declared]
    return {match[1]: match[2] or "0" for match in found if match}


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_versions_agree() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert PROJECT["project"]["version"] == meshdp.__version__ == cargo["workspace"]["package"]["version"]


def test_every_dependency_is_pinned_at_or_above_its_floor() -> None:
    assert {name: floor for name, floor in floors().items() if numbers(PINS[name]) < numbers(floor)} == {}


def test_every_dependency_says_why() -> None:
    lines = re.findall(r'^    "[\w.-]+(?:>=[\d.]+)?",(.*)$', PYPROJECT.partition("[project.scripts]")[0], re.MULTILINE)
    assert len(lines) >= len(PROJECT["project"]["dependencies"])
    assert [line for line in lines if not re.search(r"# \S+ \S+", line)] == []


def test_the_wheel_carries_the_init_program() -> None:
    included = [row["path"] for row in PROJECT["tool"]["maturin"]["include"]]
    assert "src/meshdp/bin/meshdp-init" in included
    assert PROJECT["build-system"]["backend-path"] == ["build_backend"]
