"""Every command that a page shows is a command that exists; those that need no root and change nothing are run."""

import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

import pytest

from meshdp import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/sidecar.md", "docs/certificates.md", "docs/check.md", "docs/authz.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Shown, parsed, and not run here, each with its reason.
NOT_RUN = {
    "up": "needs root and stays in the foreground; tests/e2e runs it",
    "ps": "needs a mesh; tests/e2e runs it",
    "proxy-status": "needs a mesh; tests/e2e runs it",
    "proxy-config": "needs a mesh; tests/e2e runs it",
    "exec": "needs a mesh; tests/e2e runs it",
    "logs": "needs a mesh; tests/e2e runs it",
    "certs": "needs a mesh; tests/attack runs it",
    "down": "needs a mesh; tests/e2e runs it",
    "demo": "needs a moment; tests/e2e runs it",
    "sidecar": "stays until a signal; tests/boundary runs it",
}
# A page may show a folder of the reader's; the test has its own.
STANDS_FOR = {"policies/": "configs/examples/policies/"}


def shown() -> list[str]:
    """Every line of every shell block, without its comment."""
    lines = [
        line for page in PAGES for block in BLOCK.findall((ROOT / page).read_text()) for line in block.splitlines()
    ]
    return [bare for line in lines if (bare := line.partition(" #")[0].strip())]


def test_pages_show_commands() -> None:
    assert len(shown()) > 8


@pytest.mark.parametrize("line", shown())
def test_a_shown_command_exists_and_runs(line: str) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert program == "meshdp"
    assert words[0] in cli.VERBS
    if words[0] in NOT_RUN and "--help" not in words:
        parse(*words)
        return
    command = [sys.executable, "-m", "meshdp", *(STANDS_FOR.get(word, word) for word in words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


def parse(verb: str, *words: str) -> None:
    """Let the verb's own parser accept the line; SystemExit means that it does not."""
    parser = ArgumentParser()
    import_module(f"meshdp.commands.{verb.replace('-', '_')}").configure(parser)
    parser.parse_args(words)


def test_the_local_mesh_of_the_readme_is_the_documented_kind(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "mesh.yaml").write_text(blocks[0])
    for folder in ("policies", "src"):
        (tmp_path / folder).mkdir()
    (tmp_path / "services.yaml").write_text("# what the mesh names must be there\n")
    command = [sys.executable, "-m", "meshdp", "check", "--strict", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []
