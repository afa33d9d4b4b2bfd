"""PEP 517 backend: builds the static `meshdp-init` into the package, then lets maturin build the wheel around it.

In:     the calls pip makes.
Out:    a wheel with `meshdp/_native.abi3.so` and `meshdp/bin/meshdp-init`, or an sdist.
Fails:  with cargo's own message when the Rust toolchain is missing or refuses.
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import maturin
from maturin import (  # PEP 517 hooks that need nothing of ours
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parent.parent


def build_wheel(wheel_directory: str, config_settings: object = None, metadata_directory: str | None = None) -> str:
    """Build the init program, then the wheel."""
    build_init()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory: str, config_settings: object = None, metadata_directory: str | None = None) -> str:
    """Build the init program, then the editable wheel."""
    build_init()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: object = None) -> str:
    """Pack every file that git knows: maturin's own sdist leaves out crates that the extension does not need."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare_metadata_for_build_wheel(scratch)
        metadata = Path(scratch, folder, "METADATA")
        name = folder.removesuffix(".dist-info")
        with tarfile.open(Path(sdist_directory, f"{name}.tar.gz"), "w:gz", format=tarfile.PAX_FORMAT) as archive:
            archive.add(metadata, f"{name}/PKG-INFO", filter=_anonymous)
            for path in sorted(filter(None, listed.split("\0"))):
                archive.add(ROOT / path, f"{name}/{path}", filter=_anonymous)
    return f"{name}.tar.gz"


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same archive on every machine: no owner, no clock."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def build_init() -> Path:
    """Build `meshdp-init` without any shared library, so that it runs in whatever image it lands in."""
    triple = host_triple()
    environment = os.environ | {"RUSTFLAGS": "-C target-feature=+crt-static"}
    command = ["cargo", "build", "--locked", "--package", "meshdp-init", "--release", "--target", triple]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    installed = ROOT / "src" / "meshdp" / "bin" / "meshdp-init"
    installed.parent.mkdir(exist_ok=True)
    fresh = installed.with_suffix(".new")
    shutil.copy2(target / triple / "release" / "meshdp-init", fresh)
    fresh.chmod(0o755)
    fresh.replace(installed)  # atomic: a running copy keeps its file
    return installed


def host_triple() -> str:
    """Name of the machine we build on, as rustc says it; naming it keeps RUSTFLAGS away from build scripts."""
    said = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    return next(line.removeprefix("host: ") for line in said.splitlines() if line.startswith("host: "))


if __name__ == "__main__":
    print(build_init().relative_to(ROOT))
