"""The guided walk: starts Bookinfo, plays every act, shows the evidence, writes the report, takes everything away.

In:      what `meshdp demo` was told. Out: text for people, JSON for programs, whether all acts held.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meshdp.demo import acts, acts_life, acts_policy
from meshdp.demo.acts import Claim
from meshdp.demo.stage import Stage
from meshdp.errors import MeshdpError
from meshdp.local.report import Palette
from meshdp.local.state import Folder

Play = Callable[[Stage], Iterator[Claim]]


@dataclass(frozen=True, slots=True)
class Act:
    """One act of the walk."""

    name: str
    title: str
    play: Play


@dataclass(frozen=True, slots=True)
class Played:
    """How an act went."""

    act: Act
    claims: list[Claim]
    seconds: float

    @property
    def ok(self) -> bool:
        return bool(self.claims) and all(claim.ok for claim in self.claims)

    def as_dict(self) -> dict[str, object]:
        """The act's part of the report."""
        evidence = [{"claim": claim.text, "ok": claim.ok, "seen": claim.seen} for claim in self.claims]
        return {"name": self.act.name, "ok": self.ok, "evidence": evidence}


ACTS = (
    Act("interception", "a. Interception", acts.interception),
    Act("plaintext", "b. Mutual TLS disabled", acts.plaintext),
    Act("mutual-tls", "c. Mutual TLS, permissive", acts.mutual_tls),
    Act("strict", "d. Mutual TLS, strict", acts.strict),
    Act("deny-all", "e. Deny all", acts_policy.deny_all),
    Act("details-viewer", "f. Least privilege for details", acts_policy.details_viewer),
    Act("product-page", "g. The page", acts_policy.product_page),
    Act("change", "h. Change under load", acts_life.change),
    Act("killed", "i. A sidecar is killed", acts_life.killed),
    Act("cost", "j. What it costs", acts_life.cost),
)


def prepare(extra: Path | None) -> Path:
    """Copies Bookinfo to where its policies may be written; `extra` policies come on top."""
    files = Path(tempfile.mkdtemp(prefix="meshdp-demo-"))
    files.chmod(0o755)
    shutil.copytree(Path(__file__).parent / "bookinfo", files, dirs_exist_ok=True, ignore=_NOT_COPIED)
    shutil.copytree(Path(__file__).parent / "steps", files / "steps", ignore=_NOT_COPIED)
    if extra is not None:
        shutil.copytree(extra, files / "policies", dirs_exist_ok=True)
    return files


def start(files: Path, palette: Palette) -> None:
    """Runs `meshdp up`, as a person would.

    Raises:
        MeshdpError: it did not come up.
    """
    command = [sys.executable, "-P", "-m", "meshdp", "up", "-f", str(files / "mesh.yaml"), "--detach"]
    print(palette.strong("$ meshdp up -f mesh.yaml --detach"), flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        raise MeshdpError("Bookinfo did not come up", "what is missing stands above")


def stop(mesh: str) -> None:
    """Runs `meshdp down`."""
    subprocess.run([sys.executable, "-P", "-m", "meshdp", "down", "--mesh", mesh], check=False)


def play(files: Path, mesh: str, palette: Palette) -> list[Played]:
    """Plays every act in order; one that fails does not end the walk."""
    stage = Stage(Folder(mesh), files)
    return [_play(act, stage, palette) for act in ACTS]


def write_report(path: Path, played: list[Played]) -> None:
    """The report for programs."""
    path.write_text(json.dumps({"acts": [each.as_dict() for each in played]}, indent=2) + "\n")


def _play(act: Act, stage: Stage, palette: Palette) -> Played:
    print(f"\n{palette.strong(act.title)}  {palette.faint(act.play.__doc__ or '')}", flush=True)
    began = time.monotonic()
    claims: list[Claim] = []
    try:
        for claim in act.play(stage):
            claims.append(claim)
            _show(claim, palette)
    except MeshdpError as error:
        claims.append(Claim("the act could be played to its end", ok=False, seen=error.message))
        _show(claims[-1], palette)
    return Played(act, claims, time.monotonic() - began)


def _show(claim: Claim, palette: Palette) -> None:
    mark = palette.good("✓") if claim.ok else palette.bad("✗")
    print(f"  {mark} {claim.text}")
    for line in claim.seen.splitlines():
        print(f"      {palette.faint(line)}", flush=True)


_NOT_COPIED = shutil.ignore_patterns("__pycache__")
