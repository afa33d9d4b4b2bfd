"""docs/laptop.md, command by command, as root and as an ordinary user; and the README's own mesh.

Fails:   a command that does not exist, does not end as the page says, or prints something else within `PATIENCE_S`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ordinary import ALL_RIGHTS, acting, folder_for
from tests.support.page import Run, Save, matches, steps

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0  # policies are in force a moment after they are saved
ONCE = ("meshdp up", "meshdp down", "mkdir", "echo")


@pytest.mark.parametrize("mode", ALL_RIGHTS)
def test_every_command_of_the_laptop_page(mode: str) -> None:
    with folder_for(mode) as folder:
        reader = Reader(folder, acting(mode, folder))
        try:
            ran = [reader.do(step) for step in steps(ROOT / "docs" / "laptop.md")]
        finally:
            reader.run("meshdp down --mesh laptop")
        assert len(ran) > 20


DETAILS = """\
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"details " + self.path.encode())
http.server.HTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"""
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: details}
spec: {selector: {app: details}, ports: [{name: http, port: 9080}]}
"""
STANDS_FOR = {"meshdp up -f mesh.yaml": "meshdp up -f mesh.yaml --detach"}  # a test does not press Ctrl-C


def test_every_command_of_the_readme() -> None:
    """Its mesh with a service that the reader has."""
    with folder_for("root") as folder:
        reader = Reader(folder, acting("root", folder))
        for name in ("src", "policies"):
            (folder / name).mkdir()
        for name, text in (
            ("src/details.py", DETAILS),
            ("services.yaml", SERVICES),
            ("policies/none.yaml", "# none\n"),
        ):
            (folder / name).write_text(text)
        found = list(steps(ROOT / "README.md"))
        for step in found:
            if isinstance(step, Save):
                reader.do(step)
        try:
            shown = [step for step in found if isinstance(step, Run) and step.command.startswith("meshdp ")]
            for each in sorted(shown, key=lambda step: step.command == "meshdp down"):
                command = STANDS_FOR.get(each.command, each.command)
                reader.do(Run(command, each.codes, "details /details/0" if "curl" in command else None))
        finally:
            reader.run("meshdp down --mesh bookinfo")
        assert len(shown) >= 7


class Reader:
    """Somebody who does what the page says, in a folder of their own."""

    def __init__(self, folder: Path, acting_as: list[str]) -> None:
        self._folder = folder
        self._acting_as = acting_as
        programs = folder / "bin"
        programs.mkdir()
        (programs / "meshdp").write_text(f'#!/bin/sh\nexec {sys.executable} -m meshdp "$@"\n')
        (programs / "meshdp").chmod(0o755)
        self._env = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "MESHDP_STATE_DIR": str(folder / "s"),
            "NO_COLOR": "1",
        }

    def do(self, step: Save | Run) -> None:
        """One step; what depends on the configuration is asked again until it is in force."""
        if isinstance(step, Save):
            (self._folder / step.name).write_text(step.text)
            return
        until = time.monotonic() + PATIENCE_S
        while True:
            done = self.run(step.command)
            is_right = done.returncode in step.codes and (step.shown is None or matches(step.shown, done.stdout))
            if is_right:
                return
            again = time.monotonic() < until and not step.command.startswith(ONCE)
            assert again, (step, done.returncode, done.stdout, done.stderr)
            time.sleep(0.1)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """As a shell would."""
        words = [*self._acting_as, "bash", "-c", command]
        return subprocess.run(
            words, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=180, check=False
        )


def test_the_reader_of_pages_sees_what_is_wrong() -> None:
    assert matches("A …\n…\nend", "A  b\nx\ny\nend\n")
    assert matches("A …\n…\nend", "A b\nend\n")
    assert not matches("A …\nend", "A b\nx\nend\n")
    assert not matches("yes", "no\n")
    assert not matches("…\nyes", "yes\nno\n")
