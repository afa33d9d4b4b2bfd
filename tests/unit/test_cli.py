"""The command line as its users meet it: help, versions, mistakes, exit codes, and how fast it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshdp import __version__, cli

FORBIDDEN_IN_A_FED_SIDECAR = tuple(
    "argparse typing dataclasses re yaml msgspec asyncio logging ssl cryptography subprocess meshdp.compiler".split()
)


def run(*words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "meshdp", *words], capture_output=True, text=True, check=False)
    assert done.returncode == expect, done
    return done


def test_help_names_every_verb_and_every_exit_code() -> None:
    said = run("--help").stdout
    for verb in cli.VERBS:
        assert f"\n  {verb} " in said
    assert "exit codes: 0 fine, 1 findings or refused, 2 usage, 3 unreachable" in said


def test_version() -> None:
    assert run("--version").stdout == f"meshdp {__version__}\n"


def test_no_verb_is_a_usage_error_that_shows_the_way() -> None:
    assert "verbs:" in run(expect=2).stdout


@pytest.mark.parametrize(("typed", "meant"), [("chekc", "check"), ("sidcar", "sidecar"), ("log", "logs")])
def test_unknown_verb_suggests_the_nearest(typed: str, meant: str) -> None:
    done = run(typed, expect=2)
    assert f"there is no verb `{typed}`. Did you mean `{meant}`?" in done.stderr
    assert done.stdout == ""


def test_unknown_option_is_one_line_with_the_way_out() -> None:
    said = run("check", "--nonsense", "x", expect=2).stderr
    assert said == "meshdp check: unrecognized arguments: --nonsense. `meshdp check --help` explains.\n"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_has_examples(verb: str) -> None:
    said = run(verb, "--help").stdout
    assert "examples:" in said
    assert "--no-color" in said


def test_help_is_quick() -> None:
    """It costs little more than an interpreter that parses arguments: processor time, which a busy machine does not change."""

    def once(*words: str) -> float:
        to_nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        pid = os.posix_spawn(sys.executable, [sys.executable, *words], os.environ, file_actions=to_nowhere)
        _, status, used = os.wait4(pid, 0)
        assert status == 0
        return used.ru_utime + used.ru_stime

    bare = min(once("-c", "import argparse") for _ in range(5))
    assert min(once("-m", "meshdp", "--help") for _ in range(5)) < 2.5 * bare


def test_broken_pipe_is_no_error() -> None:
    line = f"{sys.executable} -m meshdp --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_fed_sidecar_imports_little() -> None:
    program = (
        "import sys\n"
        "from meshdp import cli\n"
        "code = cli.main(['sidecar', '--workload', 'a/b', '--feed', '/nowhere', '--outbound', 'wrong'])\n"
        "print(code, *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    code, *modules = done.stdout.split()
    assert code == "2"
    assert not [name for name in FORBIDDEN_IN_A_FED_SIDECAR if name in modules]


def test_a_sidecar_that_compiles_for_itself_imports_no_more_than_it_uses(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from meshdp.supervise import supervisor\n"
        "supervisor.import_compiler()\n"
        "from meshdp.sources.files import FileSource\n"
        "from pathlib import Path\n"
        f"loaded = FileSource([Path({str(tmp_path)!r})]).load()\n"
        "assert not loaded.findings, loaded.findings\n"
        "print(*(name for name, module in sys.modules.items() if module is not None))\n"
    )
    (tmp_path / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: b}\nspec: {}\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "meshdp.supervise.reload" in modules
    assert not {"typing_extensions", "difflib", "hashlib", "asyncio", "logging"} & set(modules)


@pytest.mark.parametrize("words", [("--concurrency", "many"), ("--concurrency=many",)])
def test_both_ways_of_reading_a_sidecars_flags_refuse_alike(words: tuple[str, ...]) -> None:
    said = run("sidecar", "--workload", "a/b", "--feed", "x", *words, expect=2).stderr
    assert said == "meshdp sidecar: --concurrency many: expected a number\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("up", "--drain-s", "-1"), "argument --drain-s: expected 0 to 86400 seconds, found '-1'"),
        (("up", "--drain-s", "nan"), "argument --drain-s: expected 0 to 86400 seconds, found 'nan'"),
        (("up", "--timeout", "inf"), "argument --timeout: expected 0 to 86400 seconds, found 'inf'"),
        (("certs", "rotate", "--settle", "soon"), "argument --settle: expected 0 to 86400 seconds, found 'soon'"),
        (("demo", "--also", "/nowhere"), "--also /nowhere: expected a folder of policies"),
        (("demo", "--report", "/proc/nowhere/x"), "--report /proc/nowhere/x: No such file or directory"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_before_anything_starts(words: tuple[str, ...], problem: str) -> None:
    done = run(*words, expect=2)
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
